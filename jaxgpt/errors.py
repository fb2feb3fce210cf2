"""What can go wrong that a user can mend, one class per exit code of the command lines."""

import difflib
import math
from collections.abc import Iterable
from typing import Any


class JaxgptError(Exception):
    """A failure with one clear line: what was wrong, the allowed range, how to mend it."""

    exit_code = 1


class ConfigError(JaxgptError):
    """A bad argument or configuration value."""

    exit_code = 2


class DataError(JaxgptError):
    """Text, a token file or a tokenizer that cannot be used as it is."""

    exit_code = 3


class CheckpointError(JaxgptError):
    """A checkpoint or weight file that is missing, damaged, or does not fit."""

    exit_code = 4


class NonFiniteError(JaxgptError):
    """A loss or gradient that is NaN or infinite."""

    exit_code = 5

    def __init__(self, message: str, step: int | None = None):
        """Of the step of that number, from 1, if its own loss or gradient is meant."""
        super().__init__(message)
        self.step = step


class ResourceError(JaxgptError):
    """More memory or disk than there is."""

    exit_code = 6


class PeerError(JaxgptError):
    """Another process of the run has failed, with that exit code, or ended.

    `told` says that it gave the reason itself, and process 0 prints that.
    """

    def __init__(self, text: str, exit_code: int = 6, *, told: bool = False) -> None:
        super().__init__(text)
        self.exit_code, self.told = exit_code, told


def brief(value: Any) -> str:
    """The value as a message shows it, short however long its digits, letters or items are."""
    if isinstance(value, int) and abs(value) >= 10**24:  # Python refuses to print the longest
        return f"a number of {int(math.log10(abs(value))) + 1:,} digits"
    try:
        shown = str(value) if isinstance(value, int | float) else repr(value)
    except (RecursionError, ValueError):  # ValueError: such a number among the items
        shown = f"a {type(value).__name__}"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to a message about the unknown `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
