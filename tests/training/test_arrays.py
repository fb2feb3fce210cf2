"""Arrays come back from any folder that can have a name, and a full disk is one line."""

import gc
import logging
import os
import re
import resource
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import CheckpointError, ResourceError
from jaxgpt.training import arrays
from jaxgpt.training.arrays import read_arrays, write_arrays

TREE = {"a": jnp.arange(6.0).reshape(2, 3), "b": [{"c": jnp.ones(4, jnp.int32)}]}
ASCII = "".join(chr(number) for number in range(1, 128) if chr(number) != "/")
NAMES = [
    *("r[1]", "[ab]", "*", "?", "x*", "\\", "a\\b", "{a,b}", "gs:", "file:", "a%20b", "#", "~"),
    *("-x", ".x", " x ", "line\nbreak", "schön", "日本", "\udcff", ASCII, "[" * 255),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_arrays_come_back_from_a_folder_of_any_name(name, tmp_path):
    (tmp_path / "ab").mkdir()  # which [ab], * and ? could be taken for
    (tmp_path / name).mkdir()
    write_arrays(tmp_path / name / "params", TREE)
    jax.tree.map(np.testing.assert_array_equal, read_arrays(tmp_path / name / "params", TREE), TREE)
    assert not os.listdir(tmp_path / "ab")


@pytest.mark.parametrize("character", ASCII, ids=ascii)
def test_each_character_is_plain_or_gone_around(character, tmp_path):
    folder = tmp_path / f"a{character}b"
    folder.mkdir()
    with arrays._plain(folder / "params") as path:
        assert not set(str(path)) & set("*?[]{}\\:#%")
        path.touch()
    assert os.listdir(folder) == ["params"]


def test_no_plain_place_for_the_link_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_plain_temporary", lambda: str(tmp_path / "none"))
    with pytest.raises(ResourceError, match="could not be written"):
        write_arrays(tmp_path / "[" / "params", TREE)


def test_what_is_written_is_read_back(tmp_path, monkeypatch):
    class Forgetful(type(arrays._checkpointer())):
        def save(self, path, tree):
            super().save(path, {"a": tree["a"]})

    handler = arrays.ocp.StandardCheckpointHandler
    monkeypatch.setattr(arrays, "_checkpointer", lambda _: Forgetful(handler()))
    with pytest.raises(ResourceError, match="other arrays are there than were sent"):
        write_arrays(tmp_path / "params", TREE)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ({"a": TREE["a"]}, r"b/0/c is \(4,\) int32 where none is wanted"),
        (TREE | {"d": jnp.ones(1)}, r"d is not there where \(1,\) float32 is wanted"),
        (TREE | {"a": jnp.ones((3, 2))}, r"a is \(2, 3\) float32 where \(3, 2\) float32"),
        (TREE | {"a": jnp.ones((2, 3), jnp.int32)}, r"a is \(2, 3\) float32 where \(2, 3\) int32"),
    ],
)
def test_other_arrays_than_are_wanted_are_refused(template, complaint, tmp_path):
    write_arrays(tmp_path / "params", TREE)
    with pytest.raises(CheckpointError, match=complaint):
        read_arrays(tmp_path / "params", template)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "x"), "the disk is full; make room"),
        (ValueError("RESOURCE_EXHAUSTED: ... No space left on device [x]\n"), "the disk is full"),
        (ValueError("one\ntwo"), "one"),
        (ValueError(), r"ValueError\(\)"),
    ],
)
def test_why_a_disk_refuses(error, said):
    assert re.match(said, arrays.why(error))
    assert "\n" not in arrays.why(error)


def test_a_full_disk_says_how_much_is_missing(tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 400_000})
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda place: usage)
    error = OSError(28, "No space left on device")
    assert arrays.why(error, tmp_path, 1_900_000) == (
        "the disk is full: a checkpoint takes up to 1.9 MB, and 0.4 MB are free; make room for "
        "1.5 MB"
    )
    assert arrays.why(error, tmp_path, 400_000) == "the disk is full; make room"


@pytest.mark.slow
@pytest.mark.parametrize("debug", [False, True])
def test_a_full_disk_is_one_error_and_no_traceback_but_in_debugging(
    debug, tmp_path, caplog, monkeypatch
):
    caplog.set_level(logging.DEBUG if debug else logging.WARNING, "jaxgpt")
    noise = np.random.default_rng(0).standard_normal(10_000)
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
    try:
        with pytest.raises(ResourceError, match="params could not be written"):
            write_arrays(tmp_path / "params", {"a": jnp.asarray(noise), "b": jnp.asarray(noise)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    gc.collect()
    assert bool(caplog.records) == debug
    assert debug or not unraisable
    assert not [thread for thread in threading.enumerate() if "handler" in thread.name]
