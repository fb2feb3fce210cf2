"""What a run takes in memory and arithmetic: by a formula, or by XLA on the devices at hand."""

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError, ResourceError
from jaxgpt.fields import typed
from jaxgpt.model.flops import flops_per_token
from jaxgpt.model.gpt import init_cache
from jaxgpt.model.parameters import count_parameters, parameter_shapes
from jaxgpt.model.products import is_widened
from jaxgpt.model.schema import SCHEMA, Rows, dimensions, names_of, rows_of
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.tokenization.tokenizer import load_tokenizer
from jaxgpt.training.compiled_step import make_step
from jaxgpt.training.mesh import batch_sharding, leaf_spec
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.run_state import state_template
from jaxgpt.training.step import TrainState, init_state

Narrow = Literal["all", "plain", "none"]
"""Which products in bfloat16 are computed as they are: all, those of which no factor is transposed,
as in the forward pass, or none. The factors of the others are widened to float32."""

_MOST_BYTES = 10**15  # beyond which nothing is worth planning
MOST_LOGITS = 1 << 27
"""Logits that a device computes at once, but for a CPU."""
_IDS = {"bytes": 256, "gpt2": 50257}
_PARTS = {"embeddings": ("embed",), "blocks": ("blocks",), "head": ("norm", "head")}


@dataclass(frozen=True)
class Plan:
    """What each device of a run holds, in bytes, and what a step computes."""

    parameters: dict[str, int]
    """How many there are, over all devices: embeddings, blocks, and head with the last norm."""
    parameter_bytes: dict[str, int]
    optimizer: int
    batch: int
    micro_batch: int
    """Windows that a device takes at once."""
    gradients: int
    """Twice those of the parameters where micro-batches are summed."""
    cast: int
    """The copy of the parameters in the compute dtype."""
    kept: int
    """Activations that the forward pass keeps for the backward pass of a micro-batch."""
    working: int
    """The backward pass of one block, or the logits and their gradient, whichever is more."""
    cache: int
    """Keys and values of one text of full length, in decoding."""
    flops_per_token: int
    flops_per_step: int

    @property
    def held(self) -> int:
        """Bytes that are in memory throughout."""
        return sum(self.parameter_bytes.values()) + self.optimizer + self.batch

    @property
    def peak(self) -> int:
        """The most bytes at once in a step, estimated: as if all that comes and goes met."""
        return self.held + self.gradients + self.cast + self.kept + self.working


def settle_vocabulary(config: TrainConfig) -> TrainConfig:
    """`config` with the number of ids that its tokenizer has or will have, where it leaves it open.

    Raises ConfigError if that cannot be told without a download, DataError if a folder is damaged.
    """
    spec = config.data.tokenizer
    ids = config.model.vocab_size or _IDS.get(spec)
    if not ids and spec.startswith("bpe:"):
        ids = int(spec.removeprefix("bpe:"))
    if not ids and os.path.exists(spec):
        ids = load_tokenizer(spec).vocab_size
    if not ids:
        raise ConfigError(
            f"vocab_size is 0, and how many ids tokenizer {spec} has is not known; set "
            "--vocab-size, or --tokenizer to gpt2, bytes, bpe:N or a tokenizer's folder"
        )
    return replace(config, model=replace(config.model, vocab_size=ids))


def make_plan(config: TrainConfig, devices: int = 1, *, bfloat16: Narrow = "all") -> Plan:
    """The plan of a run on `devices`, laid out by `config.axes`, by a formula.

    `bfloat16` is which products they compute in it (`multiplies_bfloat16`). Raises ConfigError for
    another word, or if the vocabulary is not settled; ResourceError if no machine could hold the
    parameters.
    """
    model, axes = config.model, config.axes
    parameters, bytes_of, means = _state_bytes(model, config.optimizer, config.steps, axes[1:])
    whole = sum(bytes_of.values())
    if whole + means > _MOST_BYTES:
        raise ResourceError(
            f"{count_parameters(model):,} parameters and their optimizer take more than "
            f"{_MOST_BYTES / 1e12:,.0f} TB; choose a smaller model"
        )
    rows = config.batch_size // (devices // axes.tensor)
    micro_batch, length = rows // config.gradient_accumulation, model.context_length
    itemsize, bfloat16 = (
        jnp.dtype(config.compute_dtype).itemsize,
        typed("bfloat16", bfloat16, Narrow),
    )
    width, works_in = 4 if bfloat16 == "none" else itemsize, itemsize if bfloat16 == "all" else 4
    block = bytes_of["blocks"] // model.num_layers
    return Plan(
        parameters=dict(parameters),
        parameter_bytes=dict(bytes_of),
        optimizer=means,
        batch=2 * 4 * rows * length,
        micro_batch=micro_batch,
        gradients=whole if config.gradient_accumulation == 1 else 2 * whole,
        cast=0 if config.compute_dtype == "float32" else whole * works_in // 4,
        kept=kept_bytes(config, micro_batch * length, model.num_layers, width),
        working=working_bytes(config, micro_batch * length, works_in, block),
        cache=_cache_bytes(model),
        flops_per_token=flops_per_token(model),
        flops_per_step=flops_per_token(model) * config.batch_size * length,
    )


@lru_cache(maxsize=8)
def _state_shapes(model: ModelConfig, optimizer: OptimizerConfig, steps: int) -> TrainState:
    params = parameter_shapes(model)
    updates = make_optimizer(optimizer, steps, rows_of(model))
    return jax.eval_shape(lambda: init_state(params, updates))


