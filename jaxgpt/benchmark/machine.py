"""What was measured on: the machine, its libraries, and what it could do at most."""

import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.benchmark.turns import least_seconds
from jaxgpt.training.processor import cores, cpu_model

_LIBRARIES = ("jax", "jaxlib", "flax", "torch", "transformers")
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


def describe_machine() -> dict[str, Any]:
    """Processor, cores that this process may use, JAX's device, and versions by library."""
    device = jax.devices()[0]
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "platform": device.platform,
        "device": device.device_kind,
        "versions": {"python": platform.python_version()}
        | {name: version for name in _LIBRARIES if (version := _version(name))},
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


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
    """Rates of products of `size` squared matrices, and a copy, best of 5; 0 fills the device."""
    cpu = jax.default_backend() == "cpu"
    size = size or (1024 if cpu else 8192)
    multiply, products = jax.jit(jnp.matmul), {}
    for dtype in ("float32", "bfloat16"):
        matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
        seconds = least_seconds(lambda m=matrix: jax.block_until_ready(multiply(m, m)))
        products[dtype] = 2 * size**3 / seconds
    return Rates(size, {"JAX": products}, measure_copy(megabytes))


def measure_copy(megabytes: int = 0) -> float:
    """Bytes read and written in a second by an array's copy, best of 5; 0 is more than caches."""
    megabytes = megabytes or (128 if jax.default_backend() == "cpu" else 1024)
    # Negated, not only copied, which the compiler might do without.
    array, negate = jnp.zeros(megabytes * 2**18, jnp.float32), jax.jit(jnp.negative)
    seconds = least_seconds(lambda: jax.block_until_ready(negate(array)))
    return 2 * array.nbytes / seconds
