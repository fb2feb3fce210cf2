"""What a machine could do at most: products and copies as measured, and peaks as stated."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

_A100, _H100 = {"float32": 156e12, "bfloat16": 312e12}, {"float32": 494.7e12, "bfloat16": 989.4e12}
PEAKS: dict[str, dict[str, float]] = {
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H200": _H100,
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v6 lite": {"bfloat16": 918e12},
}
"""FLOP/s of dense products by the maker's data sheet, by JAX's name of the device; float32 is
TF32."""

_TRIALS = 5


@dataclass(frozen=True)
class Rates:
    """Measured on JAX's first device."""

    size: int
    """Rows and columns of the matrices."""
    products: dict[str, dict[str, float]]
    """FLOP/s of a large square matrix product, by library and dtype."""
    copy: float
    """Bytes read and written in a second by an array's copy."""

    def fastest(self, dtype: str) -> float:
        """The faster library's products, which is what the device is known to reach."""
        return max(products[dtype] for products in self.products.values())


def peak(device_kind: str, dtype: str) -> float | None:
    """FLOP/s of a device's data sheet, or None: a peak that is not known is not guessed."""
    return PEAKS.get(device_kind, {}).get(dtype)


def measure_rates(size: int = 0, megabytes: int = 0) -> Rates:
    """The rates of products of `size` squared matrices and of a copy; the best of five trials.

    0 is a size that fills the device.
    """
    cpu = jax.default_backend() == "cpu"
    size, megabytes = size or (1024 if cpu else 8192), megabytes or (128 if cpu else 1024)
    multiply, products = jax.jit(jnp.matmul), {}
    for dtype in ("float32", "bfloat16"):
        matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
        seconds = least_seconds(lambda m=matrix: jax.block_until_ready(multiply(m, m)))
        products[dtype] = 2 * size**3 / seconds
    # Negated, not only copied, which the compiler might do without.
    array, negate = jnp.zeros(megabytes * 2**18, jnp.float32), jax.jit(jnp.negative)
    seconds = least_seconds(lambda: jax.block_until_ready(negate(array)))
    return Rates(size, {"JAX": products}, 2 * array.nbytes / seconds)


def least_seconds(function: Callable[[], Any]) -> float:
    """The shortest of some trials, after one that does not count."""
    function()
    seconds = []
    for _ in range(_TRIALS):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
