"""A run survives what happens to runs, and ends with the same bits."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.config import RunOptions
from jaxgpt.errors import CheckpointError, ConfigError, NonFiniteError
from jaxgpt.training.checkpoint import checkpoints, load_model
from jaxgpt.training.pretrain import pretrain

ROOT = Path(__file__).parents[2]


def assert_same_bits(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def undisturbed(small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, pretrain(small_run(), folder, command="python scripts/train.py")


def test_a_run_leaves_all_that_was_promised(undisturbed):
    folder, result = undisturbed
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "README.md", "checkpoints", "config.json", "loss.png", "metrics.jsonl", "tokens",
    }  # fmt: skip
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "python scripts/train.py" in (folder / "README.md").read_text()
    assert [path.name for path in checkpoints(folder)] == ["00000008", "00000012"]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [item["step"] for item in records if "loss" in item] == list(range(1, 13))
    measured = [item for item in records if "validation_loss" in item]
    assert [item["step"] for item in measured] == [0, 4, 8, 12]
    assert measured[-1]["validation_bits_per_byte"] > measured[-1]["entropy_bits_per_byte"] > 0
    assert result.signal is None


def test_a_checkpoint_is_all_it_takes(undisturbed):
    folder, result = undisturbed
    model = load_model(folder)
    assert (model.step, model.tokenizer.name) == (12, "bytes")
    assert model.config == result.config.model
    assert_same_bits(model.params, result.state.params)


def test_stopped_twice_and_resumed_is_the_undisturbed_run(small_run, tmp_path, undisturbed):
    def stop(config, params, tokenizer):
        os.kill(os.getpid(), signal.SIGTERM)
        return ""

    run = tmp_path / "stopped"
    config = small_run(sample_every=5)
    first = pretrain(config, run, sampler=stop)
    assert (first.signal, int(first.state.step)) == (signal.SIGTERM, 6)
    second = pretrain(config, run, sampler=stop)
    assert int(second.state.step) == 11
    last = pretrain(config, run)
    assert_same_bits(last.state, undisturbed[1].state)
    steps = [item["step"] for item in last.records if "loss" in item]
    assert steps == list(range(1, 13))
    measured = [item["step"] for item in last.records if "validation_loss" in item]
    assert measured == [0, 4, 8, 12]


def test_evaluation_frequency_does_not_change_the_parameters(small_run, tmp_path, undisturbed):
    result = pretrain(small_run(evaluate_every=3, log_every=5), tmp_path / "run")
    assert_same_bits(result.state, undisturbed[1].state)


def test_a_finished_run_is_left_alone(small_run, undisturbed, capsys):
    folder, result = undisturbed
    before = (folder / "metrics.jsonl").read_bytes()
    again = pretrain(small_run(), folder)
    assert_same_bits(again.state, result.state)
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert "already finished" in capsys.readouterr().err


def test_a_flipped_bit_falls_back_to_the_checkpoint_before(
    small_run, tmp_path, undisturbed, capsys
):
    run = tmp_path / "run"
    pretrain(small_run(), run)
    newest = checkpoints(run)[-1]
    victim = max((newest / "params").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        load_model(run)
    again = pretrain(small_run(), run)
    assert_same_bits(again.state, undisturbed[1].state)
    assert "set aside as 00000012.corrupt-" in capsys.readouterr().err
    assert len(list((run / "checkpoints").glob("*.corrupt-*"))) == 1


def test_no_run_begins_over_checkpoints_that_cannot_be_read(small_run, tmp_path):
    run = tmp_path / "run"
    pretrain(small_run(), run)
    for folder in checkpoints(run):
        (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be read"):
        pretrain(small_run(), run)
    pretrain(small_run(steps=4), run, RunOptions(overwrite=True))
    assert [path.name for path in checkpoints(run)] == ["00000004"]


def test_other_settings_or_data_are_refused_unless_allowed(small_run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("It was a dark and stormy night. " * 400)
    data = small_run().data
    config = small_run(data=replace(data, data=(str(text),)))
    run = tmp_path / "run"
    pretrain(config, run)
    with pytest.raises(CheckpointError, match="batch_size: 8 -> 16"):
        pretrain(replace(config, batch_size=16), run)
    with pytest.raises(ConfigError, match="holds a run"):
        pretrain(config, run, RunOptions(resume="never"))
    longer = replace(config, steps=14)
    result = pretrain(longer, run, RunOptions(allow_config_change=True))
    assert int(result.state.step) == 14
    text.write_text("It was a bright and sunny day. " * 400)
    with pytest.raises(CheckpointError, match="--allow-data-change"):
        pretrain(replace(longer, steps=15), run, RunOptions(allow_config_change=True))


def test_a_loss_that_is_not_finite_stops_the_run_with_its_number(small_run, tmp_path):
    config = small_run()
    optimizer = replace(
        config.optimizer, learning_rate=1.0, schedule="constant", gradient_clip="none"
    )
    # Not through the constructor, which warns of such a rate.
    object.__setattr__(optimizer, "learning_rate", 1e30)
    with pytest.raises(NonFiniteError, match=r"step \d+ has loss .* update was not made"):
        pretrain(replace(config, optimizer=optimizer), tmp_path / "run")


def _command(run, steps):
    return [
        sys.executable, str(ROOT / "scripts" / "train.py"), "tiny", "--out", str(run),
        "--steps", str(steps), "--checkpoint-every", "10", "--evaluate-every", "1000",
        "--stories-bytes", "30000", "--log-every", "1", "--sample-every", "1000",
    ]  # fmt: skip


def test_killed_at_a_random_step_and_run_again_is_the_same_run(tmp_path):
    environment = os.environ | {"XLA_FLAGS": ""}
    steps, killed = 120, tmp_path / "killed"
    process = subprocess.Popen(
        _command(killed, steps), env=environment, stderr=subprocess.PIPE, text=True
    )
    victim = 13 + time.time_ns() % 60
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(rf"step +{victim}/", line):
            process.send_signal(signal.SIGKILL)
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    assert load_model(killed).step < steps
    for run in (killed, tmp_path / "whole"):
        done = subprocess.run(
            _command(run, steps), env=environment, capture_output=True, text=True, check=True
        )
        assert ("resuming" in done.stderr) == (run == killed)
    one, other = load_model(killed), load_model(tmp_path / "whole")
    assert one.step == other.step == steps
    assert_same_bits(one.params, other.params)
