"""What a run lacks that has taken all its steps, such as after a kill at its very end."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.config import TrainConfig
from jaxgpt.terminal import note
from jaxgpt.training.loop import Hooks, visit
from jaxgpt.training.metrics import read_metrics
from jaxgpt.training.report import Reporter
from jaxgpt.training.step import TrainState


def complete(
    run: Path,
    state: TrainState,
    config: TrainConfig,
    make_hooks: Callable[[Reporter], Hooks],
    pages: Sequence[str],
    *,
    samples: bool,
    unit: str = "tokens",
) -> list[dict[str, Any]]:
    """The records of a run at or beyond its last step, once what is missing has been made.

    That may be the last measurement; the last sample, if it `samples`; and `pages`, which
    `Hooks.publish` writes.
    """
    step, records = int(state.step), read_metrics(run)
    names = [name for item in records if item["step"] == step for name in item]
    measure = not any(name.startswith("validation_") for name in names)
    sample = samples and "sample" not in names
    lost = [name for name in pages if not _is_there(run / name)]
    if step == config.steps and (measure or sample or lost):
        what = ["a measurement"] * measure + ["a sample"] * sample + lost
        note(f"{run} has taken all its steps, but lacks {', '.join(what)}; it is made now")
        reporter = Reporter(run, config.steps, step, unit=unit)
        hooks = make_hooks(reporter)
        visit(state, config, (measure, sample, False), hooks, reporter)
        hooks.publish()
        reporter.close()
        records = reporter.records
    note(f"{run} is already finished at step {step}")
    return records


def _is_there(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
