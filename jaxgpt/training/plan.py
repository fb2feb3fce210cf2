"""What a run takes in memory and arithmetic, told before anything is allocated or compiled."""

import os
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError, ResourceError
from jaxgpt.model.flops import flops_per_token
from jaxgpt.model.gpt import init_cache
from jaxgpt.model.parameters import count_parameters, parameter_shapes
from jaxgpt.model.schema import names_of, sharded_axis
from jaxgpt.tokenization.tokenizer import load_tokenizer
from jaxgpt.training.compiled_step import make_step
from jaxgpt.training.liveness import Size, nbytes, peak_bytes
from jaxgpt.training.loss import head_loss, pretraining_loss
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.step import TrainState, init_state

_MOST_BYTES = 10**15  # beyond which nothing is worth tracing
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
    cast: int
    """The copy of the parameters in the compute dtype."""
    kept: int
    """Activations that the forward pass keeps for the backward pass of a micro-batch."""
    logits: int
    """The head and the loss, beside their gradients."""
    peak: int
    """The most at once: parameters, optimizer and batch throughout, and what comes and goes."""
    cache: int
    """Keys and values of one text of full length, in decoding."""
    flops_per_token: int
    flops_per_step: int

    @property
    def held(self) -> int:
        """Bytes that are in memory throughout."""
        return sum(self.parameter_bytes.values()) + self.optimizer + self.batch


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


