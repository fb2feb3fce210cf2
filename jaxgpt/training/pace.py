"""Pace of a thread that writes beside the steps: it gives way to them until it is waited for."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

_PAUSE = 3.0  # times as long as the work before it
_LONGEST = 1.0  # seconds of a pause
_LAST = 120.0  # seconds in which pauses are made; processes wait for each other for 300
_POOL = "ts_pool_worker"  # TensorStore's threads, which write, and then wait for more for a minute


class Pace:
    """Pace of a thread: what the steps leave of the processor, and pauses, until it is hurried.

    To write is mostly the system's own copying, for which a step waits however low the thread's
    priority is; pauses spread that over several steps. `gap` is how many seconds from now the next
    writing is expected; in the first half of them there are pauses.
    """

    def __init__(self, gap: float = float("inf")) -> None:
        self._end = time.monotonic() + min(gap / 2, _LAST)
        self._is_hurried, self._lock = threading.Event(), threading.Lock()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Make this the `current_pace` of what this thread calls in the context."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def give_way(self) -> None:
        """Let this thread, and those that write for it, have what others leave of the processor."""
        if may_hurry():
            self._idle(threading.get_native_id())
        elif sys.platform == "linux":  # elsewhere a thread has no priority of its own
            with suppress(OSError):  # as where a container forbids it
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)

    def _idle(self, *threads: int) -> None:
        """Move these threads and the pool's to the class of those that run when idle."""
        with self._lock:
            for thread in () if self._is_hurried.is_set() else (*threads, *_threads(_POOL)):
                with suppress(OSError):  # it may have ended
                    os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))

    def hurry(self) -> None:
        """Give all threads that gave way their share again, and make no more pauses."""
        with self._lock:
            self._is_hurried.set()
            for thread in _threads() if may_hurry() else []:
                with suppress(OSError):  # it may have ended
                    if os.sched_getscheduler(thread) == os.SCHED_IDLE:
                        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))

    def pause(self, worked: float) -> Iterator[float]:
        """Seconds to sleep, one after the other, after `worked` seconds of writing."""
        if may_hurry():
            self._idle()  # what has been begun since
        end = min(time.monotonic() + min(_PAUSE * worked, _LONGEST), self._end)
        while (left := end - time.monotonic()) > 0 and not self._is_hurried.is_set():
            yield min(left, 0.1)


_current: ContextVar[Pace | None] = ContextVar("pace", default=None)


def current_pace() -> Pace | None:
    """The pace that this thread is to keep, if any."""
    return _current.get()


def may_hurry() -> bool:
    """Whether this process may take a thread out of the class of those that run when idle."""
    if sys.platform != "linux":
        return False
    import resource  # not on Windows

    idle = os.sched_getscheduler(os.getpid()) == os.SCHED_IDLE  # as it was begun
    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    allowed = limit == resource.RLIM_INFINITY or limit >= 20 - os.nice(0)
    return not idle and (allowed or os.geteuid() == 0)


def _threads(name: str | None = None) -> list[int]:
    """Ids of this process's threads, of all or of those with that name."""
    found = []
    with suppress(OSError):  # as where there is no such folder
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # it may have ended
                if name is None or (task / "comm").read_text().strip() == name:
                    found.append(int(task.name))
    return found
