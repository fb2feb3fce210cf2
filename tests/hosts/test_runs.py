"""Real processes of one run: what they compute, keep, and do when one of them is gone."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from commands_of_runs import PYTHON, end, environment, launched, losses, records, start

from jaxgpt.training.kept import checkpoints
from jaxgpt.training.run_contents import foreign_files

pytestmark = pytest.mark.whole_run

SHAPE = "--context-length 16 --num-layers 2 --embed-dim 32 --warmup-steps 2 --stories-bytes 20000"
SMALL = (
    f"{SHAPE} --batch-size 8 --evaluation-batches 2 --evaluate-every 25 --sample-every 50 "
    "--sample-tokens 8 --log-every 1 --checkpoint-every 25"
).split()
LONG = 300  # steps, in which a signal finds a run
FAMILIES = {"tiny": ["--dropout", "0.1"], "llama-tiny": []}


def state(run):
    """All arrays of the newest checkpoint, read on one device, whatever wrote them."""
    import orbax.checkpoint as ocp

    folder = checkpoints(run)[-1]
    checkpointer, here = (
        ocp.StandardCheckpointer(),
        jax.sharding.SingleDeviceSharding(jax.devices()[0]),
    )
    found = []
    for part in ("params", "optimizer"):
        stored = checkpointer.metadata(folder / part).item_metadata.tree
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), stored
        )
        found += jax.tree.leaves(checkpointer.restore(folder / part, shapes))
    return found


def assert_same(run, other):
    assert records(run) == records(other)
    for ours, theirs in zip(state(run), state(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def free_port():
    with socket.socket() as place:
        place.bind(("", 0))
        return place.getsockname()[1]


def by_hand(index, count, port, *words):
    place = ["--coordinator", f"localhost:{port}", "--num-processes", count, "--process-id", index]
    return start(*words, *place)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`runs(family, processes, devices)`: the folder of 50 steps, which is made once."""
    place, made = tmp_path_factory.mktemp("runs"), {}

    def run(family, processes, devices=1, steps=50):
        key = family, processes, devices, steps
        if key not in made:
            made[key] = place / "-".join(map(str, key))
            words = [
                "train",
                family,
                "--out",
                made[key],
                "--steps",
                steps,
                *SMALL,
                *FAMILIES[family],
            ]
            if processes == 1:
                end(*words, devices=devices)
            else:
                out, err = launched(processes, *words)
                assert out.count("the run is in") == err.count("compiling") == 1
        return made[key]

    return run


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_follow_one_device(runs, family, processes):
    ours, theirs = (losses(runs(family, count)) for count in (processes, 1))
    assert len(ours) == 50
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert foreign_files(runs(family, processes)) == []


def test_two_processes_are_one_with_two_devices_bit_for_bit(runs):
    assert_same(runs("tiny", 2), runs("tiny", 1, 2))


def test_a_run_goes_on_with_another_number_of_processes(runs, tmp_path):
    run = tmp_path / "run"
    words = ["train", "tiny", "--out", run, *SMALL, *FAMILIES["tiny"]]
    launched(2, *words, "--steps", 50, "--fsdp", 2)
    more = ["--allow-config-change", "--steps"]
    end(*words, *more, 52)
    launched(4, *words, *more, 54, "--fsdp", 4)
    launched(2, *words, *more, 56, "--fsdp", 2)
    assert [item["step"] for item in records(run) if "loss" in item] == list(range(1, 57))
    np.testing.assert_allclose(losses(run)[:50], losses(runs("tiny", 1)), rtol=1e-5)


def wait_for(run, step, *processes):
    """Wait until a run has taken so many steps."""
    until = time.monotonic() + 200
    while not (taken := [item["step"] for item in records(run)]) or taken[-1] < step:
        assert time.monotonic() < until
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


