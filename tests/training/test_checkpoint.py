"""A checkpoint that is not as it was written is never believed, and an older whole one is."""

import contextlib
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.errors import CheckpointError
from jaxgpt.files import seal
from jaxgpt.training import checkpoint
from jaxgpt.training.checkpoint import (
    find_checkpoint,
    load_model,
    restore_latest,
    save,
    save_model,
)
from jaxgpt.training.kept import checkpoints
from jaxgpt.training.manifest import DamagedError, verify
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.step import init_state

MANIFEST = "manifest.json"


@pytest.fixture(scope="module")
def state(base):
    return init_state(base.params, make_optimizer(base.train_config.optimizer, 1))


@pytest.fixture(scope="module")
def kept(base, state, tmp_path_factory):
    """A run of two checkpoints, of steps 20 and 60, to make copies of."""
    run = tmp_path_factory.mktemp("runs") / "run"
    for step in (20, 60):
        taken = replace(state, step=np.int32(step))
        how = {"rows": 7 * step, "validation_loss": 2.0}
        save(run, taken, base.train_config, base.tokenizer, "ab12", **how)
    return run


@pytest.fixture
def run(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "run")
    return tmp_path / "run"


def edit(folder, sealed=False, **changes):
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    manifest = {name: value for name, value in manifest.items() if value is not None}
    content = seal(manifest) if sealed else json.dumps(manifest, indent=2).encode()
    (folder / MANIFEST).write_bytes(content)


def write(folder, text):
    (folder / MANIFEST).write_text(text)


def append(folder, text):
    content = (folder / MANIFEST).read_text().replace("{", "{" + text, 1)
    (folder / MANIFEST).write_text(content)


def array_of(folder):
    return max((folder / "params").rglob("*"), key=lambda path: path.stat().st_size)


def replaced(make, of):
    def damage(folder):
        path = of(folder)
        path.rename(folder.parent / "kept")
        make(folder.parent / "kept", path)

    return damage


def manifest_of(folder):
    return folder / MANIFEST


def older_format(folder, **changes):
    """As jaxgpt wrote it before manifests had a sum and a number of rows."""
    edit(folder, **{"format": 1, "rows": None, "sha256": None, "sizes": None} | changes)


def swapped(folder):
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("00000020"), folder)


def gone(folder):
    shutil.rmtree(folder)


