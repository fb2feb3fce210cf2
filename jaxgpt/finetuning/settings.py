"""The choices of fine-tuning, in configs that check themselves. Standard library only."""

import math
from dataclasses import dataclass
from typing import Literal

from jaxgpt.errors import ConfigError

LORA_TARGETS = ("query", "key", "value", "out", "up", "down", "head")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021): how large, how strong, and of which matrices."""

    rank: int = 16
    """Columns of A and rows of B; the rank of what is added to a matrix is at most this."""
    alpha: float = 16.0
    """What is added is A B times alpha / rank."""
    targets: tuple[str, ...] = LORA_TARGETS[:-1]
    """Of attention: query, key, value, out; of the feed-forward network: up, down; and head, where
    the model has one of its own."""

    def __post_init__(self):
        """Refuse what adapts nothing."""
        _check(self, "rank", self.rank >= 1, "1 or more")
        _check(self, "alpha", self.alpha > 0 and math.isfinite(self.alpha), "above 0 and finite")
        known = set(self.targets) <= set(LORA_TARGETS)
        once = 0 < len(self.targets) == len(set(self.targets))
        _check(self, "targets", known and once, f"some of {', '.join(LORA_TARGETS)}, each once")

    @property
    def scale(self) -> float:
        """The factor alpha / rank, which keeps the size of the change when the rank is changed."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class PreferenceConfig:
    """Direct preference optimization (Rafailov et al. 2023)."""

    beta: float = 0.1
    """How dear a distance from the reference is: a larger beta keeps the model closer to it."""
    log_probability: Literal["sum", "mean"] = "sum"
    """Of a response: the sum over its tokens, as in the paper, or their mean, by which a long
    response weighs no more than a short one."""

    def __post_init__(self):
        """Refuse a beta by which nothing is learnt."""
        _check(self, "beta", self.beta > 0 and math.isfinite(self.beta), "above 0 and finite")


def _check(config: LoraConfig | PreferenceConfig, name: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {getattr(config, name)}; it must be {allowed}")
