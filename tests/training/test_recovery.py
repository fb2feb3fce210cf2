"""Whatever befalls a run's folder, the same call comes to the same end."""

import itertools
import json
import os
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxgpt.data import atomic
from jaxgpt.data import prepare as prepare_module
from jaxgpt.errors import CheckpointError, ConfigError, DataError
from jaxgpt.run_config import RunOptions
from jaxgpt.training import pretrain as pretrain_module
from jaxgpt.training import run_folder
from jaxgpt.training.kept import checkpoints
from jaxgpt.training.pretrain import pretrain
from jaxgpt.training.run_contents import foreign_files, undo_killed

pytestmark = pytest.mark.whole_run

SHARD = "tokens/train-00000.bin"
TEXT = "The year 1700 had few days, and a king who counted them.\n" * 300
QUIET = ("tokens_per_second",)


def write_sample(config, params, tokenizer):
    return "once"


@pytest.fixture(scope="module")
def config(small_run, tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(TEXT)
    tiny = small_run(steps=4, evaluate_every=2, checkpoint_every=2, sample_every=2)
    return replace(tiny, data=replace(tiny.data, data=(str(text),), tokenizer="bpe:270"))


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    return run, pretrain(config, run, command="python train.py", sampler=write_sample)


@pytest.fixture
def run(undisturbed, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(undisturbed[0], tmp_path / "run")


def contents(run):
    """All files but those that tell times, drafts, and what was set aside."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    found = {path.relative_to(run).as_posix(): path.read_bytes() for path in files}
    return {name: text for name, text in found.items() if "aside-" not in name}


def names(run):
    """The names of a run's files but for the arrays, which Orbax names by chance."""
    return {name for name in contents(run) if "/d/" not in name}


def records(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: x for key, x in line.items() if key not in QUIET} for line in lines]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def delete(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def to_folder(path):
    delete(path)
    path.mkdir()


def to_fifo(path):
    delete(path)
    os.mkfifo(path)


DAMAGES = [
    *itertools.product(
        (SHARD, "tokens/manifest.json", "tokens/sums.bin", "tokens/tokenizer/tokenizer.json"),
        (flip, empty, cut, delete, to_folder, to_fifo),
    ),
    *itertools.product(("tokens", "tokens/tokenizer"), (delete, to_folder)),
    *itertools.product(("config.json",), (flip, empty, cut, delete, to_folder, to_fifo)),
    *itertools.product(("README.md", "loss.png"), (empty, delete)),
    ("README.md", to_fifo),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES, ids=[f"{d.__name__} {n}" for n, d in DAMAGES])
def test_what_is_damaged_is_made_again(config, run, name, damage):
    before = contents(run)
    damage(run / name)
    pretrain(config, run, command="python train.py", sampler=write_sample)
    assert contents(run) == before


def test_what_is_made_again_is_said_in_a_line(config, run, capsys):
    empty(run / "config.json")
    delete(run / SHARD)
    delete(run / "README.md")
    for _ in range(2):
        pretrain(config, run, sampler=write_sample)
    said = capsys.readouterr().err
    for line in (
        "config.json was damaged; it is written again as the newest checkpoint has it",
        f"; the tokens are made again from {config.data.data[0]}",
        "has taken all its steps, but lacks README.md; it is made now",
    ):
        assert said.count(line) == 1
    assert said.count("is already finished at step 4") == 2


def test_records_of_the_last_step_are_made_again(config, run):
    whole = records(run)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-2]))
    assert set(whole[-1]) | set(whole[-2]) >= {"sample", "validation_loss"}
    pretrain(config, run, sampler=write_sample)
    assert records(run) == whole


@pytest.mark.parametrize("change", [str.upper, None])
def test_tokens_whose_text_is_gone_or_another_stay_damaged(config, run, tmp_path, change):
    moved = tmp_path / "text.txt"
    moved.write_text(TEXT)
    config = replace(config, data=replace(config.data, data=(str(moved),)))
    pretrain(config, run, RunOptions(allow_config_change=True), sampler=write_sample)
    pretrain(replace(config, steps=5), run, RunOptions(allow_config_change=True))
    moved.unlink()
    if change is not None:
        moved.write_text(change(TEXT))
    flip(run / SHARD)
    before = contents(run)
    complaint = r"text\.txt: no such|the text gives other tokens than before"
    with pytest.raises((DataError, CheckpointError), match=complaint):
        pretrain(replace(config, steps=5), run)
    assert contents(run) == before
    moved.write_text(TEXT)
    pretrain(replace(config, steps=5), run)
    assert (run / SHARD).read_bytes() != before[SHARD]


class Killed(BaseException):
    """Nothing is done after it, as after a kill."""


