"""Sealed models: a seed chooses what one computes otherwise; only its activations can be seen."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from course.recorded import CONFIG, params, tokens
from jaxgpt import linear
from jaxgpt.parity.diagnosis.table import OVERRIDES
from jaxgpt.parity.overrides import Norm, Points, Variant, unbiased_norm
from jaxgpt.parity.recordings.recording import Recording
from jaxgpt.parity.trace import trace


def _in_parts(parts: int, points: Points) -> Any:
    """The last product of a block, a part of the hidden numbers at a time."""
    weight, bias = points.params["mlp"]["down"].values()
    hidden = jnp.split(points.seen["mlp.hidden"], parts, axis=-1)
    pairs = zip(hidden, jnp.split(weight, parts), strict=True)
    return sum(linear(part, weight=rows) for part, rows in pairs) + bias


_KINDS: dict[str, list[Mapping[str, Any]]] = {
    "mask": [*OVERRIDES["mask"].values()][1:],
    "scale": [*OVERRIDES["scale"].values()][:3],
    "epsilon": [{"config": {"norm_epsilon": epsilon}} for epsilon in (1e-3, 1e-2)],
    "variance": [{"norms": dict.fromkeys(("norm1", "norm2", "norm"), Norm(unbiased_norm))}],
    "gelu": [*OVERRIDES["activation"].values()][1:],
    "positions": [{"position_offset": 1}, {"position_offset": 2}],
    "order": [{"order": order} for order in ((2, 1, 0), (1, 0, 2), (2, 0, 1))],
    "nothing": [{"at": {"mlp.out": partial(_in_parts, parts)}} for parts in (2, 4)],
}
KINDS = tuple(_KINDS)
"""What a sealed model may compute otherwise, in a word."""


@cache
def sealed(seed: int) -> Recording:
    """What sealed model number `seed` computed on the sentence, as if from another program."""
    kind = _KINDS[secret(seed)]
    change = kind[int(np.random.default_rng([seed, 1]).integers(len(kind)))]
    variant = Variant(CONFIG, params()).changed(**change)
    found = trace(variant, jnp.asarray(tokens()))
    return Recording(f"sealed {seed}", tokens(), {name: np.array(x) for name, x in found.items()})


def secret(seed: int) -> str:
    """One of `KINDS`: what sealed model number `seed` computes otherwise."""
    return KINDS[int(np.random.default_rng(seed).integers(len(KINDS)))]
