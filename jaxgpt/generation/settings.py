"""How tokens are chosen, as a config that checks itself. Standard library only."""

from dataclasses import dataclass
from typing import Literal

from jaxgpt.fields import MAX_SIZE, check_field, check_types
from jaxgpt.ranges import as_float32

MAX_NEW_TOKENS = 1_000_000
"""The most tokens that one call writes."""
MAX_SEED = 2**32 - 1
"""JAX takes 32 bits of a seed and drops the others without a word."""

WeightDtype = Literal["stored", "bfloat16", "int8"]
"""In which numbers decoding keeps the weights of a model."""


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn from the logits; the filters act in the order of the fields."""

    repetition_penalty: float = 1.0
    """Lower the logits of tokens seen before by this factor (Keskar et al. 2019); 1 is off."""
    temperature: float = 1.0
    """Divide the logits: below 1 is surer, above 1 is wilder, and 0 takes the likeliest token."""
    top_k: int = 0
    """Keep only this many of the likeliest tokens (Fan et al. 2018); 0 is off."""
    top_p: float = 1.0
    """Keep the fewest tokens that hold this much probability (Holtzman et al. 2020); 1 is off."""
    min_p: float = 0.0
    """Keep tokens this many times as likely as the likeliest (Nguyen et al. 2024); 0 is off."""

    def __post_init__(self):
        """Refuse what is outside its range, NaN included."""
        check_types(self)
        # Beyond these, float32 would make 0 or infinity of the number or of the logits.
        warm = self.temperature == 0 or 1e-6 <= self.temperature <= 1e6
        check_field(self, "temperature", warm, "0 (the likeliest token) or from 1e-6 to 1e6")
        penalty = 1e-6 <= self.repetition_penalty <= 1e6
        check_field(self, "repetition_penalty", penalty, "from 1e-6 to 1e6 (1 is off)")
        check_field(self, "top_k", 0 <= self.top_k <= MAX_SIZE, f"from 0 (off) to {MAX_SIZE}")
        check_field(self, "top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (off)")
        check_field(
            self,
            "min_p",
            self.min_p >= 0 and as_float32(self.min_p) < 1,
            "from 0 (off) to less than 1",
        )
