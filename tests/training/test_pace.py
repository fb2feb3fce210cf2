"""Pauses between what is written beside the steps: as long as the work tells, none once hurried."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.training.arrays import read_arrays, write_arrays
from jaxgpt.training.pace import Pace, current_pace


@pytest.mark.parametrize(("worked", "paused"), [(0.0, 0.0), (0.1, 0.3), (100.0, 1.0)])
def test_a_pause_is_three_times_the_work_and_at_most_a_second(worked, paused, monkeypatch):
    now, slept = 0.0, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for seconds in Pace().pause(worked):
        now += seconds
        slept += seconds
    assert slept == pytest.approx(paused)


def test_a_pause_ends_once_it_is_waited_for():
    pace = Pace()
    pauses = pace.pause(100.0)
    assert next(pauses) > 0
    with pace.hurried():
        assert list(pauses) == []
    assert list(pace.pause(100.0)) == []


def test_arrays_are_written_one_by_one_with_a_pause_after_each(tmp_path):
    written = []

    class Counted(Pace):
        def pause(self, worked):
            written.append(worked)
            yield 0.001

    tree = {
        "a": jnp.arange(6.0).reshape(2, 3),
        "b": {"c": jnp.ones(4, jnp.bfloat16), "d": jnp.int32(7)},
    }
    with Counted().kept():
        write_arrays(tmp_path / "paced", tree)
    write_arrays(tmp_path / "plain", tree)
    assert len(written) == 3
    for name in ("paced", "plain"):
        found = read_arrays(tmp_path / name, tree)
        jax.tree.map(np.testing.assert_array_equal, found, tree)


def test_a_pace_is_kept_by_its_thread_alone():
    found = []
    with Pace().kept():
        thread = threading.Thread(target=lambda: found.append(current_pace()))
        thread.start()
        thread.join()
    assert found == [None]
