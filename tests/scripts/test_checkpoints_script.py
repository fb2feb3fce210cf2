"""The command line of a run's checkpoints."""

import fcntl
import importlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.training import inventory as inventory_module
from jaxgpt.training.checkpoint import load_model, save
from jaxgpt.training.kept import checkpoints
from jaxgpt.training.manifest import verify
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.step import init_state

LOSSES = {10: 3.0, 20: 2.0, 30: None, 40: 2.6}


@pytest.fixture(scope="module")
def kept(base, tmp_path_factory):
    """A run of four checkpoints, of which that of step 20 is the best; 30 has other parameters."""
    run = tmp_path_factory.mktemp("runs") / "run"
    state = init_state(base.params, make_optimizer(base.train_config.optimizer, 1))
    config = replace(base.train_config, keep_checkpoints=2, checkpoint_every=10)
    for step, loss in LOSSES.items():
        taken = replace(state, step=np.int32(step))
        if step == 30:
            taken = replace(taken, params=jax.tree.map(lambda leaf: 1.5 * leaf, state.params))
        kept = replace(config, keep_checkpoints=9, steps=step)
        save(run, taken, kept, base.tokenizer, "ab12", validation_loss=loss)
    return run


@pytest.fixture
def run(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(kept, tmp_path / "run")


@pytest.fixture
def command(capsys):
    """`command(*argv)`: exit code, standard output and standard error."""
    script, cli = (importlib.import_module(f"jaxgpt.commands.{x}") for x in ("checkpoints", "cli"))

    def command(*argv):
        code = 0
        try:
            cli.run(script.main, [str(word) for word in argv])
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return command


def folder(run, step):
    return run / "checkpoints" / f"{step:08d}"


def array_of(run, step):
    files = (folder(run, step) / "params").rglob("*")
    return max(files, key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def steps(run):
    return [int(path.name) for path in checkpoints(run)]


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_they_are_listed_with_what_is_said_of_them(command, run):
    cut(array_of(run, 30))
    flip(array_of(run, 10))  # which only verify finds
    (run / "checkpoints/00000005.corrupt-20260101T000000").mkdir()
    before = contents(run)
    code, out, err = command("list", run)
    assert (code, err) == (0, "")
    _, first, best, cut_one, newest, aside = out.splitlines()
    assert first.split()[0] == "10"
    assert first.endswith("3.0000")
    assert best.split()[0] == "20"
    assert best.endswith("2.0000  best")
    assert "damaged: " in cut_one
    assert "bytes, not" in cut_one
    assert newest.endswith("2.6000  newest")
    assert "00000005.corrupt-" in aside
    found = json.loads(command("list", run, "--json")[1])
    assert [item["validation_loss"] for item in found] == [3.0, 2.0, None, 2.6]
    assert [item["best"] for item in found] == [False, True, False, False]
    assert found[0]["size"] == sum(map(len, contents(folder(run, 10)).values()))
    assert contents(run) == before


def test_verify_names_what_is_damaged_and_sets_nothing_aside(command, run):
    code, out, err = command("verify", run)
    assert (code, err, out.count("whole    ")) == (0, "", 4)
    flip(array_of(run, 20))
    cut(folder(run, 20) / "config.json")
    (folder(run, 40) / "more").touch()
    before = contents(run)
    code, out, err = command("verify", run)
    assert code == 4
    assert err.startswith("error: 2 of 4 of ")
    assert err.endswith("the newest whole one is 00000030\n")
    damaged = [line for line in out.splitlines() if line.startswith("damaged  ")]
    assert len(damaged) == 3
    assert any("config.json" in line for line in damaged)
    assert any(array_of(run, 20).name in line for line in damaged)
    assert command("verify", run, "10")[0] == command("verify", folder(run, 30))[0] == 0
    assert command("verify", run, "20")[0] == command("verify", folder(run, 40))[0] == 4
    assert contents(run) == before


@pytest.mark.slow
def test_diff_tells_settings_and_arrays(command, run):
    code, out, err = command("diff", run, "10", "20")
    assert (code, err) == (1, "")
    assert "  step: 10 -> 20" in out
    assert "  steps: 10 -> 20" in out
    assert "different: 1 of" in out  # the optimizer's step
    code, out, _ = command("diff", run, "best", "30", "--json")
    leaves = {item["name"]: item for item in json.loads(out)["leaves"]}
    assert leaves["params/embed/tokens"]["relative"] == pytest.approx(0.5)
    odd = [name for name, item in leaves.items() if not item["equal"]]
    assert sum(name.startswith("params/") for name in odd) == len(odd) - 1
    copy = shutil.copytree(folder(run, 40), run.with_name("copy"))
    code, out, _ = command("diff", run, copy)
    assert code == 0
    assert out.splitlines()[-1].startswith("equal: all ")


def test_prune_keeps_what_a_run_keeps(command, run):
    before = contents(run)
    code, out, _ = command("prune", run, "--keep", "1", "--dry-run")
    assert (code, contents(run)) == (0, before)
    assert [line.split("/")[-1].split()[0] for line in out.splitlines()[:-1]] == [
        "00000010",
        "00000030",
    ]
    assert out.splitlines()[-1].startswith("2 would go, ")
    assert command("prune", run)[1] == "0 removed, 0.0 kB\n"  # the run keeps nine
    assert command("prune", run, "--keep", "1", "--keep-every", "30")[0] == 0
    assert steps(run) == [20, 30, 40]
    assert command("prune", run, "--keep", "1")[0] == 0
    assert steps(run) == [20, 40]


def test_prune_does_not_count_what_is_damaged(command, run):
    flip(array_of(run, 40))
    flip(array_of(run, 20))  # the best
    code, _, err = command("prune", run, "--keep", "1")
    assert (code, err.count("it stays, and does not count")) == (0, 2)
    assert steps(run) == [10, 20, 30, 40]  # of the whole ones, the newest and the best
    for step in (10, 30):
        flip(array_of(run, step))
    code, _, err = command("prune", run, "--keep", "1")
    assert code == 4
    assert "is whole; nothing was removed" in err
    assert steps(run) == [10, 20, 30, 40]


def test_a_checkpoint_by_itself_is_looked_at_and_not_pruned(command, run):
    path = folder(run, 20)
    before = contents(run)
    code, _, err = command("prune", path, "--keep", "1")
    assert (code, contents(run)) == (4, before)
    assert "is one checkpoint; name the folder of its run" in err
    aside = path.rename(path.with_name("00000020.corrupt-1"))
    assert command("verify", aside)[0] == 0


def test_a_checkpoint_that_is_pruned_meanwhile_is_passed_over(command, run, monkeypatch):
    look = inventory_module.damages

    def pruned(path, *given, **options):
        if path == folder(Path("run"), 20):
            shutil.rmtree(path)
        return look(path, *given, **options)

    monkeypatch.setattr(inventory_module, "damages", pruned)
    code, out, _ = command("verify", "run")
    assert (code, out.count("whole")) == (0, 3)


def test_a_run_that_is_trained_is_not_pruned(command, run):
    with open(run / ".lock", "w") as lock:
        lock.write("17")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = command("prune", run, "--keep", "1")
    assert code == 4
    assert "in use by process 17" in err
    assert len(steps(run)) == 4


@pytest.mark.parametrize(("which", "step"), [("best", 20), ("newest", 40), ("30", 30)])
def test_a_model_is_exported_alone(command, run, which, step):
    assert command("export", run, which, "--out", "model")[0] == 0
    assert not os.path.exists("model/optimizer")
    assert verify(run.with_name("model"))["step"] == step
    ours, theirs = load_model("model"), load_model(folder(run, step))
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    assert ours.train_config == theirs.train_config
    assert command("export", run, which, "--out", "model")[0] == 2
    assert command("export", run, which, "--out", "model", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("argv", "code", "complaint"),
    [
        ("", 2, "usage: "),
        ("lst run", 2, "the first word is one of list|verify|diff|prune|export"),
        ("list", 2, "usage: "),
        ("list none", 4, "none holds no checkpoint; name a run's folder"),
        ("verify run 50", 4, "has no checkpoint of step 50; it has 10, 20, 30, 40"),
        ("verify run x", 2, "x"),
        ("diff run", 2, "name two checkpoints"),
        ("diff run x 20", 2, "name a step, newest or best"),
        ("diff run none", 4, "none holds no checkpoint"),
        ("prune run --keep 0", 2, "keep is 0; it must be"),
        ("prune run --keep-every -1", 2, "keep_every is -1"),
        ("export run", 2, "--out"),
        ("export run 50 --out model", 4, "it has 10, 20, 30, 40"),
        ("export run --out run", 2, "not empty"),
    ],
)
def test_bad_input_is_one_line(argv, code, complaint, command, run):
    before = contents(run)
    got, out, err = command(*argv.split())
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert complaint in err
    assert {x: y for x, y in contents(run).items() if x.name != ".lock"} == before
    assert not os.path.exists("model")
