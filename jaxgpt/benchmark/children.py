"""The suites `load` and `memory`: each contender in processes of its own, for a few steps."""

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax

from jaxgpt.benchmark import child
from jaxgpt.benchmark.contenders import CONTENDERS, Unavailable, need_torch
from jaxgpt.benchmark.machine import describe_machine
from jaxgpt.benchmark.processes import run_module
from jaxgpt.benchmark.report import Report
from jaxgpt.benchmark.training import compare_losses, start
from jaxgpt.benchmark.turns import take_turns
from jaxgpt.benchmark.workload import describe, save_start
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.errors import ConfigError, JaxgptError

_COLD, _WARM = "", ", from the cache"


def measure_processes(
    suite: Literal["load", "memory"], config: TrainConfig, names: Sequence[str], turns: int
) -> Report:
    """What processes in training took, the median over `turns` of them.

    `load`: seconds from the start to the imports and to the end of the first step; whoever compiles
    is measured twice, with an empty compilation cache and with what that left. `memory`: the most
    that was resident. Raises JaxgptError for a process that fails, or other losses; ConfigError if
    no contender is left.
    """
    with tempfile.TemporaryDirectory(prefix="jaxgpt-benchmark-") as made:
        folder = Path(made)
        (folder / "config.json").write_text(json.dumps(to_dict(config)))
        save_start(folder / "start.npz", start(config))
        works, runs, left_out = {}, {}, {}
        for name in names:
            contender = CONTENDERS[name]
            try:
                if contender.library == "torch":
                    need_torch()
            except Unavailable as reason:
                left_out[contender.label] = str(reason)
                continue
            # One that does not compile is the same with a cache; memory is asked for only once.
            compiles = contender.compiled or contender.library == "jaxgpt"
            for how in (_COLD, _WARM) if compiles and suite == "load" else (_COLD,):
                label = contender.label + how
                runs[label] = name
                works[label] = partial(_run, folder, name, fresh=how == _COLD)
        taken = take_turns(works, turns)
    for label, results in taken.results.items():
        for result in results:
            if "unavailable" in result:
                left_out[label] = result["unavailable"]
    kept = {label: name for label, name in runs.items() if label not in left_out}
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ConfigError(f"no contender is left: {reasons}")
    compare_losses(
        {name: taken.results[label][-1]["losses"] for label, name in kept.items()},
        jax.default_backend(),
    )
    return Report(
        suite=suite,
        shape=f"{describe(config.model)}, batch {config.batch_size}",
        config=to_dict(config),
        machine=describe_machine(),
        rows=[_row(label, taken.results[label], _FIGURES[suite]) for label in kept],
        figure="first_step_seconds" if suite == "load" else "peak_mb",
        others=taken.others,
        seconds=taken.window,
        left_out=left_out,
        notes=_NOTES[suite],
    )


def _run(folder: Path, name: str, *, fresh: bool) -> dict[str, Any]:
    """What a child says; with `fresh`, its compilers find an empty cache, and else the last one."""
    if fresh:
        (folder / name).mkdir(exist_ok=True)
        tempfile.mkdtemp(dir=folder / name)
    cache = str(max((folder / name).iterdir(), key=lambda path: path.stat().st_mtime_ns))
    caches = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": cache,
    }
    words = str(folder), name, jax.default_backend(), repr(time.time())
    try:
        return run_module(child.__name__, *words, variables=caches)
    except JaxgptError as failure:
        label = CONTENDERS[name].label
        raise JaxgptError(f"the process of {label} failed: {failure}") from None


def _row(label: str, results: list[Any], figures: list[tuple[str, str, float]]) -> dict[str, Any]:
    row = {"contender": label, "turns": results}
    for key, column, unit in figures:
        values = [result[key] for result in results]
        if None not in values:
            row[column] = statistics.median(values) / unit
    return row


# What a child says, the column of it, and the unit of that.
_FIGURES = {
    "load": [(name, name, 1.0) for name in ("import_seconds", "first_step_seconds")],
    "memory": [("peak_bytes", "peak_mb", 1e6), ("device_peak_bytes", "device_peak_mb", 1e6)],
}
_NOTES = {
    "load": (
        "from the start of the process, whose imports and whose first step, with what is compiled "
        "for it, end then; losses agree",
    ),
    "memory": (
        f"the most resident memory of a process that takes {child.STEPS} steps: interpreter, "
        "libraries, compiler, parameters, gradients, optimizer and activations; losses agree",
    ),
}
