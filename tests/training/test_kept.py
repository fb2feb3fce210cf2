"""Which checkpoints a run keeps: the newest and the best, whatever befalls them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from jaxgpt.errors import CheckpointError
from jaxgpt.files import seal
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


def test_the_best_stays_beside_the_newest(run):
    assert steps(checkpoints(run)) == [20, 40, 50]
    assert steps(by_validation(run)) == [20, 50]
    assert load_model(run).step == 50
    assert load_model(find_best(run)).step == 20
    assert foreign_files(run) == []


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


def test_the_loss_is_a_file_of_the_checkpoint(tmp_path):
    write_validation(tmp_path, 2.5, "ab12 0 0")
    assert json.loads((tmp_path / "validation.json").read_text())["loss"] == 2.5
