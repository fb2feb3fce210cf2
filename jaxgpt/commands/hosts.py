"""What a command that trains does as one of several processes: it joins and leaves with them."""

import logging
import signal
import sys
from typing import Any

from jaxgpt.errors import PeerError
from jaxgpt.hosts.options import HostOptions


def join_processes(options: HostOptions) -> None:
    """Join the others of the run, if there are any; to be called before a device is used."""
    if not options.are_several():
        return
    from jaxgpt.hosts import join, native

    join.check_host(options)
    if not logging.getLogger("jaxgpt").isEnabledFor(logging.DEBUG):
        native.keep_apart(join.explain_abort)
    join.join_processes(options)


def leave_together(error: BaseException, mendable: tuple[str, int] | None) -> None:
    """End this process, and tell the others why; nothing where it is alone.

    `mendable` is what `cli.run` would print, and its exit code. It does not return if there are
    others, unless they have agreed to stop.
    """
    watch = _watch()
    if watch is None:
        return
    if isinstance(error, SystemExit) and watch.signal is not None:
        return watch.finish()
    if isinstance(error, PeerError):
        watch.leave_after(error)
    if isinstance(error, SystemExit | KeyboardInterrupt):
        code = error.code if isinstance(error, SystemExit) else 128 + signal.SIGINT
        if isinstance(code, int) and code > 128:
            watch.leave(f"ended by {signal.Signals(code - 128).name}, before the first step", code)
        return
    if mendable is None:  # a device may have failed because another process is gone
        if failure := watch.suspect():
            watch.leave_after(failure)
        sys.excepthook(type(error), error, error.__traceback__)
        mendable = f"{type(error).__name__}: {error}", 1
    watch.leave(*mendable)


def finish_together() -> None:
    """Tell the others, if there are any, that this process has done its part."""
    if (watch := _watch()) is not None:
        watch.finish()


def _watch() -> Any:
    module = sys.modules.get("jaxgpt.hosts.join")  # imported by whoever joined
    return module and module.this_watch()
