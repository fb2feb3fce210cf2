"""A model's parameters as decoding reads them: by layers, weights transposed or narrow."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.fields import typed
from jaxgpt.generation.settings import WeightDtype
from jaxgpt.model.layers import Params
from jaxgpt.model.narrow import NarrowTable, is_narrow, narrowed, widen
from jaxgpt.model.transformer import STANDARD, block_of, unstack


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodingParams:
    """Parameters for decoding: those of each layer by themselves, weights transposed or narrow.

    A loop over layers that slices the stacked leaves would copy every weight for every token; and a
    product of a few rows reads a weight faster along the axis that it contracts, as the tied head
    does (on CPU by a quarter).
    """

    layers: list[Params]
    rest: Params
    """All but the blocks."""

    @property
    def dtype(self) -> Any:
        """Of the numbers, and so of the cache."""
        return self.rest["embed"]["tokens"].dtype

    def as_params(self) -> Params:
        """The model's parameters, with the blocks in L parts; under jit it moves nothing."""
        layers = [_transposed(layer) for layer in self.layers]
        blocks = tuple(jax.tree.map(lambda leaf: leaf[None], layer) for layer in layers)
        return self.rest | {"blocks": blocks}

    def for_rows(self, config: ModelConfig, rows: int) -> "DecodingParams":
        """Parameters that `rows` texts at once are written with, whole in place of narrow ones.

        Narrow weights are read faster by one row alone, and are known to the standard block alone.
        Whoever writes many batches calls this once, before.
        """
        on_cpu, own = jax.default_backend() == "cpu", block_of(config) != STANDARD
        leaves = jax.tree.leaves(self, is_leaf=is_narrow)
        if not any(map(is_narrow, leaves)) or not (own or (on_cpu and rows > 1)):
            return self
        return DecodingParams(widen(self.layers, transposed=True), widen(self.rest))


def _transposed(layer: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf if is_narrow(leaf) else leaf.T, layer, is_leaf=is_narrow)


def prepare_params(
    params: Params | DecodingParams, weight_dtype: WeightDtype = "stored"
) -> DecodingParams:
    """The parameters as decoding reads them, a copy; what was prepared before is given back.

    Weights are kept in `weight_dtype`, but for those of experts, and narrow ones as they are. A CPU
    multiplies them in float32; elsewhere bfloat16 casts all parameters, and it is computed in.
    Raises ConfigError for int8, or on a CPU bfloat16, of parameters that lie on several devices.
    """
    typed("weight_dtype", weight_dtype, WeightDtype)
    if isinstance(params, DecodingParams):
        return params
    rest: Params = dict(params)
    blocks = jax.tree.map(jnp.asarray, rest.pop("blocks"))
    layers = [_transposed(_prepared(layer, weight_dtype)) for layer in unstack(blocks)]
    return DecodingParams(layers, _prepared(rest, weight_dtype))


def _prepared(params: Params, weight_dtype: WeightDtype) -> Params:
    """Parameters without an axis of layers in the dtype that is computed in; weights maybe not."""

    def prepared(path: Any, leaf: Any) -> Any:
        kind = path[-1].key
        if is_narrow(leaf):
            return leaf
        leaf = jnp.asarray(leaf)
        computed, kept = _dtypes(leaf, weight_dtype)
        if kept == computed or leaf.ndim != 2 or kind not in ("weight", "tokens"):
            return leaf.astype(computed)
        table = kind == "tokens"
        narrow = narrowed(leaf.T if table else leaf, kept, computed)
        return NarrowTable(narrow) if table else narrow

    return jax.tree.map_with_path(prepared, params, is_leaf=is_narrow)


def _dtypes(leaf: Array, weight_dtype: WeightDtype) -> tuple[Any, Any]:
    """In which dtype a leaf is computed with, and which one a weight is kept in."""
    on_cpu, traced = jax.default_backend() == "cpu", isinstance(leaf, Tracer)
    several = not traced and len(leaf.sharding.device_set) > 1
    kept: Any = leaf.dtype if weight_dtype == "stored" else jnp.dtype(weight_dtype)
    computed: Any = jnp.dtype(jnp.float32) if on_cpu else leaf.dtype
    if weight_dtype == "bfloat16" and not on_cpu:
        return kept, kept
    if several and weight_dtype != "stored":
        raise ConfigError(
            f"weights in {weight_dtype} are read by one device, but the model lies on several; "
            "leave out --mesh or --weight-dtype"
        )
    return computed, computed if several or kept.itemsize > computed.itemsize else kept
