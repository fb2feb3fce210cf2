"""MXFP4: numbers of 4 bits, of which 32 share a power of 2 (OCP Microscaling Formats 1.0, 2023)."""

from typing import Any

import numpy as np
from jaxtyping import Num, UInt8

_HALF = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def read_mxfp4(
    blocks: UInt8[np.ndarray, "*B N 16"], scales: UInt8[np.ndarray, "*B N"], dtype: Any = np.float32
) -> Num[np.ndarray, "*B 32*N"]:
    """MXFP4 tensor as numbers of `dtype`, exactly in float32 and bfloat16.

    A byte of `blocks` holds two, the first in its low half; of each, the highest bit is the sign. A
    block is times 2^(scale - 127).
    """
    table = np.array((*_HALF, *(-value for value in _HALF)), dtype)
    powers = np.ldexp(np.float32(1), scales.astype(np.int32) - 127).astype(dtype)
    numbers = table[np.stack([blocks & 15, blocks >> 4], axis=-1)]
    numbers *= powers[..., None, None]
    return numbers.reshape(*scales.shape[:-1], -1)
