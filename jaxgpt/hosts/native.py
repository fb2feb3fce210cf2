"""What libraries print by themselves, and how they end a process: kept from who watches a run.

JAX's runtime ends a process that has lost its coordinator at once, by abort(), with a page of its
own about it, and no exception.
"""

import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Callable

_MOST = 1 << 20  # bytes of the last that they print that are looked at
_kept: list[object] = []  # or the handler would be collected


def keep_apart(explain: Callable[[str], tuple[str, int] | None]) -> None:
    """Let what is not written through Python's streams go to a place of its own.

    Where a library aborts the process, `explain` makes of what it said the line to print instead,
    or none, and the exit code; if it gives None, all that it said is printed, and it aborts.
    """
    place, errors = tempfile.TemporaryFile(), os.dup(2)  # noqa: SIM115
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        stream.flush()
        own = open(os.dup(number), "w", encoding=stream.encoding, errors=stream.errors, buffering=1)  # noqa: SIM115
        setattr(sys, name, own)
        os.dup2(place.fileno(), number)

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def on_abort(number: int) -> None:
        said = os.pread(place.fileno(), _MOST, max(0, os.fstat(place.fileno()).st_size - _MOST))
        found = explain(said.decode(errors="replace"))
        if found is None:
            os.write(errors, said)
            return  # and abort() goes on
        line, code = found
        if line:
            os.write(errors, f"error: {line}\n".encode(errors="replace"))
        os._exit(code)

    _kept.append(on_abort)
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.signal(signal.SIGABRT, ctypes.cast(on_abort, ctypes.c_void_p))
