"""List the checkpoints of a run, verify, compare, prune or export them.

The first word says which: list, verify, diff, prune or export. `jaxgpt checkpoints WORD --help`
shows the options of each. Nothing but prune changes a run.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jaxgpt.commands import cli
from jaxgpt.data.atomic import check_new_folder
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.fields import check, check_range
from jaxgpt.terminal import note, say


@dataclass(frozen=True)
class List:
    """List the checkpoints of a run: step, time, size, validation loss, and which is the best."""

    run: cli.Positional[str]
    """A run's folder, or a checkpoint's."""
    json: bool = False
    """Print a JSON list, with a mapping for each."""

    def main(self) -> None:
        """Look at manifests and sizes, print."""
        from jaxgpt.training.inventory import inventory, set_aside
        from jaxgpt.training.plan_report import in_bytes

        found = inventory(Path(self.run))
        if self.json:
            say(json.dumps([_record(entry) for entry in found], indent=2))
            return
        say("    step  written                  size  validation loss")
        for entry in found:
            loss = entry.validation_loss
            marks = ["best"] * entry.best + ["newest"] * entry.newest
            marks += [f"damaged: {damage}" for damage in entry.damages]
            say(
                f"{entry.step:>8}  {_time(entry.written)}  {in_bytes(entry.size):>9}  "
                f"{'' if loss is None else f'{loss:.4f}':>15}  {', '.join(marks)}".rstrip()
            )
        for folder in set_aside(Path(self.run)):
            say(f"set aside as damaged: {folder}")


@dataclass(frozen=True)
class Verify:
    """Compare each file of the checkpoints of a run with its sum; leave with 4 if one is damaged.

    Nothing is set aside.
    """

    run: cli.Positional[str]
    """A run's folder, or a checkpoint's."""
    step: cli.Positional[int | None] = None
    """Only the one of this step."""

    def main(self) -> None:
        """Read all, print a line for each."""
        from jaxgpt.training.inventory import inventory
        from jaxgpt.training.plan_report import in_bytes

        run = Path(self.run)
        found = inventory(run, sums=True, step=self.step)
        for entry in found:
            for damage in entry.damages:
                say(f"damaged  {damage}")
            if not entry.damages:
                say(f"whole    {entry.folder}  {in_bytes(entry.size)}")
        if damaged := [entry for entry in found if entry.damages]:
            whole = [entry.folder.name for entry in found if not entry.damages]
            raise CheckpointError(
                f"{len(damaged)} of {len(found)} of {run} are damaged; "
                + (f"the newest whole one is {whole[-1]}" if whole else "none is whole")
            )


@dataclass(frozen=True)
class Diff:
    """Compare two checkpoints: settings, parameters and the optimizer's state.

    Leaves with 0 if all arrays are equal bit for bit, and with 1 if not.
    """

    a: cli.Positional[str]
    """A run, of which the newest checkpoint is taken, or a checkpoint's folder."""
    b: cli.Positional[str] = ""
    """Another; or with a third word a step of A, best or newest."""
    c: cli.Positional[str] = ""
    """Another step of A."""
    json: bool = False
    """Print a JSON mapping with all arrays."""

    def __post_init__(self):
        check(bool(self.b), "name two checkpoints: two folders, or a run and two of its steps")

    def main(self) -> None:
        """Read both, print, leave with 1 where they differ."""
        from jaxgpt.training.checkpoint_diff import diff_checkpoints, to_json, to_text
        from jaxgpt.training.inventory import NEWEST, choose
        from jaxgpt.training.mesh import select_platform

        select_platform("cpu")  # where the arrays of two have room
        named = [(self.a, self.b), (self.a, self.c)] if self.c else [(self.a, ""), (self.b, "")]
        one, other = (choose(Path(run), which or NEWEST) for run, which in named)
        found = diff_checkpoints(one, other)
        say(to_json(found) if self.json else to_text(found, one, other))
        raise SystemExit(0 if found.equal else 1)


@dataclass(frozen=True)
class Prune:
    """Remove the checkpoints that a run would: all but the newest, those kept for good, the best.

    Damaged ones stay, and do not count. A run that is being trained is left alone.
    """

    run: cli.Positional[str]
    """A run's folder."""
    keep: int | None = None
    """Newest checkpoints that stay; by default as many as the run keeps."""
    keep_every: int | None = None
    """Steps between those that stay for good; by default as the run has it, 0 for none."""
    dry_run: bool = False
    """Only say what would go."""

    def __post_init__(self):
        check_range("keep", 1 if self.keep is None else self.keep, 1, 10**8)
        check_range("keep_every", self.keep_every or 0, 0, 10**8)

    def main(self) -> None:
        """Remove, print what went and how many bytes."""
        from jaxgpt.training.inventory import prune_run
        from jaxgpt.training.plan_report import in_bytes

        how: Any = {"dry_run": self.dry_run}
        gone, damaged = prune_run(Path(self.run), self.keep, self.keep_every, **how)
        for damage in damaged:
            note(f"warning: {damage}; it stays, and does not count")
        for folder, size in gone.items():
            say(f"{folder}  {in_bytes(size)}")
        what = "would go" if self.dry_run else "removed"
        say(f"{len(gone)} {what}, {in_bytes(sum(gone.values()))}")


@dataclass(frozen=True)
class Export:
    """Write the model of one checkpoint alone, without the optimizer's state, byte for byte.

    For a folder of Hugging Face's kind, or another dtype, there is `jaxgpt convert`.
    """

    run: cli.Positional[str]
    """A run's folder, or a checkpoint's."""
    which: cli.Positional[str] = "newest"
    """A step, best or newest."""
    out: str = ""
    """Folder to write, new or empty."""
    overwrite: bool = False
    """Replace what jaxgpt wrote at `out`; a folder that holds anything else is refused."""

    def main(self) -> None:
        """Copy, say where."""
        if not self.out:
            raise ConfigError("name the folder to write by --out")
        check_new_folder(self.out, overwrite=self.overwrite, inputs=[self.run])
        from jaxgpt.training.inventory import choose, export

        folder = choose(Path(self.run), self.which)
        export(folder, self.out, overwrite=self.overwrite)
        say(f"saved {os.path.realpath(self.out)}, from {folder}")


COMMANDS = {
    "list": (List, "RUN [--json]"),
    "verify": (Verify, "RUN [STEP]"),
    "diff": (Diff, "A B | RUN STEP STEP"),
    "prune": (Prune, "RUN [--keep N] [--dry-run]"),
    "export": (Export, "RUN [STEP|best|newest] --out DIR"),
}


def main(argv: Sequence[str]) -> None:
    """Take the first word for what to do; parse, and do it."""
    usage = f"{'|'.join(COMMANDS)} RUN"
    cli.parse_first_word("checkpoints", COMMANDS, argv, usage, __doc__).main()


def _record(entry: Any) -> dict[str, Any]:
    return asdict(entry) | {"folder": str(entry.folder), "written": _time(entry.written)}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
