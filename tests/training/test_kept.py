"""Which checkpoints a run keeps: the newest and the best, whatever befalls them."""

import importlib
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.files import seal
from jaxgpt.finetuning.settings import InstructionConfig
from jaxgpt.huggingface.weights import load_gpt2
from jaxgpt.training.checkpoint import load_model, save
from jaxgpt.training.kept import by_validation, checkpoints, find_best, write_validation
from jaxgpt.training.manifest import DamagedError
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.run_contents import foreign_files
from jaxgpt.training.step import init_state

LOSSES = {10: 3.0, 20: 2.0, 30: 2.5, 40: None, 50: 2.6}


@pytest.fixture(scope="module")
def keep(base):
    """`keep(run, step, loss)` saves a checkpoint, and with it the newest two."""
    state = init_state(base.params, make_optimizer(base.train_config.optimizer, 1))
    config = replace(base.train_config, keep_checkpoints=2)

    def keep(run, step, loss, data="ab12", **settings):
        taken, kept = replace(state, step=np.int32(step)), replace(config, **settings)
        save(run, taken, kept, base.tokenizer, data, validation_loss=loss)

    return keep


@pytest.fixture(scope="module")
def kept(keep, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    for step, loss in LOSSES.items():
        keep(run, step, loss)
    return run


@pytest.fixture
def run(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "run")
    return tmp_path / "run"


def steps(folders):
    return [int(folder.name) for folder in folders]


@pytest.mark.slow
def test_the_best_stays_beside_the_newest(run):
    assert steps(checkpoints(run)) == [20, 40, 50]
    assert steps(by_validation(run)) == [20, 50]
    assert load_model(run).step == 50
    assert load_model(find_best(run)).step == 20
    assert foreign_files(run) == []


@pytest.mark.slow
def test_each_so_many_steps_one_is_kept_for_good(run, keep):
    for step in (60, 70, 80):
        keep(run, step, None, checkpoint_every=10, keep_every=30)
    assert steps(checkpoints(run)) == [20, 60, 70, 80]
    keep(run, 90, None, checkpoint_every=10)
    assert steps(checkpoints(run)) == [20, 80, 90]


def test_a_better_one_takes_its_place(run, keep):
    keep(run, 60, 1.9)
    assert steps(checkpoints(run)) == [50, 60]
    assert find_best(run).name == "00000060"


@pytest.mark.parametrize("change", [{"data": "cd34"}, {"evaluation_batches": 3}])
def test_what_was_measured_on_something_else_is_not_compared(run, keep, change):
    keep(run, 60, 2.9, **change)
    assert find_best(run).name == "00000060"
    assert steps(checkpoints(run)) == [50, 60]


def test_a_best_that_is_damaged_is_named_and_the_next_is_taken(run, capsys):
    array = max((run / "checkpoints/00000020/params").rglob("*"), key=lambda x: x.stat().st_size)
    array.write_bytes(array.read_bytes()[:-1])
    assert find_best(run).name == "00000050"
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert "has changed since it was written" in said
    assert said.endswith("00000050 is the best of the others\n")
    (run / "checkpoints/00000050/config.json").unlink()
    with pytest.raises(DamagedError, match="00000020"):
        find_best(run)


SEALED = {
    "a text": {"loss": "1", "measured_on": "x"},
    "true": {"loss": True, "measured_on": "x"},
    "infinite": {"loss": 1e308 * 10, "measured_on": "x"},
    "no data": {"loss": 1.0},
}


@pytest.mark.parametrize("name", ["flipped", "gone", "empty", "a folder", *SEALED])
def test_a_loss_that_is_not_as_it_was_written_counts_for_nothing(name, run):
    path = run / "checkpoints/00000020/validation.json"
    if name == "flipped":
        path.write_text(path.read_text().replace("2.0", "1.0"))
    else:
        path.unlink()
    if name == "empty":
        path.write_text("")
    elif name == "a folder":
        path.mkdir()
    elif name == "infinite":
        path.write_text(json.dumps(SEALED[name]))
    elif name in SEALED:
        path.write_bytes(seal(SEALED[name]))
    assert find_best(run).name == "00000050"


def test_a_run_that_was_never_measured_has_no_best(keep, tmp_path):
    for name in ("run", "nothing"):
        with pytest.raises(CheckpointError, match="no checkpoint with a validation loss"):
            find_best(tmp_path / name)
        keep(tmp_path / "run", 10, None)


@pytest.fixture
def script(monkeypatch, tmp_path):
    """`script(name)`: a command as a module."""
    monkeypatch.chdir(tmp_path)
    return lambda name: importlib.import_module(f"jaxgpt.commands.{name}")


def test_generate_evaluate_and_chat_take_the_best(script, run):
    source = script("cli").ModelSource
    assert source(checkpoint=str(run)).load().step == 50
    assert source(checkpoint=str(run), best=True).load().step == 20
    assert source(init_from=str(run), best=True).load().step == 20
    with pytest.raises(CheckpointError, match="name a run's folder, or leave out --best"):
        source(checkpoint=str(run / "checkpoints/00000020"), best=True).load()


def test_convert_takes_the_best(script, run, capsys):
    script("convert").main(["--from", "jaxgpt", "--model", str(run), "--best", "--out", "hf"])
    assert "saved" in capsys.readouterr().out
    params = load_model(find_best(run)).params["embed"]["tokens"]
    np.testing.assert_array_equal(load_gpt2("hf")[1]["embed"]["tokens"], params)


def test_fine_tuning_begins_with_the_best_and_keeps_its_place(script, run):
    begun = []

    def function(out, config, options, base, *, command):
        begun.append((config.init_from, base.step))
        return SimpleNamespace(
            signal=None, model=SimpleNamespace(step=1, train_config=SimpleNamespace(steps=1))
        )

    finetuning = script("finetuning")
    config = InstructionConfig(init_from=str(run), data=("a.jsonl",))
    for best in (False, True):
        given = finetuning.RunArguments(config=config, platform="cpu", out="tuned", best=best)
        finetuning.tune(given, "instructions", function)
    assert begun == [(str(run), 50), (str(run / "checkpoints/00000020"), 20)]


def test_pretraining_goes_on_with_what_was_the_best_when_it_began(script, run, keep, tmp_path):
    train, best = script("train"), str(run / "checkpoints/00000020")
    assert train.source(str(run), tmp_path / "out", best=False) == str(run)
    assert train.source(str(run), tmp_path / "out", best=True) == best
    keep(tmp_path / "out", 10, 3.0, init_from=best)
    keep(run, 60, 1.0)
    assert train.source(str(run), tmp_path / "out", best=True) == best
    assert train.source(str(run), tmp_path / "new", best=True) == str(find_best(run)) != best
    with pytest.raises(ConfigError, match="--best goes with --init-from"):
        train.main(["tiny", "--best", "--out", "out2"])


def test_the_loss_is_a_file_of_the_checkpoint(tmp_path):
    write_validation(tmp_path, 2.5, "ab12 0 0")
    assert json.loads((tmp_path / "validation.json").read_text())["loss"] == 2.5
