"""A run's folder is left as it was by whatever fails in it before it has a checkpoint."""

import contextlib
import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.presets import get_preset
from jaxgpt.run_config import RunOptions
from jaxgpt.training import run_folder
from jaxgpt.training.run_folder import claim

CONFIG = get_preset("tiny")
OTHER = replace(CONFIG, seed=1)
OTHER_DATA = replace(CONFIG, data=replace(CONFIG.data, stories_bytes=20_000))
SHARD = "train-00000.bin"
ALLOWED = RunOptions(allow_config_change=True)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def checkpoint(run, step):
    folder = run / "checkpoints" / f"{step:08d}"
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(f"of step {step}")


@pytest.fixture
def run(tmp_path):
    """A run of CONFIG with tokens and one checkpoint."""
    run = tmp_path / "run"
    with claim(run, CONFIG, RunOptions()):
        (run / "tokens").mkdir()
        (run / "tokens" / SHARD).write_text("old")
        checkpoint(run, 1)
    return run


def fail_in(run, config, options, made=0):
    """Write tokens, and a checkpoint if `made`, and fail."""

    def work():
        with claim(run, config, options):
            (run / "tokens").mkdir(exist_ok=True)
            (run / "tokens" / SHARD).write_text("new")
            if made:
                checkpoint(run, made)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.parametrize("existed", [False, True])
def test_a_new_folder_is_left_as_it_was(tmp_path, existed):
    run = tmp_path / "run"
    if existed:
        run.mkdir()
    fail_in(run, CONFIG, RunOptions())
    assert run.exists() == existed
    assert list(tmp_path.rglob("*")) == ([run] if existed else [])


@pytest.mark.parametrize(
    ("config", "options"), [(OTHER, RunOptions(overwrite=True)), (OTHER_DATA, ALLOWED)]
)
def test_what_would_be_replaced_is_put_back(run, config, options):
    before = contents(run)
    fail_in(run, config, options)
    assert contents(run) == before


def test_a_run_is_replaced_once_there_is_a_checkpoint(run):
    fail_in(run, OTHER, RunOptions(overwrite=True), made=2)
    found = {path.name: path.read_text() for path in run.rglob("*") if path.is_file()}
    assert found.keys() == {".lock", "task.json", "config.json", SHARD}
    assert (found[SHARD], found["task.json"]) == ("new", "of step 2")
    assert '"seed": 1' in (run / "config.json").read_text()


def test_other_settings_stay_once_something_came_of_them(run):
    with claim(run, OTHER, ALLOWED):
        pass
    assert '"seed": 0' in (run / "config.json").read_text()
    with claim(run, OTHER, ALLOWED):
        assert (run / "tokens" / SHARD).read_text() == "old"
        checkpoint(run, 2)
    assert '"seed": 1' in (run / "config.json").read_text()


def test_other_data_is_tokenized_anew(run):
    with claim(run, OTHER_DATA, ALLOWED):
        assert not (run / "tokens").exists()
        checkpoint(run, 2)
    assert not (run / ".replaced").exists()


def test_a_folder_is_one_process_at_a_time(run):
    with (
        claim(run, CONFIG, RunOptions()),
        pytest.raises(CheckpointError, match="in use by process"),
        claim(run, CONFIG, RunOptions()),
    ):
        pass


def test_a_kill_before_the_first_write_leaves_a_folder_that_can_begin(tmp_path):
    run = tmp_path / "run"
    (run / ".replaced").mkdir(parents=True)
    (run / ".lock").touch()
    (run / ".config.json.0a1b2c3d.partial").write_text("{")
    with claim(run, CONFIG, RunOptions()):
        assert (run / "config.json").exists()


def test_a_kill_before_the_first_checkpoint_leaves_one_that_begins_without_lock_and_settings(
    tmp_path,
):
    run = tmp_path / "run"
    (run / ".replaced").mkdir(parents=True)
    (run / "tokens").mkdir()
    with claim(run, CONFIG, RunOptions()):
        assert (run / "config.json").exists()
    (tmp_path / "mine" / ".replaced").mkdir(parents=True)
    (tmp_path / "mine" / "thesis.txt").touch()
    with (
        pytest.raises(ConfigError, match=r"holds thesis\.txt but no run"),
        claim(tmp_path / "mine", CONFIG, RunOptions()),
    ):
        pass


