"""Checkpoints that are written beside the steps, of a copy of the state, by a thread."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.hosts.group import this_group
from jaxgpt.training.memory import free_memory
from jaxgpt.training.step import TrainState

_COPIES = 1.5  # of the state that must find room: the copy, and what is written of it at a time


class Background:
    """Calls `save` on a copy of a state in a thread, if `wanted` and where there is memory for it.

    A step gives up the state that it is given, so what is written must be another. The next call,
    and the end of the context, wait for the one before; what that raised is its future's.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._wanted = wanted
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After a failure of several processes, the thread may wait for one that is gone.
        if kind is None or this_group().count == 1:
            self._join()

    def __call__(self, save: Callable[[TrainState], Any], state: TrainState) -> Future[Any] | None:
        """The future of `save(copy)`; None where that has been done, without a copy, at once."""
        self._join()
        if not self._wanted or free_memory() < _COPIES * _own_bytes(state):
            save(state)
            return None
        copied, future = _copy(state), Future()

        def work() -> None:
            _give_way()
            try:
                future.set_result(save(copied))
            except BaseException as error:
                future.set_exception(error)

        self._thread = threading.Thread(
            target=work, name="jaxgpt-save", daemon=this_group().count > 1
        )
        self._thread.start()
        return future

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _give_way() -> None:
    """Let this thread, and those that it begins, have what the steps leave of the processor."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


@jax.jit
def _copy(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)


def _own_bytes(tree: Any) -> int:
    """What a tree takes of the memory that `free_memory` is of."""
    shards = (shard.data for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards)
    # A CPU's devices share its memory.
    devices = 1 if jax.default_backend() == "cpu" else jax.local_device_count()
    return sum(shard.nbytes for shard in shards) // devices
