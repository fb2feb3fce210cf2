"""Whether a run fits, before anything is allocated."""

import os

import jax

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ResourceError
from jaxgpt.model.gpt import count_parameters

BYTES_PER_PARAMETER = 16
"""float32 parameter, gradient, and AdamW's two running means."""


def check_memory(model: ModelConfig, fsdp: int = 1) -> None:
    """Raise ResourceError, with the arithmetic, if parameters and optimizer exceed the memory."""
    parameters = count_parameters(model)
    needed, available = parameters * BYTES_PER_PARAMETER // fsdp, device_memory()
    if available is not None and needed > available:
        raise ResourceError(
            f"{parameters:,} parameters x {BYTES_PER_PARAMETER} bytes (parameter, gradient, two "
            f"running means) / {fsdp} shards = {needed / 1e9:,.1f} GB, but a device has "
            f"{available / 1e9:,.1f} GB; choose a smaller model"
        )


def device_memory() -> int | None:
    """Bytes of one device's memory, where that can be told."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (device.memory_stats() or {}).get("bytes_limit")
