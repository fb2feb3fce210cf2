"""Processor of this machine: its name, its cores, and the least time that work takes on it."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TRIALS = 5


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """Name of the processor, or `unknown`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def least_seconds(function: Callable[[], Any]) -> float:
    """The shortest of some trials, after one that does not count."""
    function()
    seconds = []
    for _ in range(_TRIALS):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
