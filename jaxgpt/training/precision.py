"""Precision `auto`: the dtype whose products the devices at hand compute faster, measured once."""

import json
import math
import os
import time
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgpt.data.downloads import cache_subfolder
from jaxgpt.errors import ConfigError, ResourceError
from jaxgpt.fields import typed
from jaxgpt.files import write_file
from jaxgpt.hosts.group import this_group
from jaxgpt.model.products import multiply
from jaxgpt.run_config import FolderOptions, RunConfig
from jaxgpt.terminal import note
from jaxgpt.training.kept import checkpoints
from jaxgpt.training.processor import cores, cpu_model
from jaxgpt.training.run_contents import recorded_settings

Precision = Literal["float32", "bfloat16"]
Settings = TypeVar("Settings", bound=RunConfig)

_NAMED = "JAXGPT_COMPUTE_DTYPE"  # what auto takes, unmeasured
_FASTER = 1.25  # by less than this float32 is no slower, for a step is more than its products
_TURNS = 5
_MEASURED = "linear"  # what is measured: figures of plain products lie beside these


def settle_precision(
    settings: Settings, run: str | Path = "", options: FolderOptions | None = None
) -> Settings:
    """`settings` with a precision for `auto`: that of the run that goes on in `run`, or the faster.

    Of several processes, the first decides. Raises ConfigError for a wrong `JAXGPT_COMPUTE_DTYPE`.
    """
    if settings.compute_dtype != "auto":
        return settings
    group, found = this_group(), ""
    if group.is_first:
        found = _recorded(settings, run, options) or fastest_precision()
    return replace(settings, compute_dtype=group.from_first("precision", found))


def _recorded(settings: RunConfig, run: str | Path, options: FolderOptions | None) -> str:
    """The precision of the run that goes on in folder `run`, or nothing."""
    if options is None or options.overwrite or options.resume == "never" or not os.path.isdir(run):
        return ""
    before = recorded_settings(Path(run), settings) if checkpoints(Path(run)) else None
    return "" if before is None or before.compute_dtype == "auto" else before.compute_dtype


def fastest_precision() -> Precision:
    """The faster dtype of products on JAX's first device, by `JAXGPT_COMPUTE_DTYPE` or measured.

    It is measured in about a second and kept in the cache folder, by device, cores and jaxlib.
    """
    if named := os.environ.get(_NAMED):
        return typed(_NAMED, named, Precision)
    return _faster()


@lru_cache
def _faster() -> Precision:
    seconds = _kept_seconds()
    wide, narrow = seconds["float32"], seconds["bfloat16"]
    fastest: Precision = "bfloat16" if narrow * _FASTER < wide else "float32"
    note(
        f"compute_dtype auto takes {fastest}: three products take {1e3 * wide:,.3g} ms in float32 "
        f"here, {1e3 * narrow:,.3g} ms in bfloat16"
    )
    return fastest


def _kept_seconds() -> dict[str, float]:
    """Seconds of products by dtype, from the cache folder or measured and put there."""
    path = _path()
    try:
        kept = {} if path is None else json.loads(path.read_text())
        return {name: float(kept[name]) for name in ("float32", "bfloat16")}
    except (OSError, ValueError, KeyError, TypeError):
        measured = product_seconds()
    try:
        if path is not None:
            write_file(path, json.dumps(measured) + "\n")
    except (OSError, ResourceError):
        pass  # measured again by the next run
    return measured


def _path() -> Path | None:
    """Where the device's figures are kept; None where there can be no such folder."""
    device = jax.devices()[0]
    kind = f"{cpu_model()} {cores()}" if device.platform == "cpu" else device.device_kind
    words = "".join(letter if letter.isalnum() else "-" for letter in kind)
    try:
        return cache_subfolder("products") / f"{words}-jaxlib-{version('jaxlib')}-{_MEASURED}.json"
    except ConfigError:
        return None


def product_seconds() -> dict[str, float]:
    """Seconds of a linear layer's product and the two of its backward pass, by dtype; best of 5.

    Those on a CPU are of its own time, in which other programs have no part. The dtypes take turns.
    """
    cpu = jax.default_backend() == "cpu"
    width, clock = (512, time.process_time) if cpu else (2048, time.perf_counter)

    @jax.jit
    def products(
        x: Float[Array, "N I"], weight: Float[Array, "I O"], grad: Float[Array, "N O"]
    ) -> tuple[Any, ...]:
        result, backward = jax.vjp(multiply, x, weight)
        return result, backward(grad)

    seconds: dict[str, float] = {"float32": math.inf, "bfloat16": math.inf}
    for turn in range(_TURNS + 1):
        for dtype in seconds:
            shapes = (2 * width, width), (width, 2 * width), (2 * width, 2 * width)
            given = jax.block_until_ready([jnp.ones(shape, dtype) for shape in shapes])
            begun = clock()
            jax.block_until_ready(products(*given))
            if turn:  # the first compiles
                seconds[dtype] = min(seconds[dtype], clock() - begun)
    return seconds