@lru_cache(maxsize=256)
def _state_bytes(
    model: ModelConfig, optimizer: OptimizerConfig, steps: int, sharing: tuple[int, int]
) -> tuple[dict[str, int], dict[str, int], int]:
    """By part, the parameters and their bytes on a device; and the bytes of the optimizer there."""
    state, (fsdp, tensor) = _state_shapes(model, optimizer, steps), sharing
    params, rows = state.params, rows_of(model)
    parts = {name: {key: params.get(key, {}) for key in keys} for name, keys in _PARTS.items()}
    counts = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in parts.items()
    }
    sizes = {name: device_bytes(part, fsdp, rows, tensor) for name, part in parts.items()}
    return counts, sizes, device_bytes(state.opt_state, fsdp, rows, tensor)


def kept_bytes(config: TrainConfig, tokens: int, layers: int, width: int) -> int:
    """Activations kept for the backward pass: n L (4 D + b (D + E + F)), or n L 4 D with remat.

    n `tokens` of a micro-batch on a device, b bytes a number (`width`), L `layers` that are
    trained; of each, what comes in, in float32, and what its linear layers give, but for the last.
    F is that of all experts that a token goes through, whose last linear layer counts as well; a
    gate gives F more, and where a norm follows, the last counts too. E and F are those of a device.
    """
    sizes, model = _sizes(config), config.model
    given = sizes["D"] + sizes["E"] + sizes["F"] * (1 + (model.gate != "none"))
    given += sizes["D"] * (model.norm_place != "before")
    return tokens * layers * (4 * sizes["D"] + (0 if config.remat else width * given))


def working_bytes(config: TrainConfig, tokens: int, width: int, block: int) -> int:
    """The most that the backward pass of one micro-batch works in at once, estimated.

    It is that of a block, b n (2 E + 3 F + 2 A) and the gradient of the block's parameters
    (`block` bytes), where A = H (T + 64) / 2 are a token's attention weights, or those of a window
    that all layers have; with a gate F more; with remat also what the block computes again, b n
    (2 D + E + F), and with dropout 16 n (A + 2 D) for its masks. Where kinds of layers repeat, a
    turn of the loop holds one of each. Or it is that of the head, 8 bytes for each of n V logits,
    of which 2^27 are computed at once, and 3 b n D. n, b: see `kept_bytes`.
    """
    model, sizes, length = config.model, _sizes(config), config.model.context_length
    d, e, f = (sizes[letter] for letter in "DEF")
    chunk, window = min(64, length), length if model.window_period else model.window or length
    weights = sizes["H"] * min((length + chunk) // 2, window + chunk)
    gate = f * (model.gate != "none")
    again = 2 * d + e + f + gate if config.remat else 0
    masks = 16 * (weights + 2 * d) if model.dropout else 0
    backward = tokens * (width * (2 * e + 3 * f + gate + 2 * weights + again) + masks) + block
    head = 8 * min(tokens * sizes["V"], MOST_LOGITS) + 3 * width * tokens * d
    return max(backward * min(model.window_period or 1, model.num_layers), head)


def _sizes(config: TrainConfig) -> dict[str, int]:
    """The sizes of what a device computes."""
    sizes, experts = dimensions(config.model), config.model.experts
    sizes |= {letter: -(-sizes[letter] // config.axes.tensor) for letter in "EFHV"}
    if not experts.num_experts:
        return sizes
    return sizes | {"F": experts.experts_per_token * (sizes["F"] + sizes["D"])}


def multiplies_bfloat16(devices: int = 1) -> Narrow:
    """Which products of a step this machine's devices compute in bfloat16; compiles up to two."""
    if jax.default_backend() != "cpu":
        return "all"
    if is_widened("a @ b"):
        return "none"
    # On several devices, operands that would be widened are not copied.
    return "plain" if devices > 1 and is_widened("a.mT @ b") else "all"


@lru_cache(maxsize=1)
def compiled_step(config: TrainConfig, mesh: Mesh) -> Any:
    """The step of a run on `mesh`, compiled; what it would step is not allocated."""
    template = state_template(parameter_shapes(config.model), config, mesh)
    shape = (config.batch_size, config.model.context_length)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(mesh))
    return make_step(config, mesh).lower(template, (tokens, tokens), np.int32(0)).compile()


def compiled_peak(config: TrainConfig, mesh: Mesh) -> int:
    """The most bytes at once on each device of `mesh` in a step, by XLA, which compiles it."""
    return peak_of(compiled_step(config, mesh))


def peak_of(program: Any) -> int:
    """The most bytes at once on each device in a compiled program, by XLA."""
    sizes = program.memory_analysis()
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.argument_size_in_bytes + results + sizes.temp_size_in_bytes


def device_bytes(tree: Any, fsdp: int, rows: Rows = SCHEMA, tensor: int = 1) -> int:
    """Bytes on each device of parameters or an optimizer's state, which so many of them share."""

    def size(path: tuple, leaf: Any) -> int:
        spec = str(leaf_spec(names_of(path), leaf.shape, tensor, rows))
        shares = (fsdp if "fsdp" in spec else 1) * (tensor if "tensor" in spec else 1)
        return leaf.size * leaf.dtype.itemsize // shares

    return sum(size(*item) for item in jax.tree.leaves_with_path(tree))


@lru_cache(maxsize=8)
def _cache_bytes(model: ModelConfig) -> int:
    """Bytes of the cache of one text of full length; layers of a kind have as much as another."""

    def size(window: int) -> int:
        layer = replace(model, num_layers=1, window=window, window_period=0)
        cache = jax.eval_shape(lambda: init_cache(layer, 1, model.context_length))
        return sum(leaf.size * 4 for leaf in jax.tree.leaves(cache))

    whole = model.num_layers // model.window_period if model.window_period else 0
    return whole * size(0) + (model.num_layers - whole) * size(model.window)
