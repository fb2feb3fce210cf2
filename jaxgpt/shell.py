"""Commands as a shell takes them, for messages that say what to run next.

Standard library only.
"""

import os
import shlex
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent


def python(*words: str | Path) -> str:
    """A command line of the Python that runs this, each word quoted where a shell needs it."""
    return " ".join(map(_quoted, [_from_here(sys.executable or "python3"), *map(_word, words)]))


def install(package: str) -> str:
    """The command line that installs a package for the Python that runs this."""
    return python("-m", "pip", "install", package)


def install_extra(name: str) -> str:
    """The command line that installs the packages of an extra of jaxgpt, such as `parquet`."""
    return python("-m", "pip", "install", "-e", f"{_from_here(CHECKOUT)}[{name}]")


def script(name: str, *words: str | Path) -> str:
    """The command line of a script of jaxgpt: the one beside that which runs, else the checkout's.

    `script("chat.py", "--checkpoint", run)` is `.venv/bin/python scripts/chat.py --checkpoint RUN`
    where that is how this process was started.
    """
    beside = Path(sys.argv[0]).parent / name
    found = beside if beside.is_file() else CHECKOUT / "scripts" / name
    return python(_from_here(found), *words)


def this_command() -> str:
    """The command line of this process, to be run again."""
    return python(*sys.argv)


def _from_here(path: str | Path) -> str:
    """A path below the current folder as seen from there; else absolute."""
    whole, here = os.path.abspath(path), os.getcwd()
    if whole == here:
        return "."
    if not whole.startswith(os.path.join(here, "")):
        return whole
    inner = os.path.relpath(whole, here)
    return inner if os.sep in inner else os.path.join(".", inner)  # a bare name is sought in PATH


def _word(word: str | Path) -> str:
    """A path that begins with a dash is no flag."""
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def _quoted(word: str) -> str:
    """A word as a shell reads it: on one line, and with nothing that a terminal would not show."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_spelt, word)) + "'"


def _spelt(character: str) -> str:
    code = ord(character)
    if character in "\\'":
        return "\\" + character
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is no UTF-8
        code -= 0xDC00
    return {10: "\\n", 9: "\\t"}.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
