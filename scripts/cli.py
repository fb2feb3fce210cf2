"""What every command line shares: tyro in, one line out when something is wrong."""

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import TypeVar

import tyro
from tqdm import tqdm

from jaxgpt.errors import JaxgptError

Arguments = TypeVar("Arguments")
_BOX = "╭╮╰╯│─ "


def parse(kind: type[Arguments], argv: Sequence[str], **options) -> Arguments:
    """Parse `argv` into the dataclass `kind`; a bad argument is one line on stderr and exit code 2.

    `options` go to `tyro.cli` (`default`, `description`, `prog`).
    """
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.cli(kind, args=list(argv), config=(tyro.conf.OmitArgPrefixes,), **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        fail(_one_line(complaint.getvalue()), 2)
        raise AssertionError("unreachable") from stop


def _one_line(box: str) -> str:
    """Tyro's boxed complaint, without the box, the heading and the advice to read the help."""
    lines = [line.strip(_BOX) for line in box.splitlines()[1:]]
    sections = " ".join(line or "\n" for line in lines).split("\n")
    kept = [" ".join(part.split()) for part in sections if "full helptext" not in part]
    return "; ".join(part for part in kept if part and not part.startswith("Argument helptext"))


def fail(message: str, exit_code: int) -> None:
    """Print `error: message` as one line on stderr and leave with `exit_code`."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(exit_code)


def run(main: Callable[[list[str]], None]) -> None:
    """Run a command line's `main(argv)`, turning the failures a user can mend into one line.

    `--debug` anywhere on the command line shows the traceback instead.
    """
    argv = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(argv) < len(sys.argv) - 1
    try:
        main(argv)
    except JaxgptError as error:
        if debug:
            raise
        fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except KeyboardInterrupt:
        print(file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


class Progress:
    """Progress in bytes on stderr: a bar on a terminal, else a line now and then."""

    _QUIET = 5.0  # seconds between lines

    def __init__(self) -> None:
        self._label, self._bar, self._due = "", None, time.monotonic() + self._QUIET

    def __call__(self, label: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes of what `label` names are through."""
        if sys.stderr.isatty():
            if self._bar is None or self._label != label:
                self._label = label
                self._bar = tqdm(desc=label, total=total, unit="B", unit_scale=True, leave=False)
            self._bar.update(done - self._bar.n)
            if done == total:
                self._bar.close()
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + self._QUIET
            of = "" if total is None else f" of {total / 1e6:,.0f}"
            print(f"{label}: {done / 1e6:,.0f}{of} MB", file=sys.stderr, flush=True)
