"""A module in a process of its own: what it prints, within a time, and the memory that it took."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxgpt.errors import JaxgptError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "MemoryError")
UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
"""Variables of a process whose compile time is measured."""


def run_module(
    module: str,
    *words: str,
    request: Any = None,
    seconds: float | None = None,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The JSON object that `python -m MODULE WORDS...` prints last; it can read `request` as JSON.

    After `seconds` it is ended, and so is all that it started. Raises JaxgptError with why there
    is no object, in a line.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | dict(variables or {}),
        start_new_session=True,  # PyTorch compiles in processes that would outlive it
    )
    try:
        said, complaint = process.communicate(json.dumps(request), timeout=seconds)
    except subprocess.TimeoutExpired:
        raise JaxgptError(f"not done after {seconds:,.0f} s") from None
    finally:
        if process.poll() is None:
            _end(process)
    if process.returncode:
        raise JaxgptError(_reason(process.returncode, complaint))
    return json.loads(said.splitlines()[-1])


def _end(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _reason(code: int, complaint: str) -> str:
    lines = complaint.strip().splitlines()
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL), as where the machine's memory runs out"
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    last = lines[-1].removeprefix("error: ") if lines else f"exit code {code}"
    for line in lines:
        if any(word in line for word in _OUT_OF_MEMORY):
            return f"out of memory: {line.strip()}"
    return last


def host_peak() -> int:
    """The most resident memory that this process had, ever or since `forget_peak`, in bytes."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows; on Linux it would count the parent's peak, too

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def forget_peak() -> None:
    """Count the peak from here on, where the system can; so it is what is resident now."""
    with suppress(OSError):
        _CLEAR.write_text("5")
