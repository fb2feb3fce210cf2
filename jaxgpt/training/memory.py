"""Whether a run fits, before anything is allocated."""

import os
from contextlib import suppress

import jax

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ResourceError
from jaxgpt.model.parameters import count_parameters
from jaxgpt.run_config import OptimizerConfig

BYTES_PER_PARAMETER = 16
"""float32 parameter, gradient, and AdamW's two running means."""


def check_memory(
    model: ModelConfig,
    sharing: int = 1,
    *,
    trained: int | None = None,
    frozen: int = 0,
    optimizer: OptimizerConfig | None = None,
) -> None:
    """Raise ResourceError, with the arithmetic, if parameters and optimizer exceed the memory.

    They are cut into as many parts as there are devices `sharing` them. `trained` are all of the
    model's parameters if not given; `frozen` ones beside them have neither a gradient nor running
    means. Muon, if it is the `optimizer`, has one mean of most parameters.
    """
    muon = optimizer is not None and optimizer.optimizer == "muon"
    each = BYTES_PER_PARAMETER - 4 * muon
    parameters = count_parameters(model) if trained is None else trained
    needed = (parameters * each + frozen * 4) // sharing
    available = device_memory()
    if available is not None and needed > available:
        beside = f" and {frozen:,} frozen ones x 4" if frozen else ""
        means = "running mean" if muon else "two running means"
        raise ResourceError(
            f"{parameters:,} parameters x {each} bytes (parameter, gradient, {means}){beside} / "
            f"{sharing} shards = {needed / 1e9:,.1f} GB, but a device has "
            f"{available / 1e9:,.1f} GB; choose a smaller model"
        )


def free_memory() -> int:
    """Bytes of it that a step leaves, by the most that was ever used; 0 where that is unknown."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        with suppress(OSError), open("/proc/meminfo") as file:
            found = (line.split() for line in file)
            return next((1024 * int(row[1]) for row in found if row[0] == "MemAvailable:"), 0)
        return 0
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit", 0) - stats.get("peak_bytes_in_use", 0)


def device_memory() -> int | None:
    """Bytes of one device's memory, where that can be told."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (device.memory_stats() or {}).get("bytes_limit")
