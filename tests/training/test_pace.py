"""Pauses between what is written beside the steps: as long as the work tells, none once hurried."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import ResourceError
from jaxgpt.training import arrays
from jaxgpt.training.arrays import read_arrays, write_arrays
from jaxgpt.training.pace import Pace, current_pace


@pytest.fixture(autouse=True)
def pool_of_other_tests():
    """A pause slows the threads that read and write arrays, until something is waited for."""
    yield
    Pace().hurry()


@pytest.mark.parametrize(("worked", "paused"), [(0.0, 0.0), (0.1, 0.3), (100.0, 1.0)])
def test_a_pause_is_three_times_the_work_and_at_most_a_second(worked, paused, monkeypatch):
    now, slept = 0.0, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for seconds in Pace().pause(worked):
        now += seconds
        slept += seconds
    assert slept == pytest.approx(paused)


def test_pauses_end_half_way_to_the_next_writing(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace(gap=1.0)
    now = 0.3
    for seconds in pace.pause(100.0):
        now += seconds
    assert now == pytest.approx(0.5)
    assert list(pace.pause(100.0)) == []


def test_a_pause_ends_once_it_is_waited_for():
    pace = Pace()
    pauses = pace.pause(100.0)
    assert next(pauses) > 0
    pace.hurry()
    assert list(pauses) == []
    assert list(pace.pause(100.0)) == []


class Counted(Pace):
    """A pace that notes how many files there are at each of its short pauses."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.files = folder, []

    def pause(self, worked):
        self.files.append(sum(1 for path in self.folder.rglob("d/*")))
        yield 0.001


def make_tree():
    return {
        "a": jnp.arange(6.0).reshape(2, 3),
        "b": {"c": jnp.ones(4, jnp.bfloat16), "d": jnp.int32(7)},
    }


def test_arrays_are_written_one_by_one_with_a_pause_after_each(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_FELT", 1)
    pace, tree = Counted(tmp_path), make_tree()
    with pace.kept():
        write_arrays(tmp_path / "paced", tree)
    assert len(pace.files) == 3
    assert 0 < pace.files[0] < pace.files[1] < pace.files[2]
    write_arrays(tmp_path / "plain", tree)
    for name in ("paced", "plain"):
        found = read_arrays(tmp_path / name, tree)
        jax.tree.map(np.testing.assert_array_equal, found, tree)


def test_little_is_written_at_once(tmp_path):
    pace = Counted(tmp_path)
    with pace.kept():
        write_arrays(tmp_path / "plain", make_tree())
    assert pace.files == []


def test_a_paced_write_that_fails_says_so(tmp_path, monkeypatch):
    class Full(Counted):
        def pause(self, worked):
            raise OSError("No space left on device")

    monkeypatch.setattr(arrays, "_FELT", 1)
    with Full(tmp_path).kept(), pytest.raises(ResourceError, match="could not be written"):
        write_arrays(tmp_path / "paced", make_tree())


def test_a_pace_is_kept_by_its_thread_alone():
    found = []
    with Pace().kept():
        thread = threading.Thread(target=lambda: found.append(current_pace()))
        thread.start()
        thread.join()
    assert found == [None]
