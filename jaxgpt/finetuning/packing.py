"""Several short texts in one row, so that hardly anything of a batch is padding.

The model keeps them apart by their numbers: each sees itself alone and counts its positions from 0,
so the loss is that of rows of their own.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from jaxgpt.data.batches import IGNORE
from jaxgpt.errors import DataError
from jaxgpt.finetuning.batching import Rows, pad
from jaxgpt.finetuning.instructions import TokenRow


class PackedBatch(NamedTuple):
    """Rows of several texts: tokens, targets, and the text's number in the row, 0 of padding."""

    inputs: Int32[np.ndarray, "B T"]
    targets: Int32[np.ndarray, "B T"]
    segments: Int32[np.ndarray, "B T"]


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Which texts share a row of `width` tokens: best fit, the longest first.

    Rows are at most 11/9 of the fewest possible, and four more (Johnson 1973). Raises DataError for
    a text that is longer than the row.
    """
    bins_with: list[list[list[int]]] = [[] for _ in range(width + 1)]  # by the space that is left
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > width:
            raise DataError(f"{lengths[i]} tokens do not fit into rows of {width}; cut the text")
        room = next((room for room in range(lengths[i], width) if bins_with[room]), width)
        chosen = bins_with[room].pop() if bins_with[room] else []
        chosen.append(i)
        bins_with[room - lengths[i]].append(chosen)
    return [members for bins in bins_with for members in bins]


def packed_rows(
    rows: Sequence[TokenRow], *, width: int, padding: int
) -> Rows[list[TokenRow], PackedBatch]:
    """Texts, packed once, in batches of one width; raises as `pack` does."""
    packed = [[rows[i] for i in members] for members in pack([len(row) for row in rows], width)]
    return Rows(packed, partial(collate_packed, width=width, padding=padding), [])


def collate_packed(
    packed: Sequence[Sequence[TokenRow]], *, width: int, padding: int
) -> PackedBatch:
    """The texts of each row one after the other, then padding."""

    def rows(parts: list[list[np.ndarray]], filling: int) -> Int32[np.ndarray, "B T"]:
        nothing = np.zeros(0, np.int32)
        return pad([np.concatenate([nothing, *row]) for row in parts], filling, [width])

    numbers = [[np.full(len(text), i) for i, text in enumerate(row, 1)] for row in packed]
    return PackedBatch(
        rows([[text.inputs for text in row] for row in packed], padding),
        rows([[text.targets for text in row] for row in packed], IGNORE),
        rows(numbers, 0),
    )
