"""Panics of Rust libraries, as errors that can be caught, and off the terminal.

A panic arrives in Python outside of Exception, after its text was written to file descriptor 2.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class PanicError(Exception):
    """A Rust library that panicked, with the first line of what it said."""


@contextmanager
def caught_panics(*, quiet: bool = True) -> Iterator[None]:
    """Raise PanicError where a Rust library panics in the body.

    With `quiet` nothing of the panic is printed; what else is written to file descriptor 2
    meanwhile, by any thread, appears there afterwards.
    """
    held = quiet and _STDERR.hold()
    panicked = False
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # which is in no module to import
            raise
        panicked = True
        raise PanicError((str(error).splitlines() or ["a panic"])[0]) from None
    finally:
        if held:
            _STDERR.release(panicked)


class _Stderr:
    """File descriptor 2, put aside while at least one body runs."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bodies = 0
        self._panicked = False

    def hold(self) -> bool:
        """Write to a file from now on; False if there is no descriptor 2 or no file to be had."""
        with self._lock:
            if not self._bodies:
                try:
                    self._terminal = os.dup(2)
                except OSError:
                    return False
                try:
                    self._file = tempfile.TemporaryFile()  # noqa: SIM115, release closes it
                except OSError:
                    os.close(self._terminal)
                    return False
                os.dup2(self._file.fileno(), 2)
                self._panicked = False
            self._bodies += 1
            return True

    def release(self, panicked: bool) -> None:
        """Write to the terminal again, once no body is left that is not to."""
        with self._lock:
            self._panicked |= panicked
            self._bodies -= 1
            if self._bodies:
                return
            os.dup2(self._terminal, 2)
            os.close(self._terminal)
            with self._file as file:
                if os.fstat(file.fileno()).st_size and not self._panicked:
                    file.seek(0)
                    os.write(2, file.read())


_STDERR = _Stderr()
