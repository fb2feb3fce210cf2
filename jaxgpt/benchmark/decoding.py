"""The suite `decode`: the same greedy text by jaxgpt and by transformers, by turns."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.benchmark.contenders import Unavailable
from jaxgpt.benchmark.machine import describe_machine, measure_copy
from jaxgpt.benchmark.report import Report
from jaxgpt.benchmark.training import start
from jaxgpt.benchmark.turns import Turns, take_turns
from jaxgpt.benchmark.workload import describe, make_tokens
from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.errors import ConfigError
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.prepared_params import DecodingParams, prepare_params
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.generation.settings import WeightDtype
from jaxgpt.huggingface.weights import Dtype, save_gpt2
from jaxgpt.model.flops import multiplied_parameters
from jaxgpt.model.gpt import init_cache
from jaxgpt.model.layers import Params
from jaxgpt.shell import install

_OURS, _THEIRS = "jaxgpt", "transformers"


def measure_decoding(
    config: TrainConfig,
    *,
    dtype: Dtype = "float32",
    weight_dtype: WeightDtype = "stored",
    batch_sizes: Sequence[int] = (1, 8),
    prompt_tokens: int = 64,
    new_tokens: int = 128,
    turns: int = 5,
    alone: bool = False,
) -> Report:
    """Time greedy texts of `new_tokens` after prompts of `prompt_tokens`, with a cache.

    Parameters are in `dtype`; jaxgpt keeps the weights in `weight_dtype`. `alone` leaves
    transformers out. Raises JaxgptError unless both write the same tokens, but for ties within
    rounding and for weights in another dtype; ConfigError as `check_room` does.
    """
    check_room(config.model, prompt_tokens, new_tokens)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), varied_start(config))
    prepared = prepare_params(jax.device_put(params), weight_dtype)
    kept = jnp.dtype(dtype if weight_dtype == "stored" else weight_dtype)
    writers: dict[str, Any] = {_OURS: None}
    left_out: dict[str, str] = {}
    theirs, sizes = None, {_THEIRS: (jnp.dtype(dtype),) * 2}
    try:
        if not alone:
            theirs = _transformers(config, params)
            writers[_THEIRS] = theirs.write
    except Unavailable as reason:
        left_out[_THEIRS] = str(reason)
    numbers = dtype if kept == dtype else f"{dtype} (jaxgpt's weights {kept})"
    copy = measure_copy()
    rows, others, seconds = [], [], []
    for batch_size in batch_sizes:
        prompts = make_tokens(config, batch_size * prompt_tokens).reshape(batch_size, -1)
        ready = prepared.for_rows(config.model, batch_size)
        writers[_OURS] = partial(write, config.model, ready)
        sizes[_OURS] = (kept if ready is prepared else ready.dtype, ready.dtype)
        works = {
            (name, count): partial(writer, count, prompts)
            for name, writer in writers.items()
            for count in dict.fromkeys((new_tokens, 1))
        }
        texts = {work: write_text() for work, write_text in works.items()}
        same = "rounded anew"
        if theirs and kept == dtype:
            same = theirs.compare(prompts, *(texts[name, new_tokens] for name in writers))
        taken = take_turns(works, turns)
        others.append(taken.others)
        seconds.append(taken.window)
        for name in writers:
            length = prompt_tokens + new_tokens // 2
            read = bytes_read(config.model, batch_size, length, *sizes[name])
            row = _row(name, taken, batch_size, new_tokens, read / copy)
            if theirs:
                whole = taken.median((_THEIRS, new_tokens))
                row |= {"ratio": row["median_ms"] / 1e3 / whole, "same_tokens": same}
            rows.append(row)
    return Report(
        suite="decode",
        shape=f"{describe(config.model)}, {numbers}, prompt {prompt_tokens} + {new_tokens} tokens",
        config=to_dict(config),
        machine=describe_machine() | {"copy": copy},
        rows=rows,
        figure="tokens_per_second",
        others=None if None in others else max(others),
        seconds=min(seconds),
        left_out=left_out,
        notes=(
            "tokens/s counts new tokens of all rows; a turn takes in the prompt, too",
            f"copies {copy / 1e9:,.0f} GB/s; its share is that of reading each weight and the keys "
            "and values of all rows once, in the time of a token after the first",
        ),
    )


def check_room(model: ModelConfig, prompt_tokens: int, new_tokens: int) -> None:
    """Raise ConfigError if the context has no room for so many tokens."""
    length, needed = model.context_length, prompt_tokens + new_tokens
    if needed > length:
        raise ConfigError(
            f"context_length is {length}, but {prompt_tokens} tokens of prompt and {new_tokens} "
            f"new ones need {needed}; take --shape small or larger, or fewer tokens"
        )


def bytes_read(model: ModelConfig, rows: int, length: int, weights: Any, cache: Any) -> int:
    """Bytes that the next token of each row needs, after `length` of them, by their dtypes."""
    kept = jax.tree.leaves(jax.eval_shape(lambda: init_cache(model, rows, length, cache)))
    read = multiplied_parameters(model) * jnp.dtype(weights).itemsize
    return read + sum(leaf.size * leaf.dtype.itemsize for leaf in kept)


def write(
    model: ModelConfig, params: DecodingParams, new_tokens: int, prompts: np.ndarray
) -> np.ndarray:
    """The new tokens of each row."""
    greedy = SamplingConfig(temperature=0.0)
    return np.array(
        generate(model, params, prompts.tolist(), max_new_tokens=new_tokens, sampling=greedy)
    )


def _transformers(config: TrainConfig, params: Params) -> Any:
    try:
        from jaxgpt.benchmark.transformers_writer import TransformersWriter
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name in ("torch", _THEIRS)
        found = f"{error.name} is not installed: {install(str(error.name))}"
        raise Unavailable(found if missing else str(error)) from None
    with tempfile.TemporaryDirectory(prefix="jaxgpt-benchmark-") as folder:
        save_gpt2(Path(folder) / "model", config.model, params)
        return TransformersWriter(Path(folder) / "model", jax.default_backend())


def varied_start(config: TrainConfig) -> Params:
    """Random parameters whose greedy text does not repeat one token.

    At GPT-2's start the blocks add next to nothing, so that a tied head finds the last token again;
    with weights three times as large they have a say.
    """
    params = start(config)
    return params | {"blocks": jax.tree.map(lambda leaf: 3 * leaf, params["blocks"])}


def _row(
    name: str, taken: Turns, batch_size: int, new_tokens: int, copied: float
) -> dict[str, Any]:
    """A writer's figures; `copied` are the seconds of a token at the rate of copies."""
    work = name, new_tokens
    whole, first = taken.median(work), taken.median((name, 1))
    row: dict[str, Any] = {
        "contender": name,
        "batch": batch_size,
        "median_ms": 1e3 * whole,
        "least_ms": 1e3 * min(taken.seconds[work]),
        "tokens_per_second": batch_size * new_tokens / whole,
        "first_token_ms": 1e3 * first,
        "turns_ms": [1e3 * second for second in taken.seconds[work]],
    }
    if new_tokens > 1 and whole > first:
        each = (whole - first) / (new_tokens - 1)
        row |= {"token_ms": 1e3 * each, "copy_share": copied / each}
    return row
