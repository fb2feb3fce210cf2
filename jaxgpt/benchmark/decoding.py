"""The suite `decode`: the same greedy text by jaxgpt and by transformers, by turns."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.benchmark.contenders import Unavailable
from jaxgpt.benchmark.machine import describe_machine
from jaxgpt.benchmark.report import Report
from jaxgpt.benchmark.training import start
from jaxgpt.benchmark.turns import Turns, take_turns
from jaxgpt.benchmark.workload import describe, make_tokens
from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.errors import ConfigError
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.dispatch import DecodingParams, prepare_params
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.huggingface.weights import Dtype, save_gpt2
from jaxgpt.model.layers import Params
from jaxgpt.shell import install

_OURS, _THEIRS = "jaxgpt", "transformers"


def measure_decoding(
    config: TrainConfig,
    *,
    dtype: Dtype = "float32",
    batch_sizes: Sequence[int] = (1, 8),
    prompt_tokens: int = 64,
    new_tokens: int = 128,
    turns: int = 5,
) -> Report:
    """Time greedy texts of `new_tokens` after prompts of `prompt_tokens`, with a cache.

    Raises JaxgptError unless both write the same tokens, but for ties within rounding; ConfigError
    if the context has no room for them.
    """
    length, needed = config.model.context_length, prompt_tokens + new_tokens
    if needed > length:
        raise ConfigError(
            f"context_length is {length}, but {prompt_tokens} tokens of prompt and {new_tokens} "
            f"new ones need {needed}; take --shape small or larger, or fewer tokens"
        )
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), varied_start(config))
    ours = partial(write, config.model, prepare_params(jax.device_put(params)), new_tokens)
    writers: dict[str, Any] = {_OURS: ours}
    left_out: dict[str, str] = {}
    try:
        theirs = _transformers(config, params, new_tokens)
        writers[_THEIRS] = theirs.write
    except Unavailable as reason:
        theirs, left_out[_THEIRS] = None, str(reason)
    rows, others, seconds = [], [], []
    for batch_size in batch_sizes:
        prompts = make_tokens(config, batch_size * prompt_tokens).reshape(batch_size, -1)
        texts = {name: writer(prompts) for name, writer in writers.items()}
        same = theirs.compare(prompts, texts[_OURS], texts[_THEIRS]) if theirs else ""
        taken = take_turns({name: partial(writers[name], prompts) for name in writers}, turns)
        others.append(taken.others)
        seconds.append(taken.window)
        rows += _rows(taken, batch_size, new_tokens, same)
    return Report(
        suite="decode",
        shape=f"{describe(config.model)}, {dtype}, prompt {prompt_tokens} + {new_tokens} tokens",
        config=to_dict(config),
        machine=describe_machine(),
        rows=rows,
        figure="tokens_per_second",
        others=None if None in others else max(others),
        seconds=min(seconds),
        left_out=left_out,
        notes=("tokens/s counts new tokens of all rows; a turn takes in the prompt, too",),
    )


def write(
    model: ModelConfig, params: DecodingParams, new_tokens: int, prompts: np.ndarray
) -> np.ndarray:
    """The new tokens of each row."""
    greedy = SamplingConfig(temperature=0.0)
    return np.array(
        generate(model, params, prompts.tolist(), max_new_tokens=new_tokens, sampling=greedy)
    )


def _transformers(config: TrainConfig, params: Params, new_tokens: int) -> Any:
    try:
        from jaxgpt.benchmark.transformers_writer import TransformersWriter
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name in ("torch", _THEIRS)
        found = f"{error.name} is not installed: {install(str(error.name))}"
        raise Unavailable(found if missing else str(error)) from None
    with tempfile.TemporaryDirectory(prefix="jaxgpt-benchmark-") as folder:
        save_gpt2(Path(folder) / "model", config.model, params)
        return TransformersWriter(Path(folder) / "model", new_tokens, jax.default_backend())


def varied_start(config: TrainConfig) -> Params:
    """Random parameters whose greedy text does not repeat one token.

    At GPT-2's start the blocks add next to nothing, so that a tied head finds the last token again;
    with weights three times as large they have a say.
    """
    params = start(config)
    return params | {"blocks": jax.tree.map(lambda leaf: 3 * leaf, params["blocks"])}


def _rows(taken: Turns, batch_size: int, new_tokens: int, same: str) -> list[dict[str, Any]]:
    rows = []
    for name, seconds in taken.seconds.items():
        row: dict[str, Any] = {
            "contender": name,
            "batch": batch_size,
            "median_ms": 1e3 * taken.median(name),
            "least_ms": 1e3 * min(seconds),
            "tokens_per_second": batch_size * new_tokens / taken.median(name),
            "turns_ms": [1e3 * second for second in seconds],
        }
        if _THEIRS in taken.seconds:
            row |= {"ratio": taken.median(name) / taken.median(_THEIRS), "same_tokens": same}
        rows.append(row)
    return rows
