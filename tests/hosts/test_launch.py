"""Several processes seen as one, of which each is a few lines of Python here."""

import os
import signal
import subprocess
import sys
import threading
import time

import jax
import pytest

from jaxgpt.commands import train
from jaxgpt.errors import ConfigError
from jaxgpt.hosts import launch
from jaxgpt.presets import get_preset

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def children(monkeypatch):
    """What each child runs; and those that were started."""
    programs, started = [SLEEP, SLEEP], []

    def start(command, index, processes, devices, port):
        errors = subprocess.PIPE if index else None
        child = subprocess.Popen([sys.executable, "-c", programs[index]], stderr=errors)
        started.append(child)
        return child

    monkeypatch.setattr(launch, "_start", start)
    yield programs, started
    for child in started[1:]:
        child.stderr.close()


def signal_once(ready):
    def wait():
        while not ready():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def test_a_signal_reaches_the_others_where_the_first_has_ended(children):
    programs, started = children
    programs[0] = "raise SystemExit(3)"
    began = time.monotonic()
    signal_once(lambda: len(started) == 2 and started[0].poll() is not None)
    assert launch.launch([], 2, 1) == 3
    assert time.monotonic() - began < 30
    assert started[1].returncode == -signal.SIGTERM


def test_a_signal_amid_the_start_reaches_the_first(children, monkeypatch):
    programs, started = children
    programs[1] = ""
    start = launch._start

    def slow(*args):
        if started:
            os.kill(os.getpid(), signal.SIGTERM)
        return start(*args)

    monkeypatch.setattr(launch, "_start", slow)
    assert launch.launch([], 2, 1) == 128 + signal.SIGTERM
    assert [child.returncode for child in started] == [-signal.SIGTERM, 0]


def test_a_start_that_fails_leaves_no_process(children, monkeypatch):
    _, started = children
    start = launch._start

    def fails(*args):
        if started:
            raise BlockingIOError
        return start(*args)

    monkeypatch.setattr(launch, "_start", fails)
    with pytest.raises(BlockingIOError):
        launch.launch([], 2, 1)
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "own", ["--processes 2", "--processes=2 --devices 4", "--devices=4 --processes 2"]
)
def test_a_step_of_several_processes_is_replayed_by_one(own):
    line = f"jaxgpt launch {own} -- train tiny --data-parallel 2 --replay 7"
    alone = f"--processes 1 --devices {jax.device_count()}"
    wanted = f"jaxgpt launch {alone} -- train tiny --data-parallel 2 --replay 7"
    assert train._by_one_process(line) == wanted
    assert train._by_one_process("jaxgpt train tiny --replay 7") == "jaxgpt train tiny --replay 7"


def test_a_step_is_not_replayed_by_several(tmp_path, monkeypatch):
    hosts = train.HostOptions(coordinator="localhost:1", num_processes=2, process_id=1)
    arguments = train.Arguments(config=get_preset("tiny"), replay=1, hosts=hosts)
    with pytest.raises(ConfigError, match="give launch --processes 1"):
        train.replay(arguments, tmp_path)
