"""Editing of what is typed: history over sessions, and Tab for commands; by readline, if there."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from jaxgpt.data.downloads import cache_subfolder, default_cache
from jaxgpt.errors import JaxgptError
from jaxgpt.files import draft_of
from jaxgpt.terminal import note

_FILE = "chat_history"
_MOST = 1000  # lines that are kept


@contextmanager
def line_editor(commands: Sequence[str], *, history: bool) -> Iterator[None]:
    """Give `input()` line editing; with `history`, the lines of former sessions, and keep these.

    They are kept in the cache folder, in a file that the user alone may read. Tab completes a first
    word among `commands`.
    """
    try:
        import readline
    except ImportError:
        yield
        return
    readline.set_completer_delims(" ")
    readline.set_completer(lambda text, state: _completion(commands, readline, state))
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    lines = read_history() if history else None
    for line in lines or []:
        readline.add_history(line)
    before = readline.get_current_history_length()
    try:
        yield
    finally:
        if lines is not None:
            last = readline.get_current_history_length()
            keep_history([readline.get_history_item(n) for n in range(before + 1, last + 1)])


def _completion(commands: Sequence[str], readline: Any, state: int) -> str | None:
    begun = readline.get_line_buffer()
    found = [name for name in commands if begun.startswith("/") and name.startswith(begun)]
    return found[state] if state < len(found) else None


def read_history() -> list[str] | None:
    """The lines of former sessions; None, with a note, where the file is not the user's alone."""
    try:
        path = default_cache() / _FILE
    except JaxgptError:  # no home
        return None
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not others:
                return os.fsdecode(file.read()).splitlines()[-_MOST:]
    except FileNotFoundError:
        return []
    except OSError:
        pass
    note(f"note: {path} is not yours alone, so what is typed is not kept")
    return None


def keep_history(lines: Sequence[str]) -> None:
    """Add lines to those that another session may have kept meanwhile."""
    former = read_history() if lines else None
    if former is None:
        return
    with suppress(OSError, JaxgptError):  # a chat does not fail for want of a history
        path = cache_subfolder("") / _FILE
        with draft_of(path) as draft:
            draft.chmod(0o600)
            kept = [*former, *lines][-_MOST:]
            draft.write_bytes(os.fsencode("".join(f"{line}\n" for line in kept)))
