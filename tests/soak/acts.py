"""What ends a process of a run: signals, a full disk, numbers that are not finite, a dead peer."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from ending import metrics
from faults import newest_step
from processes import SECONDS, launch, log, peers, start, wait, wrong
from trap import MOMENTS, Spoiler, draw_trap

DISK = Path("disk")  # where the runs are
_SIZE, _NEEDED = 64 * 1024, 800  # KiB of the disk, and what a run may take of it
ACTS = [
    *(f"{kind}_{moment}" for kind in ("kill", "signal") for moment in MOMENTS),
    *("closed_stdout", "closed_stderr", "nan_params", "nan_opt_state", "full_disk", "full_disk"),
    "finished",
]
"""What ends a process; but for the last, a fault."""
PEERS = ["full_disk", "killed_peer", "stopped_peers"]
"""What ends one that has another beside it."""
_CLOSED = {"closed_stdout": 1, "closed_stderr": 2}


@contextlib.contextmanager
def disk() -> Iterator[bool]:
    """A disk for the runs; whether it is one that can be filled."""
    DISK.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}k", "soak", str(DISK)]
    fillable = shutil.which("mount") is not None
    fillable = fillable and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not fillable:
        print("no tmpfs can be mounted, so no disk will be full")
    try:
        yield fillable
    finally:
        if fillable:
            subprocess.run(["umount", "--lazy", str(DISK)], check=False)


def room(size: int) -> None:
    """Let the disk have so many KiB."""
    subprocess.run(["mount", "-o", f"remount,size={size}k", str(DISK)], check=True)


def befall(
    act: str, command: list[str], run: Path, last: str, rng: Random
) -> tuple[str, int | None, str]:
    """Start the command and let something happen to it.

    Returns what it was, if it came to that, the exit code, and what is wrong, if anything.
    """
    kind, _, what = act.partition("_")
    said, step, story, allowed = len(log(run)), newest_step(run), "", [0]
    if kind in ("killed", "stopped"):
        story, code, allowed = befall_peer(act, command, run, rng)
    elif kind in ("kill", "signal"):
        trap = draw_trap(kind, what, last, rng)
        if what == "data":  # which are made where there are none
            shutil.rmtree(run / "tokens", ignore_errors=True)
        code, _ = launch(command, run, trap)
        if trap.mark in log(run)[said:]:
            story, allowed = str(trap), [-trap.number, 128 + trap.number]
            allowed += [0] * (kind == "signal")  # that came after all was done
    elif kind == "nan":
        if step >= int(last):
            return "", 0, ""
        spoiler = Spoiler(what, rng.randrange(step, int(last)), rng.randrange(2**32))
        code, _ = launch(command, run, spoiler)
        story, allowed = f"before step {spoiler.step + 1}", [5]
    elif act == "full_disk":
        taken = sum(path.lstat().st_blocks for path in DISK.rglob("*")) // 2
        left = rng.randrange(8, _NEEDED)
        room(taken + left)
        code, _ = launch(command, run)
        room(_SIZE)
        if "disk is full" in log(run)[said:] or "No space left" in log(run)[said:]:
            story, allowed = f"{left} KiB left", [6, 0]
    else:
        code, _ = launch(command, run, closed=_CLOSED.get(act))
        story = "throughout" if act in _CLOSED else ""
    story = story and f"{story}: exit code {code}, checkpoint {newest_step(run)}"
    return story, code, wrong(code, run, *allowed)


def befall_peer(
    act: str, command: list[str], run: Path, rng: Random
) -> tuple[str, int | None, list[int]]:
    """Kill one of two processes, or stop them by a signal to what started them."""
    drafts, lines = rng.random() < 0.3, len(metrics(run)) + rng.randrange(1, 10)
    index, number = rng.randrange(2), signal.SIGKILL
    process = start(command, run)
    end = time.monotonic() + SECONDS
    while process.is_alive() and time.monotonic() < end:
        if (drafts and any(run.glob("checkpoints/.*"))) or len(metrics(run)) >= lines:
            break
        time.sleep(0.005)
    story = ""
    with contextlib.suppress(ProcessLookupError, IndexError):
        if act == "killed_peer":
            os.kill(peers(run)[index], signal.SIGKILL)
            story = f"process {index}"
        elif process.is_alive():
            number = rng.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
            os.kill(process.pid, number)
            story = signal.Signals(number).name
    return story, wait(process, run), [0, 128 + number, *[6] * (act == "killed_peer")]