def make_plan(config: TrainConfig, devices: int = 1, *, bfloat16: bool = True) -> Plan:
    """The plan of a run on `devices`, `config.fsdp` of which share the parameters.

    `bfloat16` is whether they multiply in it (`multiplies_bfloat16`); where they do not, XLA widens
    what it multiplies to float32. Raises ConfigError if the vocabulary is not settled,
    ResourceError if no machine could hold the parameters.
    """
    model, state = config.model, _state(config)
    size = _size(config, state, bfloat16=bfloat16)
    alone = _size(replace(config, fsdp=1), state, bfloat16=bfloat16)
    bytes_of = {name: _total(state.params, parts, size) for name, parts in _PARTS.items()}
    optimizer = sum(map(size, jax.tree.leaves(state.opt_state)))
    if sum(bytes_of.values()) + optimizer > _MOST_BYTES:
        raise ResourceError(
            f"{count_parameters(model):,} parameters and their optimizer take more than "
            f"{_MOST_BYTES / 1e12:,.0f} TB; choose a smaller model"
        )
    rows = config.batch_size // devices
    micro = replace(config, batch_size=rows // config.gradient_accumulation)
    dtype = jnp.dtype(config.compute_dtype)
    return Plan(
        parameters={
            name: _total(state.params, parts, lambda leaf: leaf.size)
            for name, parts in _PARTS.items()
        },
        parameter_bytes=bytes_of,
        optimizer=optimizer,
        batch=sum(map(nbytes, _batch(replace(config, batch_size=rows)))),
        micro_batch=micro.batch_size,
        gradients=sum(bytes_of.values()),
        cast=0 if dtype == jnp.float32 else _cast(state, dtype, size),
        kept=_kept(micro, state, alone),
        logits=_logits(micro, alone),
        peak=peak(config, devices, bfloat16=bfloat16),
        cache=_cache(model),
        flops_per_token=flops_per_token(model),
        flops_per_step=flops_per_token(model) * config.batch_size * model.context_length,
    )


def multiplies_bfloat16() -> bool:
    """Whether XLA multiplies bfloat16 as it is on this machine's devices; compiles one product."""
    if jax.default_backend() != "cpu":
        return True
    matrix = jax.ShapeDtypeStruct((16, 16), jnp.bfloat16)
    return "f32[" not in (jax.jit(jnp.matmul).lower(matrix, matrix).compile().as_text() or "f32[")


def peak(config: TrainConfig, devices: int = 1, *, bfloat16: bool = True) -> int:
    """The most bytes that each device holds at once in a step; the arguments of `make_plan`."""
    state = _state(config)
    local = replace(config, batch_size=config.batch_size // devices, data_parallel=1, fsdp=1)
    step_fn = make_step(local, one_device())
    return step_bytes(step_fn, config, state, (_batch(local), 0), bfloat16=bfloat16)


def step_bytes(
    step_fn: Any, config: TrainConfig, state: TrainState, rest: tuple[Any, ...], *, bfloat16: bool
) -> int:
    """The most bytes at once in a jitted step of one device, of `state` and `rest`."""
    traced = step_fn.trace(state, *rest)
    donated = [given.donated for given in jax.tree.leaves(traced.args_info)]
    return peak_bytes(traced.jaxpr, donated, _size(config, state, bfloat16=bfloat16))


def one_device() -> Mesh:
    """A mesh of the first device alone, to trace what each of several does."""
    axes = ("data", "fsdp"), (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((1, 1), *axes, devices=jax.devices()[:1])


def _state(config: TrainConfig) -> TrainState:
    optimizer = make_optimizer(config.optimizer, config.steps)
    return jax.eval_shape(
        lambda params: init_state(params, optimizer), parameter_shapes(config.model)
    )


def _size(config: TrainConfig, state: TrainState, *, bfloat16: bool) -> Size:
    """Bytes on one device, where `fsdp` divides whatever has the shape of a shared parameter."""
    leaves = jax.tree.leaves_with_path(state.params)
    shared = {leaf.shape for path, leaf in leaves if sharded_axis(names_of(path)) is not None}

    def size(array: Any) -> int:
        widened = 2 if array.dtype == jnp.bfloat16 and not bfloat16 else 1
        return nbytes(array) * widened // (config.fsdp if array.shape in shared else 1)

    return size


def _total(params: Any, parts: tuple[str, ...], size: Size) -> int:
    return sum(size(leaf) for part in parts for leaf in jax.tree.leaves(params.get(part, ())))


def _batch(config: TrainConfig) -> tuple[Any, Any]:
    shape = (config.batch_size, config.model.context_length)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
    return tokens, tokens


def _cast(state: TrainState, dtype: Any, size: Size) -> int:
    cast = jax.eval_shape(lambda tree: jax.tree.map(lambda a: a.astype(dtype), tree), state.params)
    return sum(map(size, jax.tree.leaves(cast)))


def _kept(config: TrainConfig, state: TrainState, size: Size) -> int:
    """What the backward pass is given that grows with the batch, which the parameters do not."""
    loss_fn = pretraining_loss(config)

    def residuals(params: Any, batch: Any, rng: Any) -> Any:
        return jax.vjp(lambda params: loss_fn(params, batch, rng), params, has_aux=True)[1]

    once, twice = (
        jax.eval_shape(
            residuals,
            state.params,
            _batch(replace(config, batch_size=times * config.batch_size)),
            jax.eval_shape(jax.random.key, 0),
        )
        for times in (1, 2)
    )
    return sum(map(size, jax.tree.leaves(twice))) - sum(map(size, jax.tree.leaves(once)))


def _logits(config: TrainConfig, size: Size) -> int:
    model, targets = config.model, _batch(config)[1]
    x = jax.ShapeDtypeStruct((*targets.shape, model.embed_dim), config.compute_dtype)
    table = jax.ShapeDtypeStruct((model.vocab_size, model.embed_dim), jnp.float32)
    grad = jax.value_and_grad(head_loss, argnums=(0, 1), has_aux=True)
    jaxpr = jax.make_jaxpr(grad)(x, table, targets)
    ends = (*jaxpr.jaxpr.invars, *jaxpr.jaxpr.outvars)
    return peak_bytes(jaxpr, size=size) - sum(size(variable.aval) for variable in ends)


def _cache(model: ModelConfig) -> int:
    layer = replace(model, num_layers=1)  # each has as much as the others
    cache = jax.eval_shape(lambda: init_cache(layer, 1, layer.context_length))
    return model.num_layers * sum(map(nbytes, jax.tree.leaves(cache)))
