"""Commands as processes of their own, forked from one that has imported what they need."""

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

from faults import compiled
from trap import Spoiler, Trap

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300  # after which a command counts as hanging
MODULES = [
    "jaxgpt.commands.train",
    "jaxgpt.training.pretrain",
    "jaxgpt.finetuning.tune_instructions",
    "jaxgpt.finetuning.pretrained",
    "jaxgpt.generation.text",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "tyro",
]
"""Imported once, by the process that all commands are forked from."""


def start(
    command: list[str], run: Path, trap: Trap | Spoiler | None = None, closed: int | None = None
) -> Any:
    """The command as a process of its own, with its output in a file, and what befalls it."""
    argv = [*command, "--out", str(run)]
    process = multiprocessing.Process(target=_child, args=(argv, run, trap, closed))
    process.start()
    return process


def _child(argv: list[str], run: Path, trap: Trap | Spoiler | None, closed: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what comes before the script is not its own
    with open(f"{run.name}.log", "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    if closed is not None:  # as Python finds them behind `1>&-` and `2>&-`
        os.close(closed)
        setattr(sys, ("", "stdout", "stderr")[closed], None)
    if compiled(run).is_dir():
        import jax

        jax.config.update("jax_compilation_cache_dir", str(compiled(run).absolute()))
    sys.argv = argv
    script = str(ROOT / "scripts" / argv[0])
    sys.path.insert(0, str(ROOT / "scripts"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if trap is not None:
        trap.set()
    runpy.run_path(script, run_name="__main__")


def launch(
    command: list[str], run: Path, trap: Trap | Spoiler | None = None, closed: int | None = None
) -> tuple[int | None, float]:
    """The exit code of the command, None if it hangs, and its seconds."""
    began = time.monotonic()
    return wait(start(command, run, trap, closed), run), time.monotonic() - began


def wait(process: Any, run: Path) -> int | None:
    """The exit code of a process; None if it hangs, and then it is killed."""
    process.join(SECONDS)
    if process.is_alive():
        for number in (*peers(run), process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.join()
        return None
    return process.exitcode


def log(run: Path) -> str:
    """All that the processes of a run have said."""
    path = Path(f"{run.name}.log")
    return path.read_text(errors="replace") if path.exists() else ""


def wrong(code: int | None, run: Path, *allowed: int) -> str:
    """What is wrong with an exit code; nothing with one that is allowed."""
    if code in allowed:
        return ""
    said = (log(run).splitlines() or [""])[-1][:300]
    return "hangs" if code is None else f"exit code {code}: {said}"


def peers(run: Path) -> list[int]:
    """The processes that are at a run, by their number in it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError, ValueError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if str(run) in words:
                found[int(words[words.index("--process-id") + 1])] = int(path.parent.name)
    return [found[index] for index in sorted(found)]
