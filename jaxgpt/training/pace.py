"""Pace of a thread that writes beside the steps: it gives way to them until it is waited for."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

_PAUSE = 3.0  # times as long as the work before it
_LONGEST = 1.0  # seconds


class Pace:
    """Pace of a thread: what the steps leave of the processor, and pauses, until it is hurried.

    To write is mostly the system's own copying, for which a step waits however low the thread's
    priority is; pauses spread that over several steps.
    """

    def __init__(self) -> None:
        self._is_hurried = threading.Event()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Make this the `current_pace` of what this thread calls in the context."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def pause(self, worked: float) -> Iterator[float]:
        """Seconds to sleep, one after the other, after `worked` seconds of writing."""
        end = time.monotonic() + min(_PAUSE * worked, _LONGEST)
        while (left := end - time.monotonic()) > 0 and not self._is_hurried.is_set():
            yield min(left, 0.1)

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Give all threads that gave way their share, until what is waited for is done.

        Those of Orbax's pool live on, and write the next checkpoint too. Pauses end for good.
        """
        self._is_hurried.set()
        threads = map(int, os.listdir("/proc/self/task")) if may_hurry() else ()
        hurried = [it for it in threads if _moved(it, os.SCHED_IDLE, os.SCHED_OTHER)]
        try:
            yield
        finally:
            for thread in hurried:
                _moved(thread, os.SCHED_OTHER, os.SCHED_IDLE)


_current: ContextVar[Pace | None] = ContextVar("pace", default=None)


def current_pace() -> Pace | None:
    """The pace that this thread is to keep, if any."""
    return _current.get()


def give_way() -> None:
    """Let this thread, and those that it begins, have what others leave of the processor."""
    if sys.platform != "linux":
        return  # elsewhere a thread has no priority of its own
    thread = threading.get_native_id()
    with suppress(OSError):  # as where a container forbids it
        if may_hurry():
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.setpriority(os.PRIO_PROCESS, thread, 19)


def may_hurry() -> bool:
    """Whether this process may take a thread out of the class of those that run when idle."""
    if sys.platform != "linux":
        return False
    import resource  # not on Windows

    idle = os.sched_getscheduler(os.getpid()) == os.SCHED_IDLE  # as it was begun
    allowed = resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20 - os.nice(0)
    return not idle and (allowed or os.geteuid() == 0)


def _moved(thread: int, old: int, new: int) -> bool:
    """Whether a thread was in the scheduler's class `old`, and is now in `new`."""
    with suppress(OSError):  # it may have ended
        if os.sched_getscheduler(thread) == old:
            os.sched_setscheduler(thread, new, os.sched_param(0))
            return True
    return False
