"""The suite `blocks`: what each part of today's blocks buys, at equal parameters and equal time."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jaxgpt.benchmark.machine import describe_machine
from jaxgpt.benchmark.report import Report
from jaxgpt.benchmark.turns import Turns, take_turns
from jaxgpt.benchmark.workload import describe, with_steps
from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.data.corpus import open_corpus
from jaxgpt.data.named_text import Progress
from jaxgpt.families.llama import FORM
from jaxgpt.fields import check
from jaxgpt.model.parameters import count_parameters
from jaxgpt.model.schema import dimensions
from jaxgpt.training.evaluation import validation
from jaxgpt.training.fits import check_step
from jaxgpt.training.lanes import Training, alone
from jaxgpt.training.mesh import make_mesh
from jaxgpt.training.pretrain import fit_vocabulary, split_windows
from jaxgpt.training.run_card import entropy_per_byte
from jaxgpt.training.run_state import check_attention
from jaxgpt.training.sweep import runs_of

_LLAMA = FORM | {"gate": "silu", "num_kv_heads": 1}
BLOCKS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "rms-norm": {"norm": "rms"},
    "no-biases": {"qkv_bias": False, "out_bias": False, "mlp_bias": False},
    "rope": {"positions": "rope"},
    "swiglu": {"gate": "silu"},
    "grouped-queries": {"num_kv_heads": 1},
    # Only models with RMS norm have it, so it stands beside that row.
    "rms-norm+qk-norm": {"norm": "rms", "qk_norm": "head"},
    "llama": _LLAMA,
    "qwen3": _LLAMA | {"qk_norm": "head"},
}
"""Rows by name, and the fields of `ModelConfig` in which each differs from GPT-2's block."""
_MULTIPLE = 4  # of which the hidden width is one, so that no row is slow for an odd width alone


def of_equal_size(model: ModelConfig, name: str) -> ModelConfig:
    """`model` with the parts of a row, and with the hidden width that keeps its parameters."""
    if not BLOCKS[name]:
        return model
    narrow, wider = (replace(model, **BLOCKS[name], hidden_dim=n * _MULTIPLE) for n in (1, 2))
    least = count_parameters(narrow)
    more = (count_parameters(model) - least) / (count_parameters(wider) - least)
    return replace(narrow, hidden_dim=(1 + round(more)) * _MULTIPLE)


def measure_blocks(
    config: TrainConfig,
    names: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (0,),
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Train the run `config` by each seed for each row, all if none is named, and gpt2's first.

    `config.model` is GPT-2's block. First the steps are timed by turns; then each row takes as many
    as fit into the time of gpt2's, the same share of them warm-up. Bits per byte are those of the
    validation text, the mean over the seeds; None where training diverged. No folder is kept.
    Raises ConfigError for an unknown name, and a JaxgptError as `sweep` does.
    """
    for name in names:
        check(name in BLOCKS, f"no block is called {name}; there are {', '.join(BLOCKS)}")
    runs_of(config, seeds, [config.optimizer.learning_rate])  # refuses seeds of no sweep
    mesh, rows = make_mesh(config), []
    with TemporaryDirectory(prefix="jaxgpt-blocks-") as folder:
        dataset, tokenizer = open_corpus(config.data, Path(folder, "tokens"), progress=progress)
        config = fit_vocabulary(config, tokenizer)
        windows, held_out = split_windows(config, dataset)
        runs: dict[str, TrainConfig] = {}
        for name in BLOCKS:
            if not names or name in names or name == "gpt2":
                runs[name] = replace(config, model=of_equal_size(config.model, name))
                check_attention(runs[name], mesh)
                check_step(runs[name], mesh.size)
        begin = {name: alone(run, windows, mesh) for name, run in runs.items()}
        taken = _time({name: begin[name](run) for name, run in runs.items()})
        for name, run in runs.items():
            ratio, bits = taken.median(name) / taken.median("gpt2"), []
            run = with_steps(run, max(1, round(config.steps / ratio)))
            evaluate = validation(run, dataset, held_out, mesh)
            for seed in seeds:
                lane = begin[name](replace(run, seed=seed))
                lane.advance(run.steps, partial(progress, f"steps of {name}, seed {seed}"))
                bits += [found.validation_bits_per_byte for found in lane.lanes(evaluate)]
            row = {
                "parameters": count_parameters(run.model),
                "hidden_dim": dimensions(run.model)["F"],
                "steps": run.steps,
                "contender": name,
                "step_ratio": ratio,
                "turns_ms": [1e3 * x for x in taken.seconds[name]],
            }
            rows.append(row | _figures(bits, entropy_per_byte(dataset)))
    return Report(
        suite="blocks",
        shape=f"{describe(config.model)}, batch {config.batch_size}, each row in gpt2's time",
        config=to_dict(config),
        machine=describe_machine(),
        rows=rows,
        figure="bits_per_byte",
        others=taken.others,
        seconds=taken.window,
    )


def _time(lanes: dict[str, Training]) -> Turns:
    """Turns of some steps of each, after two that do not count."""
    for lane in lanes.values():
        lane.advance(2)
    works = {n: lambda lane=lane: lane.advance(len(lane.losses) + 2) for n, lane in lanes.items()}
    return take_turns(works, 10)


def _figures(bits: Sequence[float], floor: float | None) -> dict[str, Any]:
    """Bits per byte by seed, their mean and spread, and what is above the entropy."""
    if not math.isfinite(mean := statistics.fmean(bits)):
        return {"bits_per_byte": None}
    row: dict[str, Any] = {"bits_by_seed": bits, "bits_per_byte": mean}
    if len(bits) > 1:
        row["spread"] = max(bits) - min(bits)
    return row if not floor else row | {"excess": mean - floor, "excess_share": mean / floor - 1}
