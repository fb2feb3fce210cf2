"""The terminal: the one place that prints, where no text of a file or model can steer it.

Standard library only. A closed or broken stream never ends a run; a pipe that was closed by its
reader ends a command quietly (BrokenPipeError, which the command lines turn into an exit code).
"""

import sys
import unicodedata
from contextlib import suppress
from typing import Any

# Characters that join their neighbours into one sign, such as a family of emoji, or keep them
# apart, as Persian needs: harmless, but only behind a character that can be joined.
_JOINERS = "\u200c\u200d"


def escape(text: str) -> str:
    r"""The text with control characters spelt out, such as `\x1b`, but for newlines and tabs.

    So are characters that change the direction of the text, have no width, or are half of a
    surrogate pair: all of Unicode's categories Cc, Cf, Cs, Zl and Zp.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        _escaped(character, text[place - 1] if place else "")
        for place, character in enumerate(text)
    )


def one_line(text: str) -> str:
    """The text as a single escaped line, each run of white space a single space."""
    return escape(" ".join(text.split()))


def say(text: str = "", *, end: str = "\n", stream: Any = None) -> None:
    """Print to standard output, or to `stream`; what its encoding cannot hold is shown as `?`.

    Raises BrokenPipeError if nobody reads any more.
    """
    stream = sys.stdout if stream is None else stream
    if stream is not None:  # Python has none where the shell closed it
        encoding = getattr(stream, "encoding", None) or "utf-8"
        shown = (escape(text) + end).encode(encoding, "replace").decode(encoding)
        print(shown, end="", file=stream, flush=True)


def note(text: str) -> None:
    """Print a line to standard error; nothing happens if that is closed."""
    with suppress(OSError, ValueError):  # ValueError: I/O operation on closed file
        if sys.stderr is not None:
            say(text, stream=sys.stderr)


def _escaped(character: str, before: str) -> str:
    if character in "\n\t":
        return character
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    if character in _JOINERS and before and not before.isascii():
        return character
    if character.isascii():
        return f"\\x{ord(character):02x}"
    return character.encode("ascii", "backslashreplace").decode()
