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
from jaxgpt.training.background import Background
from jaxgpt.training.pace import current_pace, may_hurry
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


can_hurry = pytest.mark.skipif(not may_hurry(), reason="no thread that gave way may hurry again")


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
def test_threads_that_outlive_a_save_give_way_in_the_next_one_too():
    helpers, end, found = [], threading.Event(), []

    def scheduled():
        return os.sched_getscheduler(helpers[0].native_id)

    def save(_):
        if not helpers:
            helpers.append(threading.Thread(target=end.wait))
            helpers[0].start()
            limit = time.monotonic() + 10
            while scheduled() == os.SCHED_IDLE and time.monotonic() < limit:
                time.sleep(0.01)  # until it is waited for
        found.append(scheduled())

    with Background() as background:
        background(save, make_state())
        future = background(save, make_state())
        assert isinstance(future, Future)
        while not future.done():
            time.sleep(0.01)
    found.append(scheduled())  # nobody has waited
    end.set()
    helpers[0].join()
    assert found == [os.SCHED_OTHER, os.SCHED_IDLE, os.SCHED_IDLE]


@pytest.mark.parametrize("large", [False, True])
def test_the_writing_of_a_large_state_pauses(large, monkeypatch):
    if large:
        monkeypatch.setattr(background_module, "_LARGE", 1)
    paces = []
    with Background() as background:
        background(lambda _: paces.append(current_pace()), make_state())
    assert [pace is not None for pace in paces] == [large]
    assert current_pace() is None


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
