"""The suite `growth`: by which power of its sizes a step takes time and memory.

`python -m ...growth` is one point, a process of its own: it reads what to take steps of as JSON,
and prints what they took.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxgpt.benchmark.child import device_peak
from jaxgpt.benchmark.jax_trainer import JaxTrainer
from jaxgpt.benchmark.machine import describe_machine
from jaxgpt.benchmark.processes import UNCACHED, forget_peak, host_peak, run_module
from jaxgpt.benchmark.report import Report
from jaxgpt.benchmark.training import WARM_UPS, start
from jaxgpt.benchmark.turns import take_turns
from jaxgpt.benchmark.workload import describe, make_batches
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import from_dict, to_dict
from jaxgpt.errors import JaxgptError
from jaxgpt.model.flops import flops_per_token
from jaxgpt.terminal import say
from jaxgpt.training.fits import check_step
from jaxgpt.training.mesh import select_platform
from jaxgpt.training.plan import Narrow, make_plan, multiplies_bfloat16

TIMES = (1, 2, 4)
"""What each size is multiplied by, while the others stay."""
_WIDTH = ("embed_dim", "num_heads", "num_kv_heads", "hidden_dim")
SIZES: dict[str, tuple[str, ...]] = {
    "layers": ("num_layers",),
    "width": _WIDTH,  # heads keep their width
    "T": ("context_length",),
    "batch": ("batch_size",),
}
"""Sizes that grow, and the fields of the config that do so together, the shown one first."""
_FIGURES: dict[str, tuple[str, float, str]] = {
    "ms a step": ("seconds", 1e-3, "flops"),
    "MB in steps": ("bytes", 1e6, "plan"),
    "MB, XLA's count": ("compiled_bytes", 1e6, "plan"),
    "s to compile": ("compile_seconds", 1, "instructions"),
}
"""Figures: by what name a point has them, in which unit, and what the arithmetic has for them."""


def grown(config: TrainConfig, size: str, times: int) -> TrainConfig:
    """The run with one of `SIZES` so many times as large."""
    if size == "batch":
        return replace(config, batch_size=times * config.batch_size)
    given = {name: times * getattr(config.model, name) for name in SIZES[size]}
    return replace(config, model=replace(config.model, **given))


def measure_growth(
    config: TrainConfig, *, turns: int = 10, tell: Callable[[str], None] = lambda line: None
) -> Report:
    """Take `turns` steps of `config` and of each of its sizes grown, each in processes of its own.

    The exponents are slopes of lines through the points, both axes logarithmic; those of the
    arithmetic are of the operations of a step, of the planned memory, and of the instructions that
    are compiled. Raises ResourceError before anything is measured if the largest cannot fit,
    JaxgptError if a process fails.
    """
    runs = {(size, times): grown(config, size, times) for size in SIZES for times in TIMES}
    for run in runs.values():
        check_step(run, 1)
    narrow: Narrow = "all" if config.compute_dtype == "float32" else multiplies_bfloat16()
    found: dict[Any, dict[str, Any]] = {}

    _point(config, 1, narrow)  # reads the libraries from the disk, and does not count

    def measure() -> None:
        for place, run in runs.items():
            same = next((other for other in found if runs[other] == run), None)
            if same is None:
                tell(f"{place[0]} x {place[1]}")
            found[place] = found[same] if same else _point(run, turns, narrow)

    taken = take_turns({"growth": measure}, 1)
    return Report(
        suite="growth",
        shape=f"{describe(config.model)}, batch {config.batch_size}, {config.compute_dtype}",
        config=to_dict(config),
        machine=describe_machine(),
        rows=[
            _row(figure, size, config, [found[size, times] for times in TIMES])
            for figure in _FIGURES
            for size in SIZES
        ],
        figure="exponent",
        others=taken.others,
        seconds=taken.window,
        notes=(
            f"each size x {', x '.join(map(str, TIMES))}, the others held, width with its heads; "
            "each point a process of its own, nothing compiled before",
            "of the arithmetic: operations of a step, planned memory, instructions to compile",
        ),
    )


def exponent(sizes: Sequence[int], values: Sequence[int | float]) -> float | None:
    """The slope of the line nearest to the points, both axes logarithmic; None unless all exceed 0.

    What grows as a power of a size has that power.
    """
    if min(values) <= 0:
        return None
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def _row(
    figure: str, size: str, config: TrainConfig, points: list[dict[str, Any]]
) -> dict[str, Any]:
    name, unit, counted = _FIGURES[figure]
    field = SIZES[size][0]
    base = getattr(config if size == "batch" else config.model, field)
    values = [point[name] / unit for point in points]
    return {
        "contender": f"{figure}, by {size}",
        "sizes": ", ".join(str(base * times) for times in TIMES),
        "values": ", ".join(f"{value:.1f}" if value >= 10 else f"{value:.3g}" for value in values),
        "exponent": exponent(TIMES, values),
        "arithmetic": exponent(TIMES, [point[counted] for point in points]),
        "points": points,
    }


def _point(run: TrainConfig, turns: int, narrow: Narrow) -> dict[str, Any]:
    request = {"config": to_dict(run), "platform": jax.default_backend(), "steps": turns}
    try:
        found = run_module(__name__, request=request, variables=UNCACHED)
    except JaxgptError as failure:
        raise JaxgptError(f"{describe(run.model)}, batch {run.batch_size}: {failure}") from None
    tokens = run.batch_size * run.model.context_length
    plan = make_plan(run, bfloat16=narrow).peak
    return found | {"flops": flops_per_token(run.model) * tokens, "plan": plan}


def _measure_point(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds and bytes of steps, and what it took to compile them, in a process with no past."""
    config = from_dict(TrainConfig(), request["config"])
    select_platform(request["platform"])
    trainer, batches = JaxTrainer(config, start(config)), make_batches(config, 1)
    instructions = trainer.instructions(batches[0])
    compile_seconds, compiled_bytes = trainer.compile(batches[0])
    forget_peak()  # of the compiler
    before = host_peak() - trainer.state_bytes
    trainer.run(batches * WARM_UPS)
    seconds = []
    for _ in range(request["steps"]):
        began = time.perf_counter()
        trainer.run(batches)
        seconds.append(time.perf_counter() - began)
    peak = host_peak()
    return {
        "seconds": statistics.median(seconds),
        "bytes": peak - before if request["platform"] == "cpu" else device_peak("jaxgpt"),
        "host_peak_bytes": peak,
        "compiled_bytes": compiled_bytes,
        "compile_seconds": compile_seconds,
        "instructions": instructions,
    }


if __name__ == "__main__":
    say(json.dumps(_measure_point(json.load(sys.stdin))))
