"""Checkpoints that are written beside the steps, of a copy of the state, by a thread."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.hosts.group import this_group
from jaxgpt.training.memory import free_memory
from jaxgpt.training.pace import Pace
from jaxgpt.training.step import TrainState

_COPIES = 1.5  # of the state that must find room: the copy, and what is written of it at a time
_PLENTY = 3.0  # states that must find room where a copy's memory is kept for the next
_LARGE = 1 << 26  # bytes of a state, from which on new memory takes time that is felt


class Background:
    """Calls `save` on a copy of a state in a thread, if `wanted` and where there is memory for it.

    A step gives up the state that it is given, so what is written must be another. The next call,
    and the end of the context, wait for the one before; what that raised is its future's. On a CPU
    that has plenty of memory, a large copy's is kept for the next: the system gives new memory page
    by page, for which a step would wait.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._wanted = wanted
        self._writing: tuple[threading.Thread, Pace] | None = None
        self._begun = float("-inf")  # when the last writing did, by the monotonic clock
        self._spare: TrainState | None = None

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After a failure of several processes, the thread may wait for one that is gone.
        if kind is None or this_group().count == 1:
            self._join()
        self._spare = None

    def prepare(self, state: TrainState) -> None:
        """Take the memory of the first copy, where it will be kept."""
        if self._wanted and _is_kept(state):
            self._spare = _copy(state)

    def __call__(self, save: Callable[[TrainState], Any], state: TrainState) -> Future[Any] | None:
        """The future of `save(copy)`; None where that has been done, without a copy, at once."""
        self._join()
        spare, self._spare = self._spare, None
        copies = _COPIES - (spare is not None)
        if not self._wanted or free_memory() < copies * _own_bytes(state):
            del spare
            save(state)
            return None
        copied = _copy(state) if spare is None else _copy_into(spare, state)
        now = time.monotonic()
        pace, self._begun = Pace(now - self._begun), now
        future = _Future(pace)

        def work() -> None:
            try:
                pace.give_way()
                with pace.kept():
                    future.set_result(save(copied))
            except BaseException as error:
                future.set_exception(error)
            if _is_kept(copied):
                self._spare = copied

        thread = threading.Thread(target=work, name="jaxgpt-save", daemon=this_group().count > 1)
        thread.start()
        self._writing = thread, pace
        return future

    def _join(self) -> None:
        if self._writing is not None:
            thread, pace = self._writing
            pace.hurry()
            thread.join()
            self._writing = None


class _Future(Future[Any]):
    """A future of what gives way; who waits for it gives that its share of the processor back."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            self._pace.hurry()
        return super().result(timeout)


@jax.jit
def _copy(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)


@partial(jax.jit, donate_argnums=0, keep_unused=True)
def _copy_into(spare: TrainState, state: TrainState) -> TrainState:
    """The copy of `state`, in the memory of `spare`."""
    return _copy(state)


def _is_kept(copied: TrainState) -> bool:
    size = _own_bytes(copied)
    return jax.default_backend() == "cpu" and size >= _LARGE and free_memory() > _PLENTY * size


def _own_bytes(tree: Any) -> int:
    """What a tree takes of the memory that `free_memory` is of."""
    shards = (shard.data for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards)
    # A CPU's devices share its memory.
    devices = 1 if jax.default_backend() == "cpu" else jax.local_device_count()
    return sum(shard.nbytes for shard in shards) // devices
