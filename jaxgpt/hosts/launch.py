"""Several processes of one run on this machine, seen and steered as one."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from jaxgpt.shell import LAUNCHED_BY, this_command
from jaxgpt.terminal import complain

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_LATE = 75.0  # seconds after the first failure in which the others leave by themselves
_TURN = 0.05
_DEVICES = "--xla_force_host_platform_device_count"


def launch(command: Sequence[str], processes: int, devices: int) -> int:
    """Run `command` of jaxgpt as that many processes, of `devices` each; the exit code of them all.

    It is that of the first which failed, upon which the others end too. A CPU stands in for as many
    devices as are asked for; of an accelerator's, each process gets its own.
    """
    port, children, early = _free_port(), [], []
    held: list[list[str]] = [[] for _ in range(processes)]
    readers: list[threading.Thread] = []

    def forward(number: int, frame: FrameType | None = None) -> None:
        if len(children) < processes:
            early.append(number)
            return
        alive = [child for child in children if child.poll() is None]
        # The first, by which the others hear of it; where that has ended, each of the others.
        for child in alive[:1] if alive[:1] == children[:1] else alive:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _SIGNALS}
    try:
        for index in range(processes):
            children.append(_start(command, index, processes, devices, port))
            if index:
                given = children[index], index, held[index]
                readers.append(threading.Thread(target=_show, args=given, daemon=True))
                readers[-1].start()
        for number in early:
            forward(number)
        code = _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
        for child in children:
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    for reader in readers:
        reader.join(1.0)
    for child, lines in zip(children, held, strict=True):
        # Before they have joined, all of them find the same wrong with a command line.
        if child.returncode != children[0].returncode:
            for line in lines:
                complain(line)
    return code


def _start(
    command: Sequence[str], index: int, processes: int, devices: int, port: int
) -> subprocess.Popen:
    place = ["--coordinator", f"localhost:{port}", "--num-processes", str(processes)]
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if not flag.startswith(_DEVICES)] + [f"{_DEVICES}={devices}"]
    own = range(index * devices, (index + 1) * devices)
    environment = os.environ | {
        "XLA_FLAGS": " ".join(flags),
        "JAX_LOCAL_DEVICE_IDS": ",".join(map(str, own)),
        LAUNCHED_BY: this_command(),
        "no_grpc_proxy": "localhost",  # which a proxy of the network does not reach
    }
    return subprocess.Popen(
        [sys.executable, "-m", "jaxgpt", *command, *place, "--process-id", str(index)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if index else None,
        stderr=subprocess.PIPE if index else None,
        process_group=0,  # or Ctrl-C would reach each of them
    )


def _wait(children: Sequence[subprocess.Popen]) -> int:
    """The exit code of the first that fails, once all have ended or had time to; 0 if none does."""
    first, end = 0, float("inf")
    while any(child.poll() is None for child in children) and time.monotonic() < end:
        time.sleep(_TURN)
        codes = [child.poll() for child in children]
        if not first and (failed := [code for code in codes if code]):
            first, end = failed[0], time.monotonic() + _LATE
    first = first or next((code for child in children if (code := child.poll())), 0)
    return 128 - first if first < 0 else first


def _show(child: subprocess.Popen, index: int, held: list[str]) -> None:
    """Pass on what a process other than 0 says, by its name; errors that have none are held."""
    assert child.stderr is not None
    for line in child.stderr:
        text = line.decode(errors="replace").rstrip("\n")
        if text.startswith("error: process "):
            complain(text)
        elif text.startswith("error: "):
            held.append(text.replace("error: ", f"error: process {index}: ", 1))
        else:
            complain(f"process {index}: {text}")


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("", 0))
        return place.getsockname()[1]
