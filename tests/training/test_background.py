"""Checkpoints written beside the steps: of the state as it was, one at a time, nothing lost."""

import os
import threading
import time
from concurrent.futures import Future

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import ResourceError
from jaxgpt.training import background as background_module
from jaxgpt.training import pace
from jaxgpt.training.arrays import write_arrays
from jaxgpt.training.background import Background
from jaxgpt.training.step import TrainState


def make_state(step=0):
    params = {"weight": jnp.arange(4.0)}
    return TrainState(jnp.int32(step), params, {"mean": jnp.ones(4)})


step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)


def test_what_is_written_is_the_state_as_it_was_and_the_step_does_not_wait():
    may_write, written = threading.Event(), []

    def save(state):
        may_write.wait(10)
        written.append(jax.device_get(state))

    state = make_state()
    with Background() as background:
        future = background(save, state)
        state = jax.block_until_ready(step(state))
        assert isinstance(future, Future)
        assert not written
        may_write.set()
    [found] = written
    assert found.step == 0
    np.testing.assert_array_equal(found.params["weight"], np.arange(4.0))
    np.testing.assert_array_equal(state.params["weight"], np.arange(4.0) + 1)


def test_the_next_waits_for_the_one_before():
    order, first = [], threading.Event()

    def save(state):
        if int(state.step) == 1:
            first.wait(10)
        order.append(int(state.step))

    with Background() as background:
        background(save, make_state(1))
        threading.Timer(0.05, first.set).start()
        background(save, make_state(2))
    assert order == [1, 2]


def test_a_failure_is_its_futures():
    def save(state):
        raise ResourceError("the disk is full")

    with Background() as background:
        future = background(save, make_state())
        with pytest.raises(ResourceError):
            future.result()


@pytest.mark.parametrize(("wanted", "free"), [(False, 10**12), (True, 10)])
def test_where_it_is_not_wanted_or_there_is_no_memory_it_is_written_at_once(
    wanted, free, monkeypatch
):
    monkeypatch.setattr(background_module, "free_memory", lambda: free)
    threads, state = [], make_state()
    with Background(wanted) as background:
        assert background(lambda state: threads.append(threading.current_thread()), state) is None
    assert threads == [threading.main_thread()]


can_hurry = pytest.mark.skipif(
    not pace.may_hurry(), reason="no thread that gave way may hurry again"
)


@can_hurry
@pytest.mark.parametrize("wait", [lambda _: None, lambda future: future.result()])
def test_it_gives_way_to_the_steps_until_it_is_waited_for(wait):
    found, begun = [], threading.Event()

    def scheduled():
        return os.sched_getscheduler(threading.get_native_id())

    def save(_):
        found.append(scheduled())
        begun.set()
        end = time.monotonic() + 10
        while scheduled() == os.SCHED_IDLE and time.monotonic() < end:
            time.sleep(0.01)
        found.append(scheduled())

    with Background() as background:
        future = background(save, make_state())
        begun.wait(10)
        wait(future)
    assert found == [os.SCHED_IDLE, os.SCHED_OTHER]


@can_hurry
def test_threads_that_write_and_outlive_a_save_give_way_in_the_next_one_too(tmp_path):
    tree = {"weight": jnp.ones(10)}

    def pool():
        return [os.sched_getscheduler(thread) for thread in pace._threads(pace._POOL)]

    def save(state):
        before = pool()
        write_arrays(tmp_path / str(state.step), tree)
        return before

    write_arrays(tmp_path / "foreground", tree)
    assert os.SCHED_OTHER in pool()
    with Background() as background:
        for number in range(2):
            future = background(save, make_state(number))
            assert isinstance(future, Future)
            while not future.done():  # nobody waits for it
                time.sleep(0.01)
            assert set(future.result()) == {os.SCHED_IDLE}


def test_one_that_is_waited_for_before_it_began_does_not_give_way():
    found = []
    late = pace.Pace()
    late.hurry()

    def work():
        late.give_way()
        found.append(os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else 0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]


def test_what_is_written_keeps_a_pace_that_half_the_time_to_the_next_ends(monkeypatch):
    gaps, paces = [], []

    class Noted(pace.Pace):
        def __init__(self, gap):
            gaps.append(gap)
            super().__init__(gap)

    monkeypatch.setattr(background_module, "Pace", Noted)
    with Background() as background:
        for number in range(2):
            background(lambda _: paces.append(pace.current_pace()), make_state(number))
            time.sleep(0.05)
    assert [type(it) for it in paces] == [Noted, Noted]
    assert gaps[0] == float("inf")
    assert 0.05 <= gaps[1] < 10
    assert pace.current_pace() is None


@pytest.mark.parametrize(("free", "kept"), [(10**12, True), (50, False)])
def test_a_large_copys_memory_is_kept_for_the_next_where_there_is_plenty(free, kept, monkeypatch):
    monkeypatch.setattr(background_module, "free_memory", lambda: free)
    monkeypatch.setattr(background_module, "_LARGE", 1)
    places, written = [], []

    def save(state):
        places.append([leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)])
        written.append(np.array(state.params["weight"]))  # a view would hold its memory

    state = make_state()
    with Background() as background:
        background.prepare(state)
        held = background._spare
        first = held and [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(held)]
        for _ in range(3):
            background(save, state)
            state = step(state)
    assert [place == first for place in places] == [kept] * 3
    np.testing.assert_array_equal(written, np.arange(4.0) + np.arange(3.0)[:, None])


def test_a_small_copys_memory_is_given_back():
    with Background() as background:
        background.prepare(make_state())
        background(lambda state: None, make_state())
        background._join()
        assert background._spare is None