DAMAGES = {
    "no files": partial(edit, files={}),
    "format 4": partial(edit, format=4),
    "format 2": partial(edit, format=2),
    "format 1": partial(edit, format=1),
    "format true": partial(edit, format=True),
    "data": partial(edit, data="ab13"),
    "step": partial(edit, step=20),
    "rows": partial(edit, rows=8),
    "dtype": partial(edit, dtype="bfloat16"),
    "written by": partial(edit, written_by="\x1b]0;owned\x07"),
    "sealed, another step": partial(edit, sealed=True, step=20),
    "sealed, no files": partial(edit, sealed=True, files={}),
    "sealed, files a list": partial(edit, sealed=True, files=[]),
    "sealed, step true": partial(edit, sealed=True, step=True),
    "sealed, rows negative": partial(edit, sealed=True, rows=-1),
    "sealed, dtype": partial(edit, sealed=True, dtype="int8"),
    "sealed, no sizes": partial(edit, sealed=True, sizes={}),
    "sealed, sizes of text": lambda folder: edit(
        folder,
        sealed=True,
        sizes=dict.fromkeys(json.loads((folder / MANIFEST).read_text())["files"], "1"),
    ),
    "sealed, one more": partial(edit, sealed=True, more=1),
    "sealed, no data": partial(edit, sealed=True, data=None),
    "sealed, sum no string": partial(edit, sealed=True, files={"config.json": [1]}),
    **{
        f"sealed, name {name[:9]!a}": partial(edit, sealed=True, files={name: "0"})
        for name in ("../x", "/etc/passwd", "", "a\0b", "\ud800", "x" * 5000, "a/../b", ".")
    },
    "Infinity": partial(append, text='"x": Infinity,'),
    "1e999": partial(append, text='"x": 1e999,'),
    "twice": partial(append, text='"step": 60,'),
    "nested": partial(write, text="[" * 100_000),
    "list": partial(write, text="[]"),
    "empty": partial(write, text=""),
    "not UTF-8": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe{}"),
    "manifest gone": lambda folder: (folder / MANIFEST).unlink(),
    "manifest linked": replaced(lambda kept, path: path.symlink_to(kept), manifest_of),
    "manifest a pipe": replaced(lambda kept, path: os.mkfifo(path), manifest_of),
    "manifest a folder": replaced(lambda kept, path: path.mkdir(), manifest_of),
    "array gone": lambda folder: array_of(folder).unlink(),
    "array linked": replaced(lambda kept, path: path.symlink_to(kept), array_of),
    "array a pipe": replaced(lambda kept, path: os.mkfifo(path), array_of),
    "array a folder": replaced(lambda kept, path: path.mkdir(), array_of),
    "folder linked": replaced(
        lambda kept, path: path.symlink_to(kept), lambda folder: folder / "params"
    ),
    "one file more": lambda folder: (folder / "params" / "more").write_text("a"),
    "task slipped in": lambda folder: (folder / "task.json").write_text("{}"),
    "a file": replaced(lambda kept, path: path.write_text("a"), lambda folder: folder),
    "an empty folder": replaced(lambda kept, path: path.mkdir(), lambda folder: folder),
    "a pipe": replaced(lambda kept, path: os.mkfifo(path), lambda folder: folder),
    "validation gone": lambda folder: (folder / "validation.json").unlink(),
    "validation flipped": lambda folder: (folder / "validation.json").write_bytes(
        seal({"loss": 1.0, "measured_on": "ab12 0 0"})
    ),
    "a link": replaced(lambda kept, path: path.symlink_to(kept), lambda folder: folder),
    "a dangling link": replaced(lambda kept, path: path.symlink_to("x"), lambda folder: folder),
    "another's": swapped,
    "format 1, no files": partial(older_format, files={}),
    "format 1, with rows": partial(older_format, rows=3),
    "format 1, one file more": lambda folder: (
        older_format(folder),
        (folder / "task.json").write_text("{}"),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_put_aside_and_the_one_before_is_read(
    name, run, state, capsys, monkeypatch
):
    monkeypatch.setattr(checkpoint, "_restore", lambda folder, template: template)  # for speed
    DAMAGES[name](run / "checkpoints" / "00000060")
    assert find_checkpoint(run).name == "00000020"
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert said.endswith("; the checkpoint of step 20 is read instead\n")
    assert said.count("\n") == 1
    assert "\x1b" not in said
    restored = restore_latest(run, state)
    assert (restored.step, restored.rows, restored.data) == (20, 140, "ab12")
    said = capsys.readouterr().err
    assert "set aside as 00000060.corrupt-" in said
    assert said.count("\n") == 1
    assert [path.name for path in checkpoints(run)] == ["00000020"]
    assert len(list((run / "checkpoints").glob("*.corrupt-*"))) == 1


@pytest.mark.slow
def test_every_bit_of_a_manifest_matters_or_says_the_same(kept):
    folder = kept / "checkpoints" / "00000060"
    path, whole = folder / MANIFEST, verify(folder)
    content = path.read_bytes()
    try:
        for place in range(0, 8 * len(content), 97):
            damaged = bytearray(content)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(damaged)
            with contextlib.suppress(DamagedError):
                assert verify(folder, 60) == whole
    finally:
        path.write_bytes(content)


def test_a_newer_format_is_no_damage(run, state):
    edit(run / "checkpoints" / "00000060", sealed=True, format=9, written_by="jaxgpt\n9.0\x1b[2J")
    for read in (find_checkpoint, partial(restore_latest, template=state)):
        with pytest.raises(
            CheckpointError, match=r"written by jaxgpt 9.0.*newer; upgrade"
        ) as caught:
            read(run)
        assert not isinstance(caught.value, DamagedError)
    assert len(checkpoints(run)) == 2


def test_what_the_first_format_wrote_is_read(run, state, base):
    folder = run / "checkpoints" / "00000060"
    older_format(folder)
    restored = restore_latest(run, state)
    assert (restored.step, restored.rows) == (60, 60 * base.train_config.batch_size)
    edit(folder, sealed=True, format=2, rows=420)
    assert restore_latest(run, state).rows == 420
    older_format(folder, dtype=None)
    assert load_model(run).step == 60


def test_nothing_whole_is_an_error_that_leaves_all_where_it_is(run, capsys):
    for folder in checkpoints(run):
        edit(folder, files={})
    with pytest.raises(DamagedError, match=r"00000060.*has changed since it was written"):
        load_model(run)
    assert len(checkpoints(run)) == 2


def test_what_cannot_be_listed_is_not_begun_anew(run, state, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(CheckpointError, match="checkpoints cannot be read: Permission denied"):
        restore_latest(run, state)


def test_what_cannot_be_set_aside_is_said(run, state, monkeypatch):
    edit(run / "checkpoints" / "00000060", files={})
    before = sorted(os.listdir(run / "checkpoints"))

    def refuse(path, to):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be renamed .Permission denied.; move it"):
        restore_latest(run, state)
    assert sorted(os.listdir(run / "checkpoints")) == before


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(run, state, base):
    edit(run / "checkpoints" / "00000060", files={})
    taken = replace(state, step=np.int32(60))
    folder = save(run, taken, base.train_config, base.tokenizer, "ab12")
    assert verify(folder)["rows"] == 60 * base.train_config.batch_size
    assert len(list((run / "checkpoints").glob("*.corrupt-*"))) == 1


def test_two_of_one_step_are_set_aside_by_different_names(run, state, base):
    folder = run / "checkpoints" / "00000060"
    for _ in range(2):
        edit(folder, files={})
        save(run, replace(state, step=np.int32(60)), base.train_config, base.tokenizer, "ab12")
    assert len(list((run / "checkpoints").glob("*.corrupt-*"))) == 2


@pytest.mark.parametrize("attention", ["cudnn", "splash"])
def test_the_kernel_is_a_choice_of_the_machine_at_hand(attention, base, tmp_path):
    trained = replace(base, train_config=replace(base.train_config, attention=attention))
    save_model(tmp_path / "model", trained)
    model = load_model(tmp_path / "model")
    assert model.train_config == replace(base.train_config, attention="auto")
    jax.tree.map(np.testing.assert_array_equal, model.params, base.params)
