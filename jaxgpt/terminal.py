"""The terminal: the one place that prints, where no text of a file or model can steer it.

Standard library only. A closed or broken standard error never ends a run; standard output that
nobody reads any more ends a command quietly (BrokenPipeError, which the command lines turn into an
exit code).
"""

import errno
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

# Characters that join their neighbours into one sign, such as a family of emoji, or keep them
# apart, as Persian needs: harmless, but only behind a character that can be joined.
_JOINERS = "\u200c\u200d"
_muted = False


def escape(text: str, before: str = "") -> str:
    r"""The text with control characters spelt out, such as `\x1b`, but for newlines and tabs.

    So are characters that change the direction of the text, have no width, or are half of a
    surrogate pair: all of Unicode's categories Cc, Cf, Cs, Zl and Zp. `before` is what the text
    goes on from.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(map(_escaped, text, before[-1:] + text if before else "\n" + text))


def escape_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of one text, escaped as they come."""
    before = ""
    for piece in pieces:
        yield escape(piece, before)
        before = piece or before


def one_line(text: str) -> str:
    """The text as a single escaped line, each run of white space a single space."""
    return escape(" ".join(text.split()))


def say(text: str = "", *, stream: Any = None) -> None:
    """Print escaped text to standard output, or to `stream`; the rest as of `put`."""
    put(escape(text) + "\n", stream)


def put(text: str, stream: Any = None) -> None:
    """Print text as it is, for programs that want every character; at a terminal, escape it first.

    What the stream's encoding lacks is shown as `?`. BrokenPipeError if nobody reads any more.
    """
    stream = sys.stdout if stream is None else stream
    if stream is not None and not _muted:  # Python has none where the shell closed it
        try:
            print(showable(text, stream), end="", file=stream, flush=True)
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal that was closed
                raise BrokenPipeError from None
            raise


def showable(text: str, stream: Any) -> str:
    """The text with `?` for what the encoding of `stream` cannot hold."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def note(text: str) -> None:
    """Print an escaped line to standard error; nothing happens if that is closed."""
    with suppress(OSError, ValueError):  # ValueError: I/O operation on closed file
        if sys.stderr is not None:
            try:
                say(text, stream=sys.stderr)
            except RuntimeError:  # in a signal's handler that came amid the printing of a line
                line = showable(escape(text) + "\n", sys.stderr)
                os.write(sys.stderr.fileno(), line.encode(sys.stderr.encoding))


def mute() -> None:
    """Let this process print no more than what `complain` is given, as others of its run print."""
    global _muted
    _muted = True


def is_muted() -> bool:
    """Whether this process is to print nothing but errors."""
    return _muted


def complain(text: str) -> None:
    """Print an error's line to standard error, also where this process is muted."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(showable(escape(text), sys.stderr), file=sys.stderr, flush=True)


def _escaped(character: str, before: str) -> str:
    shown = unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    if shown or character in "\n\t" or (character in _JOINERS and not before.isascii()):
        return character
    if character.isascii():
        return f"\\x{ord(character):02x}"
    return character.encode("ascii", "backslashreplace").decode()
