"""What was measured on: the machine and the versions of the libraries."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax

_LIBRARIES = ("jax", "jaxlib", "flax", "torch", "transformers")


def describe_machine() -> dict[str, Any]:
    """Processor, cores that this process may use, JAX's device, and versions by library."""
    device = jax.devices()[0]
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "platform": device.platform,
        "device": device.device_kind,
        "versions": {"python": platform.python_version()}
        | {name: version for name in _LIBRARIES if (version := _version(name))},
    }


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
