"""What the environment may say to JAX before its import, and where compiled programs are kept."""

import os
import platform
import stat
from contextlib import suppress
from pathlib import Path

from jaxgpt.data.downloads import default_cache
from jaxgpt.errors import ConfigError
from jaxgpt.files import sha256
from jaxgpt.terminal import note

_CHANGE_RESULTS = (
    *("JAX_ENABLE_X64", "JAX_DEFAULT_DTYPE_BITS", "JAX_NUMPY_DTYPE_PROMOTION"),
    *("JAX_NUMPY_RANK_PROMOTION", "JAX_DEFAULT_PRNG_IMPL", "JAX_THREEFRY_PARTITIONABLE"),
)


def settle() -> None:
    """Take back what would change the numbers of a model, with a line that says so.

    A run ends with the same parameters wherever it is resumed, so none of this is a choice.
    """
    for name in _CHANGE_RESULTS:
        if os.environ.pop(name, ""):
            note(f"note: {name} is not followed; jaxgpt computes with JAX's own defaults")


def keep_compiled() -> list[Path]:
    """Let JAX keep the programs it compiles in the cache folder, for a second start to be fast.

    Does nothing where JAX's own variables say otherwise, or where the folder cannot be made. The
    folders that were made are returned, to be removed if nothing came to be kept. A program in the
    folder is run, so one that others may write to is left alone, with a line that says so.
    """
    if os.environ.keys() & {"JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"}:
        return []
    # A program compiled for a CPU is no good to one with fewer instructions, and may kill there.
    cpu = platform.machine() + platform.processor()
    with suppress(OSError), open("/proc/cpuinfo") as file:
        cpu += next((line for line in file if line.startswith(("flags", "Features"))), "")
    made: list[Path] = []
    try:
        folder = default_cache().absolute() / "compiled"
        folder /= sha256(cpu.encode())[:16]
        for level in reversed([folder, *folder.parents]):
            if not os.path.isdir(level):
                os.mkdir(level, 0o700)
                made.append(level)
        if others := _of_others(folder):
            note(
                f"note: {others} may be changed by others, so no compiled programs are kept in it; "
                "make it yours alone (chmod go-w), or set JAXGPT_CACHE to another folder"
            )
            return made
    except (OSError, ConfigError):
        return made
    if os.access(folder, os.W_OK | os.X_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    return made


def _of_others(folder: Path) -> Path | None:
    """The folder or the first one above it, by name or by links, that is not the user's alone."""
    real = Path(os.path.realpath(folder))
    for level in (folder, real, *folder.parents, *real.parents):
        found = os.lstat(level)
        writable = stat.S_ISDIR(found.st_mode) and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a folder such as /tmp, others may add, but not replace what is there.
        if found.st_uid not in (0, os.geteuid()) or (writable and not found.st_mode & stat.S_ISVTX):
            return level
    return None
