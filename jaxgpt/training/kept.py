"""The checkpoints that a run keeps: the newest, and the one of the lowest validation loss.

Each that was measured says so in a file of its own, which appears with the checkpoint: whenever the
process is killed, the best is known by what is there.
"""

import math
import re
import shutil
from pathlib import Path

from jaxgpt.data.ownership import unfinished_foreign
from jaxgpt.errors import CheckpointError
from jaxgpt.files import read_sealed, seal
from jaxgpt.terminal import note, one_line
from jaxgpt.training.manifest import DamagedError, verify

FOLDER = "checkpoints"
VALIDATION = "validation.json"
_DRAFT = re.compile(r"\.\d{8}\.\d+\.tmp")


def named_checkpoints(run: Path) -> list[Path]:
    """All that has a checkpoint's name, oldest first."""
    return sorted((run / FOLDER).glob("[0-9]" * 8))


def checkpoints(run: Path) -> list[Path]:
    """The committed checkpoints of a run, oldest first."""
    return [path for path in named_checkpoints(run) if path.is_dir()]


def write_validation(draft: Path, loss: float, measured_on: str) -> None:
    """Write the validation loss of a checkpoint into its draft.

    `measured_on` names what it was measured on: losses on other data, or on another part of it, are
    not compared.
    """
    (draft / VALIDATION).write_bytes(seal({"loss": loss, "measured_on": measured_on}))


def by_validation(run: Path) -> list[Path]:
    """The checkpoints that were measured on what the newest of them was, the best first."""
    measured = [(folder, _read_validation(folder)) for folder in reversed(checkpoints(run))]
    found = [(folder, *given) for folder, given in measured if given]
    same = [(loss, folder) for folder, loss, data in found if data == found[0][2]]
    return [folder for _, folder in sorted(same, key=lambda item: item[0])]


def _read_validation(folder: Path) -> tuple[float, str] | None:
    try:
        values, whole = read_sealed(folder / VALIDATION, error=CheckpointError)
    except CheckpointError:
        return None
    loss, measured_on = values.get("loss"), values.get("measured_on")
    if not whole or not isinstance(loss, float) or not isinstance(measured_on, str):
        return None
    return (loss, measured_on) if math.isfinite(loss) else None


def find_best(path: str | Path) -> Path:
    """The whole checkpoint of the lowest validation loss that a run's folder has.

    A better one that is damaged is named on stderr. Raises CheckpointError if there is none,
    DamagedError if none is whole.
    """
    found = by_validation(Path(path))
    if not found:
        raise CheckpointError(
            f"{path} holds no checkpoint with a validation loss, so none is known to be the best; "
            "name a run's folder, or leave out --best"
        )
    damaged = []
    for folder in found:
        try:
            verify(folder, int(folder.name))
        except DamagedError as error:
            damaged.append(error)
            continue
        if damaged:
            note(f"warning: {one_line(str(damaged[0]))}; {folder} is the best of the others")
        return folder
    raise damaged[0]


def prune(run: Path, keep: int) -> None:
    """Remove all but the best and the `keep` newest checkpoints, and what is left of drafts.

    What somebody else has written into is left.
    """
    drafts = [path for path in (run / FOLDER).glob(".*.tmp") if _DRAFT.fullmatch(path.name)]
    best = by_validation(run)[:1]
    old = [folder for folder in checkpoints(run)[:-keep] if folder not in best]
    for folder in (*old, *drafts):
        if not folder.is_symlink() and not unfinished_foreign(folder):
            shutil.rmtree(folder, ignore_errors=True)