def kill_at(monkeypatch, module, name, call=1, *, after=False):
    """Let the call of that number of `module.name` end the run, with no clearing up after it."""
    function, calls = getattr(module, name), itertools.count(1)

    def wrapped(*args, **kwargs):
        number = next(calls)
        if number == call and not after:
            raise Killed
        result = function(*args, **kwargs)
        if number == call:
            raise Killed
        return result

    monkeypatch.setattr(module, name, wrapped)
    for cleaner in ("put_back", "put_tokens_back", "_keep"):
        monkeypatch.setattr(run_folder, cleaner, lambda *_: None)
    monkeypatch.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)


POINTS = [
    (prepare_module, "write_manifest", 1, False),
    (prepare_module, "write_manifest", 1, True),
    (pretrain_module, "open_corpus", 1, True),
    (pretrain_module, "_publish", 1, False),
    (pretrain_module, "save", 1, False),
    (pretrain_module, "save", 1, True),
    (pretrain_module, "_publish", 2, True),
    (pretrain_module, "save", 2, True),
]


@pytest.mark.parametrize(
    ("module", "name", "call", "after"), POINTS, ids=[f"{p[1]}-{p[2]}-{p[3]}" for p in POINTS]
)
def test_a_run_that_is_killed_at_any_point_ends_the_same(
    config, undisturbed, tmp_path, monkeypatch, module, name, call, after
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at(patch, module, name, call, after=after)
        with pytest.raises(Killed):
            pretrain(config, run, command="python train.py", sampler=write_sample)
    result = pretrain(config, run, command="python train.py", sampler=write_sample)
    for ours, theirs in zip(
        jax.tree.leaves(result.state), jax.tree.leaves(undisturbed[1].state), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert records(run) == records(undisturbed[0])
    assert names(run) == names(undisturbed[0])
    assert foreign_files(run) == []


def test_files_of_others_in_old_checkpoints_and_cards_are_kept(config, run):
    (checkpoints(run)[0] / "notes.txt").write_text("mine")
    (run / "README.md").write_text("mine")
    longer = replace(config, steps=6)
    pretrain(longer, run, RunOptions(allow_config_change=True))
    pretrain(replace(config, steps=8), run, RunOptions(allow_config_change=True))
    assert (run / "checkpoints/00000002/notes.txt").read_text() == "mine"
    assert (run / "README.md").read_text() == "mine"
    assert [path.name for path in checkpoints(run)] == ["00000002", "00000006", "00000008"]
    with pytest.raises(ConfigError, match=r"it holds checkpoints/00000002/notes\.txt, and nothing"):
        pretrain(config, run, RunOptions(overwrite=True))


def test_a_run_goes_on_with_the_devices_that_there_are(config, undisturbed, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at(patch, pretrain_module, "save", after=True)
        with pytest.raises(Killed):
            pretrain(replace(config, mesh="fsdp=4,tensor=2"), run, sampler=write_sample)
    result = pretrain(config, run, sampler=write_sample)
    for ours, theirs in zip(
        jax.tree.leaves(result.state.params),
        jax.tree.leaves(undisturbed[1].state.params),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ConfigError, match="fsdp=16,tensor=1 takes 16, but there are 8 devices"):
        pretrain(replace(config, fsdp=16), run)


def test_the_tokens_of_a_mixture_are_those_of_the_newest_checkpoint(config, tmp_path, monkeypatch):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(TEXT)
    data = replace(config.data, data=(f"{text}=1", "stories=1"), tokenizer="bytes")
    mixed = replace(config, data=data)
    pretrain(mixed, run)
    shard = run / "tokens" / "0" / "train-00000.bin"
    before = shard.read_bytes()
    text.write_text(TEXT + "It went on. " * 40)
    allowed = RunOptions(allow_config_change=True, allow_data_change=True)
    for after in (False, True):
        with monkeypatch.context() as patch:
            kill_at(patch, pretrain_module, "save", 1, after=after)
            with pytest.raises(Killed):
                pretrain(replace(mixed, steps=8), run, allowed)
        new = shard.read_bytes()
        assert new != before
        undo_killed(run)
        assert shard.read_bytes() == (new if after else before)


def test_new_tokens_stay_where_the_newest_checkpoints_settings_are_damaged(
    config, tmp_path, monkeypatch
):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(TEXT)
    one = replace(config, data=replace(config.data, data=(str(text),), tokenizer="bytes"))
    pretrain(one, run)
    text.write_text(TEXT + "It went on. " * 40)
    allowed = RunOptions(allow_config_change=True, allow_data_change=True)
    with monkeypatch.context() as patch:
        kill_at(patch, pretrain_module, "save", 1, after=True)
        with pytest.raises(Killed):
            pretrain(replace(one, steps=8), run, allowed)
    new = (run / SHARD).read_bytes()
    (checkpoints(run)[-1] / "config.json").write_text("{")
    undo_killed(run)
    assert (run / SHARD).read_bytes() == new
