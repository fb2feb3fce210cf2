"""The old run in a folder where a new one begins: set aside until that has a checkpoint.

It is moved into `.moving`, which then becomes `.replaced`, and is moved back the other way round:
so the names tell what is where, whenever the process is killed.
"""

import secrets
import shutil
from pathlib import Path

from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import DataError
from jaxgpt.terminal import note
from jaxgpt.training.kept import FOLDER, checkpoints
from jaxgpt.training.run_contents import (
    ASIDE,
    CONFIG,
    MOVING,
    TOKENS,
    contents,
    foreign_files,
    is_run,
    trained_on,
)


def set_aside(run: Path) -> None:
    """Move all that is in a run's folder into `.replaced`, or none of it."""
    (run / MOVING).mkdir()
    try:
        for path in contents(run):
            path.rename(run / MOVING / path.name)
        (run / MOVING).rename(run / ASIDE)
    except BaseException:
        _move_back(run)
        raise


def put_back(run: Path) -> None:
    """Remove what a run has written since `set_aside`, and move back what was there before."""
    strangers = foreign_files(run)
    for path in contents(run):
        if not any(Path(name).parts[0] == path.name for name in strangers):
            _remove(path)
    (run / ASIDE).rename(run / MOVING)
    _move_back(run)


def set_tokens_aside(run: Path) -> None:
    """Move the tokens alone into `.replaced`."""
    (run / ASIDE).mkdir()
    (run / TOKENS).rename(run / ASIDE / TOKENS)


def put_tokens_back(run: Path) -> None:
    """Undo `set_tokens_aside`, whatever tokens were made since; nothing if it was not done."""
    if (run / ASIDE / TOKENS).exists():
        if (run / TOKENS).exists():
            _remove(run / TOKENS)
        (run / ASIDE / TOKENS).rename(run / TOKENS)
    if (run / ASIDE).exists():
        (run / ASIDE).rmdir()


def remove_replaced(run: Path) -> None:
    """Remove what was set aside, unless somebody else has written into it since."""
    strangers = [name for name in foreign_files(run) if name.startswith(f"{ASIDE}/")]
    if strangers:
        note(f"warning: {run / ASIDE} is kept, for it holds {Path(strangers[0]).name}")
    elif (run / ASIDE).exists():
        shutil.rmtree(run / ASIDE)


def was_killed(run: Path) -> bool:
    """Whether a process was killed in a folder while it replaced a run in it, or its tokens."""
    aside = [run / name for name in (ASIDE, MOVING) if (run / name).is_dir()]
    return bool(aside) and any(is_run(folder) for folder in (run, *aside))


def undo_killed(run: Path) -> None:
    """Put in order what such a process left; nothing where there was none."""
    if not was_killed(run):
        return
    if (run / MOVING).is_dir():
        _move_back(run)
    elif (run / ASIDE / CONFIG).exists() or (run / ASIDE / FOLDER).exists():
        if checkpoints(run):
            remove_replaced(run)
        else:
            put_back(run)
            note(f"{run} is again as it was before a process was killed that was replacing it")
    elif trained_on(run) is not None and trained_on(run) == _fingerprint(run / TOKENS):
        remove_replaced(run)
    else:
        put_tokens_back(run)


def _move_back(run: Path) -> None:
    for path in (run / MOVING).iterdir():
        place = run / path.name
        if place.exists():  # only if somebody else has written into it
            place.rename(run / f"{path.name}.{secrets.token_hex(4)}")
        path.rename(place)
    (run / MOVING).rmdir()


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _fingerprint(tokens: Path) -> str | None:
    try:
        return TokenDataset.open(tokens).fingerprint
    except DataError:
        return None