@pytest.fixture
def pair(tmp_path):
    """`pair(run, *more)`: two processes of a run that takes a while, at its 30th step."""
    started = []

    def begin(run, *more, step=30):
        port, words = free_port(), ["train", "tiny", "--out", run, *SMALL, *FAMILIES["tiny"], *more]
        started[:] = [by_hand(index, 2, port, *words, "--steps", LONG) for index in range(2)]
        wait_for(run, step, *started)
        return started

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def go_on(run):
    launched(2, "train", "tiny", "--out", run, "--steps", LONG, *SMALL, *FAMILIES["tiny"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_stops_both_at_one_step(runs, pair, tmp_path, number):
    run = tmp_path / "run"
    first, second = pair(run)
    second.send_signal(number)
    (out, err), (more_out, more_err) = (
        process.communicate(timeout=100) for process in (first, second)
    )
    assert (first.returncode, second.returncode) == (128 + number, 128 + number)
    [stopped] = re.findall(r"saved \S+ at step (\d+); resume with", err)
    assert checkpoints(run)[-1].name == f"{int(stopped):08d}"
    assert (out, more_out, more_err) == ("", "", "")
    go_on(run)
    assert_same(run, runs("tiny", 2, steps=LONG))


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_the_run_goes_on_to_the_same_bits(
    runs, pair, tmp_path, killed
):
    run = tmp_path / "run"
    processes = pair(run)
    processes[killed].kill()
    began = time.monotonic()
    _, err = processes[1 - killed].communicate(timeout=100)
    assert time.monotonic() - began < 60
    assert processes[1 - killed].returncode == 6
    lines = [
        line for line in err.splitlines() if not re.match(r"step|compiling|    \||\d|token", line)
    ]
    assert len(lines) == 1, err
    assert lines[0].startswith(f"error: process {killed}")
    assert "run the same command again" in lines[0]
    go_on(run)
    assert_same(run, runs("tiny", 2, steps=LONG))


def test_what_differs_is_named_with_its_process(tmp_path):
    port, words = free_port(), ["train", "tiny", "--out", tmp_path / "run", *SMALL]
    processes = [by_hand(index, 2, port, *words, "--steps", 5 + index) for index in range(2)]
    (_, err), (_, more) = (end(process=process, code=2) for process in processes)
    assert err.startswith("error: process 1 has steps 6, but process 0 has 5; start all with the")
    assert (err.count("\n"), more) == (1, "")
    assert not (tmp_path / "run").exists()


def test_other_data_on_one_machine_is_named(tmp_path):
    texts = [tmp_path / str(index) / "text.txt" for index in range(2)]
    port, words = free_port(), ["train", "tiny", "--out", tmp_path / "run", *SMALL, "--steps", 5]
    words.remove("--stories-bytes"), words.remove("20000")
    made = []
    for index, path in enumerate(texts):
        path.parent.mkdir()
        path.write_text(f"{index} is how many days there were, said the king.\n" * 200)
        made.append(path.parent / "tokens")
        end("prepare", "--data", path, "--tokenizer", "bytes", "--out", made[-1])
    processes = []
    for index, tokens in enumerate(made):  # what a path leads to is each machine's own
        place = tmp_path / f"machine-{index}"
        place.mkdir()
        (place / "data").symlink_to(tokens)
        flags = ["--coordinator", f"localhost:{port}", "--num-processes", 2, "--process-id", index]
        processes.append(
            subprocess.Popen(
                [*PYTHON, *map(str, [*words, "--data", "data", *flags])],
                env=environment(),
                cwd=place,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    (_, err), (_, more) = (end(process=process, code=2) for process in processes)
    assert err.splitlines()[-1].startswith("error: process 1 has fingerprint of the data")
    assert more == ""


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_nobody_joins_leaves_in_time(tmp_path, index):
    words = ["train", "tiny", "--out", tmp_path / "run", *SMALL, "--start-timeout", 4]
    _, err = end(process=by_hand(index, 2, free_port(), *words), code=6)
    assert re.fullmatch(
        rf"error: process {index}: not all of 2 processes have come to localhost:\d+ in 4 seconds; "
        r"start the missing ones with the same --coordinator, or raise --start-timeout\n",
        err,
    )


def test_a_bad_argument_of_a_launched_command_is_one_line(tmp_path):
    out, err = launched(2, "train", "tiny", "--out", tmp_path / "run", "--steps", 0, code=2)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: steps is 0")


def test_a_killed_process_ends_what_launched_it(tmp_path):
    run = tmp_path / "run"
    parent = start(
        "launch", "--processes", 2, "--", "train", "tiny", "--out", run, "--steps", LONG, *SMALL
    )
    wait_for(run, 30, parent)
    [child] = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"--process-id\x001" in path.read_bytes() and str(run).encode() in path.read_bytes()
    ]
    os.kill(child, signal.SIGKILL)
    _, err = end(process=parent, code=137)
    assert err.count("error:") == 1


def test_ctrl_c_stops_all_that_were_launched(tmp_path):
    run = tmp_path / "run"
    parent = start(
        "launch", "--processes", 2, "--", "train", "tiny", "--out", run, "--steps", LONG, *SMALL
    )
    wait_for(run, 30, parent)
    parent.send_signal(signal.SIGINT)
    _, err = end(process=parent, code=130)
    assert re.search(
        r"saved \S+ at step \d+; resume with: \S+ -m jaxgpt launch --processes 2 -- train", err
    )
    assert "error:" not in err
