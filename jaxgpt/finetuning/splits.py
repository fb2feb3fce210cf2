"""Which records are for training, which for validation, and which for the test at the end."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from jaxgpt.errors import ConfigError, DataError

Item = TypeVar("Item")

FRACTIONS = (0.7, 0.1, 0.2)


def rank(text: str, seed: int) -> bytes:
    """A number as bytes that puts texts into an order, another one for each seed."""
    return hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()


def split(
    items: Sequence[Item],
    text: Callable[[Item], str],
    *,
    seed: int,
    fractions: Sequence[float] = FRACTIONS,
) -> list[list[Item]]:
    """Cut `items` into parts with these shares of their distinct texts, the items in their order.

    Where an item goes depends on all texts and the seed, not on the order of the items. Items with
    the same text go into one part, so that no part tells of another. Raises ConfigError for
    fractions that are not above 0 or do not sum to 1; DataError for fewer distinct texts than
    parts.
    """
    if min(fractions) <= 0 or not math.isclose(sum(fractions), 1):
        raise ConfigError(f"the fractions {tuple(fractions)} must be above 0 and sum to 1")
    texts = sorted({text(item) for item in items}, key=lambda text: rank(text, seed))
    parts = len(fractions)
    if len(texts) < parts:
        raise DataError(f"{len(texts)} distinct texts cannot be cut into {parts} parts; give more")
    bounds = [round(sum(fractions[:part]) * len(texts)) for part in range(parts)] + [len(texts)]
    for part in range(1, parts):  # at least one text in each
        bounds[part] = min(max(bounds[part], bounds[part - 1] + 1), len(texts) - parts + part)
    part_of = {
        text: part for part in range(parts) for text in texts[bounds[part] : bounds[part + 1]]
    }
    return [[item for item in items if part_of[text(item)] == part] for part in range(parts)]