@pytest.mark.parametrize("settings", ['{"seed": 0}', "other"])
def test_settings_that_came_to_no_checkpoint_give_way(tmp_path, settings):
    run = tmp_path / "run"
    with claim(run, OTHER, RunOptions()):
        pass
    if settings != "other":
        (run / "config.json").write_text(settings)
    with claim(run, CONFIG, RunOptions()):
        assert '"seed": 0' in (run / "config.json").read_text()


def test_a_pipe_in_the_place_of_a_file_gives_way_with_what_came_to_no_checkpoint(tmp_path):
    run = tmp_path / "run"
    with claim(run, OTHER, RunOptions()):
        (run / "tokens").mkdir()
        os.mkfifo(run / "tokens" / "sums.bin")
    (run / "config.json").write_text("{")
    with claim(run, CONFIG, RunOptions()):
        assert '"seed": 0' in (run / "config.json").read_text()
        checkpoint(run, 2)
    assert not (run / ".replaced").exists()
    os.mkfifo(run / "mine")
    with pytest.raises(ConfigError, match="mine"), claim(run, CONFIG, RunOptions(overwrite=True)):
        pass


def test_settings_beside_a_damaged_checkpoint_do_not(run):
    (run / "checkpoints" / "00000001").rename(run / "checkpoints" / "00000001.corrupt-1")
    before = contents(run)
    (run / "config.json").write_text("{")
    before[run / "config.json"] = b"{"
    with pytest.raises(CheckpointError, match="damaged"), claim(run, CONFIG, RunOptions()):
        pass
    assert contents(run) == before


class Killed(BaseException):
    """Nothing is done after it, as after a kill."""


@pytest.mark.parametrize("call", range(13))
def test_an_overwrite_that_is_killed_at_any_call_loses_nothing(run, monkeypatch, call):
    """Of all calls that change the folder, the one of this number is the last that is made."""
    before, calls = contents(run), itertools.count()

    def killed(function):
        def wrapped(*args, **kwargs):
            if next(calls) >= call:
                raise Killed
            return function(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(shutil, "rmtree", killed(shutil.rmtree))
    for name in ("rename", "mkdir", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, killed(getattr(Path, name)))
    monkeypatch.setattr(run_folder, "write_file", killed(run_folder.write_file))
    with contextlib.suppress(Killed), claim(run, OTHER, RunOptions(overwrite=True)):
        raise ZeroDivisionError
    monkeypatch.undo()
    with claim(run, CONFIG, RunOptions()):
        assert contents(run) == before


def test_what_a_run_shows_may_change_when_it_goes_on(run):
    with claim(run, replace(CONFIG, log_every=77), RunOptions()):
        pass


def test_a_layout_on_devices_may_change_when_it_goes_on(run):
    with claim(run, replace(CONFIG, fsdp=8, data_parallel=2), RunOptions()):
        pass


def test_drafts_of_killed_processes_are_removed_and_others_kept(run):
    ours, theirs = ".loss.png.0a1b2c3d.partial", ".notes.txt.0a1b2c3d.partial"
    for name in (ours, theirs):
        (run / name).touch()
    with claim(run, CONFIG, RunOptions()):
        assert not (run / ours).exists()
        assert (run / theirs).exists()


def test_a_draft_that_was_written_after_all_else_was_put_back_is_no_run(tmp_path):
    draft = tmp_path / "run" / "checkpoints" / ".00000010.7.tmp" / "params"
    draft.mkdir(parents=True)
    (draft / "manifest.ocdbt").touch()
    with claim(tmp_path / "run", CONFIG, RunOptions()):
        assert not draft.exists()
    assert (tmp_path / "run" / "config.json").exists()
