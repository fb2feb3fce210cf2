"""A sweep: runs of a small model that differ in seed and learning rate, together or by turns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import jax

from jaxgpt.config import TrainConfig
from jaxgpt.data.corpus import open_corpus
from jaxgpt.data.named_text import Progress
from jaxgpt.errors import brief
from jaxgpt.fields import check, typed
from jaxgpt.terminal import note
from jaxgpt.training.evaluation import validation
from jaxgpt.training.fits import check_step
from jaxgpt.training.lanes import Lane, Training, alone, shares, together
from jaxgpt.training.memory import device_memory
from jaxgpt.training.mesh import make_mesh
from jaxgpt.training.plan import make_plan
from jaxgpt.training.precision import settle_precision
from jaxgpt.training.pretrain import fit_vocabulary, split_windows
from jaxgpt.training.run_state import check_attention

_TRIAL = 3  # steps by which the two ways are compared; the first compiles

Mode = Literal["auto", "vmap", "loop"]


@dataclass(frozen=True)
class Sweep:
    """The lanes of a sweep, for each learning rate seed by seed, and how they were stepped."""

    lanes: tuple[Lane, ...]
    mode: Mode

    def rows(self) -> Iterator[list[Any]]:
        """The names of a lane's figures, and then those of each lane."""
        names = [item.name for item in fields(Lane) if item.repr]
        yield names
        yield from ([getattr(lane, name) for name in names] for lane in self.lanes)

    def table(self) -> str:
        """The lanes in aligned columns."""
        names, *rows = self.rows()
        shown = [[name.replace("_", " ") for name in names]]
        shown += [[f"{x:.5g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        return "\n".join("  ".join(map(str.rjust, row, widths)) for row in shown)

    def csv(self) -> str:
        """The lanes as comma-separated values, with all digits."""
        return "".join(",".join(map(str, row)) + "\n" for row in self.rows())


def sweep(
    config: TrainConfig,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    learning_rates: Sequence[float] = (),
    mode: Mode = "auto",
    progress: Progress = lambda what, done, total: None,
) -> Sweep:
    """Pretrain as `config` says with each of the seeds and learning rates; no folder is kept.

    Each lane is the run that `pretrain` makes of `config` with that seed and that peak of the
    learning rate (`config`'s own, where none is given): the same first parameters, batches and
    losses; bit for bit if the lanes are trained one after the other (`loop`), and but for rounding
    if one program steps them all (`vmap`), for which they lie across the devices. `auto` times both
    on the first steps, goes on with the faster, and says so on stderr. A lane whose loss or
    gradient is not finite learns no more; the others go on. Raises a JaxgptError as `pretrain` does
    of the config, the data and the memory, and ConfigError for no seed, a seed or a rate given
    twice, or `init_from`, which no seed changes.
    """
    typed("mode", mode, Mode)
    config = settle_precision(config)
    runs = runs_of(config, seeds, learning_rates or (config.optimizer.learning_rate,))
    mesh = make_mesh(config)
    check_attention(config, mesh)
    with TemporaryDirectory(prefix="jaxgpt-sweep-") as folder:
        dataset, tokenizer = open_corpus(config.data, Path(folder, "tokens"), progress=progress)
        config = fit_vocabulary(config, tokenizer)
        runs = [replace(run, model=config.model) for run in runs]
        check_step(config, mesh.size)
        windows, held_out = split_windows(config, dataset)
        evaluate = validation(config, dataset, held_out, mesh)
        begin = alone(config, windows, mesh)
        first, group = begin(runs[0]), None
        if mode == "vmap" or (mode == "auto" and _is_worth_a_trial(runs)):
            group = together(runs, windows, jax.tree.map(lambda leaf: leaf.sharding, first.state))
        if group and mode == "auto" and not _is_faster(group, first):
            group = None
        lanes: list[Lane] = []
        for training in [group] if group else chain([first], map(begin, runs[1:])):
            which = "all lanes" if group else f"lane {len(lanes) + 1} of {len(runs)}"
            training.advance(config.steps, partial(progress, f"steps of {which}"))
            lanes += training.lanes(evaluate)
        return Sweep(tuple(lanes), "vmap" if group else "loop")


def runs_of(config: TrainConfig, seeds: Sequence[int], rates: Sequence[float]) -> list[TrainConfig]:
    """The runs of a sweep, for each learning rate seed by seed; raises ConfigError as `sweep`."""
    check(not config.init_from, f"init_from is {config.init_from}; a sweep begins anew, drop it")
    check(len(seeds) > 0, "seeds is empty; give one or more, such as 0, 1, 2")
    for name, values in (("seeds", seeds), ("learning_rates", rates)):
        twice = [value for value in values if list(values).count(value) > 1]
        check(not twice, f"{name} has {brief(twice[:1])} more than once; give each once")
    optimizers = [replace(config.optimizer, learning_rate=rate) for rate in rates]
    return [replace(config, seed=seed, optimizer=each) for each in optimizers for seed in seeds]


def _is_worth_a_trial(runs: Sequence[TrainConfig]) -> bool:
    """Whether there are steps to time, and memory for all lanes at once."""
    if len(runs) == 1 or runs[0].steps <= _TRIAL:
        return False
    memory, needed = device_memory(), len(runs) // shares(len(runs)) * make_plan(runs[0]).peak
    return memory is None or needed < memory


def _is_faster(group: Training, lane: Training) -> bool:
    """Whether the first steps of all lanes take less time together."""
    count = len(group.runs)
    together = group.advance(_TRIAL) / (_TRIAL - 1)
    turns = count * lane.advance(_TRIAL) / (_TRIAL - 1)
    way = "together (vmap)" if together < turns else "one after the other (loop)"
    note(
        f"a step of {count} lanes takes {together:.3g} s together and {turns:.3g} s one after the "
        f"other; they are trained {way}"
    )
    return together < turns
