"""A run survives what happens to runs, and ends with the same bits."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.data.batches import SlidingWindows
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import CheckpointError, ConfigError, NonFiniteError
from jaxgpt.run_config import RunOptions
from jaxgpt.training.checkpoint import Restored, load_model
from jaxgpt.training.kept import checkpoints
from jaxgpt.training.loss import next_token_loss
from jaxgpt.training.manifest import verify
from jaxgpt.training.pretrain import pretrain, split_windows
from jaxgpt.training.run_state import changes
from jaxgpt.training.step import TrainState

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


@pytest.mark.whole_run
def test_a_loss_of_ones_own_is_trained_on_and_measured(small_run, tmp_path, undisturbed):
    asked = []

    def doubled(params, batch, rng, config):
        asked.append(config.model.vocab_size)
        nats, count = next_token_loss(config.model, config.compute)(params, batch, rng)
        return 2 * nats, count

    records = pretrain(small_run(steps=3), tmp_path / "own", loss_fn=doubled).records
    standard = undisturbed[1].records
    assert set(asked) == {256}
    assert records[0]["validation_loss"] == pytest.approx(2 * standard[0]["validation_loss"])
    bits = "validation_bits_per_byte"
    assert records[0][bits] == pytest.approx(standard[0][bits])
    (first,) = (item for item in records if item["step"] == 1)
    (usual,) = (item for item in standard if item["step"] == 1)
    assert first["loss"] == pytest.approx(2 * usual["loss"])


def test_a_loss_that_is_none_leaves_nothing(small_run, tmp_path):
    with pytest.raises(ConfigError, match="loss_fn returns"):
        pretrain(small_run(), tmp_path / "own", loss_fn=lambda params, batch, rng: batch[0].sum())
    assert not (tmp_path / "own").exists()


def test_what_a_run_returns_can_be_looked_at(undisturbed):
    folder, result = undisturbed
    for shown in map(repr, (result, load_model(folder))):
        assert "TrainConfig" in shown
        assert "Array" not in shown


def test_a_checkpoint_is_all_it_takes(undisturbed):
    folder, result = undisturbed
    model = load_model(folder)
    assert (model.step, model.tokenizer.name) == (12, "bytes")
    assert model.config == result.config.model
    assert_same_bits(model.params, result.state.params)


@pytest.mark.whole_run
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


@pytest.mark.whole_run
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


@pytest.mark.whole_run
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
    assert load_model(run).step == 8
    assert "has changed since it was written" in capsys.readouterr().err
    again = pretrain(small_run(), run)
    assert_same_bits(again.state, undisturbed[1].state)
    assert "set aside as 00000012.corrupt-" in capsys.readouterr().err
    assert len(list((run / "checkpoints").glob("*.corrupt-*"))) == 1


@pytest.mark.whole_run
def test_no_run_begins_over_checkpoints_that_cannot_be_read(small_run, tmp_path):
    run = tmp_path / "run"
    pretrain(small_run(), run)
    for folder in checkpoints(run):
        (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be read"):
        pretrain(small_run(), run)
    pretrain(small_run(steps=4), run, RunOptions(overwrite=True))
    assert [path.name for path in checkpoints(run)] == ["00000004"]


@pytest.mark.slow
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


@pytest.mark.whole_run
def test_a_mixture_says_what_each_source_had_and_other_weights_are_other_data(
    small_run, tmp_path, capsys
):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("It was a dark and stormy night. " * 400)
    given = replace(small_run().data, data=(f"{text}=3", "stories=1"))
    config = small_run(data=given, steps=4, sample_every=100)
    pretrain(config, run)
    assert f"{text}: 75% of the rows, 0.0333" in capsys.readouterr().err
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    by_source = [last[f"validation_loss/{name}"] for name in (text, "stories")]
    assert last["validation_loss"] == pytest.approx(np.average(by_source, weights=[3, 1]))
    assert last[f"share/{text}"] == 0.75
    assert last[f"passes/{text}"] == pytest.approx(4 * 8 * 16 * 0.75 / 11520, 1e-2)
    card = (run / "README.md").read_text()
    assert f"| validation loss by source | {text}: {by_source[0]:.4f}<br>stories: " in card
    tokens = {path: path.stat().st_mtime_ns for path in (run / "tokens").rglob("*.bin")}

    other = replace(config, data=replace(given, data=(f"{text}=1", "stories=1")), steps=5)
    with pytest.raises(CheckpointError, match=r"data\.data: .*stories=1"):
        pretrain(other, run)
    with pytest.raises(CheckpointError, match="--allow-data-change"):
        pretrain(other, run, RunOptions(allow_config_change=True))
    capsys.readouterr()
    pretrain(other, run, RunOptions(allow_config_change=True, allow_data_change=True))
    said = capsys.readouterr().err
    assert "from here on the batches are of other data, or in other shares" in said
    assert f"{text}: 50% of the rows" in said
    assert tokens == {path: path.stat().st_mtime_ns for path in (run / "tokens").rglob("*.bin")}
    pretrain(small_run(steps=3), run, RunOptions(overwrite=True))


@pytest.mark.whole_run
def test_a_mixture_stopped_and_resumed_is_the_undisturbed_run(small_run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("It was a dark and stormy night. " * 400)
    given = replace(small_run().data, data=(f"{text}=0.7", "stories=0.3"))
    config, run = small_run(data=given, sample_every=5), tmp_path / "parts"
    whole = pretrain(config, tmp_path / "whole").state

    def stop(config, params, tokenizer):
        os.kill(os.getpid(), signal.SIGTERM)
        return ""

    assert int(pretrain(config, run, sampler=stop).state.step) == 6
    (run / "tokens" / "1" / "train-00000.bin").unlink()
    assert_same_bits(pretrain(config, run).state, whole)


@pytest.mark.whole_run
def test_another_batch_size_goes_on_at_the_row_where_it_stopped(
    small_run, tmp_path, monkeypatch, capsys
):
    config, run = small_run(checkpoint_every=100, sample_every=100), tmp_path / "run"
    drawn, indices = [], SlidingWindows.indices

    def watched(self, *given, **options):
        found = indices(self, *given, **options)
        drawn.extend(found.tolist())
        return found

    monkeypatch.setattr(SlidingWindows, "indices", watched)
    pretrain(replace(config, steps=3), run)
    allowed = RunOptions(allow_config_change=True)
    pretrain(replace(config, steps=5, batch_size=16), run, allowed)
    pretrain(replace(config, steps=6, batch_size=8), run, allowed)
    said = capsys.readouterr().err
    rows = 3 * 8 + 2 * 16 + 8
    windows = SlidingWindows(TokenDataset.open(run / "tokens").split("train"), 16)
    assert drawn == indices(windows, 0, rows, seed=config.seed).tolist()
    assert "batch_size 8 -> 16: the data goes on behind the 24 rows that were trained on" in said
    assert "batch_size 16 -> 8: the data goes on behind the 56 rows that were trained on" in said
    assert f"| tokens seen | {rows * 16:,}, " in (run / "README.md").read_text()
    assert verify(checkpoints(run)[-1])["rows"] == rows


def restored(config):
    return Restored(TrainState(5, {}, ()), 5, 40, "", config)


def test_what_becomes_of_changed_settings_is_said(small_run):
    config = small_run(steps=6)
    cosine = config.optimizer
    said = partial(changes, restored(config))
    assert said(config) == []
    assert said(replace(config, evaluate_every=1)) == []
    (line,) = said(replace(config, steps=12))
    assert line == (
        "the learning rate goes from 0.0015 to 0.00238 at this step because of steps: 6 -> 12"
    )
    constant = replace(config, optimizer=replace(cosine, schedule="constant"))
    (line,) = said(constant)
    assert line.endswith("because of optimizer.schedule: cosine -> constant")
    assert changes(restored(constant), replace(constant, steps=99)) == []
    assert said(replace(config, seed=1, attention="chunked")) == [
        "seed: 0 -> 1: from here on the data comes in another order",
        "attention: auto -> chunked: sums are rounded otherwise, in their last bits",
    ]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_with_its_number(small_run, tmp_path):
    config = small_run()
    optimizer = replace(
        config.optimizer, learning_rate=1.0, schedule="constant", gradient_clip="none"
    )
    # Not through the constructor, which warns of such a rate.
    object.__setattr__(optimizer, "learning_rate", 1e30)
    message = r"step \d+ has loss .* update was not made\. Its batch is number \d of seed 0"
    with pytest.raises(NonFiniteError, match=message):
        pretrain(replace(config, optimizer=optimizer), tmp_path / "run")


@pytest.mark.whole_run
def test_what_was_skipped_counts_after_a_kill(small_run, tmp_path, undisturbed):
    config = small_run(skip_bad_steps=2, sample_every=5)
    windows, _ = split_windows(config, TokenDataset.open(undisturbed[0] / "tokens"))
    odd = [windows.batch(8 * number, 8, seed=0).inputs[2] for number in (3, 7)]

    def planted(params, batch, rng, config):
        nats, count = next_token_loss(config.model, config.compute)(params, batch, rng)
        hit = (batch[0][:, None] == np.stack(odd)).all(axis=-1).any()
        return jnp.where((rng is not None) & hit, jnp.nan, nats), count

    def stop(config, params, tokenizer):
        os.kill(os.getpid(), signal.SIGTERM)
        return ""

    whole = pretrain(config, tmp_path / "whole", loss_fn=planted)
    skipped = [item for item in whole.records if "skipped_batch" in item]
    assert skipped == [{"step": 4, "skipped_batch": 3}, {"step": 8, "skipped_batch": 7}]
    for _ in range(2):
        pretrain(config, tmp_path / "run", loss_fn=planted, sampler=stop)
    last = pretrain(config, tmp_path / "run", loss_fn=planted)
    assert_same_bits(last.state, whole.state)
    assert [item for item in last.records if "skipped_batch" in item] == skipped
    assert "| skipped steps | 2 |" in (tmp_path / "run/README.md").read_text()
    less = replace(config, skip_bad_steps=1)
    for _ in range(2):  # also where it goes on
        with pytest.raises(NonFiniteError, match=r"step 8 has loss nan .* 1 were skipped before"):
            pretrain(less, tmp_path / "less", loss_fn=planted)
    pretrain(config, tmp_path / "less", loss_fn=planted)


def _command(run, steps):
    return [
        sys.executable, str(ROOT / "scripts" / "train.py"), "tiny", "--out", str(run),
        "--steps", str(steps), "--checkpoint-every", "10", "--evaluate-every", "1000",
        "--stories-bytes", "30000", "--log-every", "1", "--sample-every", "1000",
    ]  # fmt: skip


@pytest.mark.whole_run
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
