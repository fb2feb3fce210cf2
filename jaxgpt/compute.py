"""Compute settings of a forward pass, which are no part of the model. Standard library only."""

from dataclasses import dataclass
from typing import Literal

from jaxgpt.fields import check_at_least, check_fields


@dataclass(frozen=True)
class Compute:
    """How a forward pass and its backward pass are computed; it changes results by rounding."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the products; parameters, norms, softmax and loss stay float32."""
    attention: Literal["auto", "chunked", "cudnn", "splash"] = "auto"
    """The kernel of attention; auto takes the fastest that is possible."""
    remat: bool = False
    """Recompute each block in the backward pass instead of keeping it."""
    unroll: int = 0
    """Blocks in one turn of the loop over layers; 0 takes 1 in float32 on a CPU, else up to 24."""

    def __post_init__(self):
        """Refuse what there is not."""
        check_fields(self)
        check_at_least(self, 0, "unroll")
