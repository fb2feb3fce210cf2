"""What the command lines share: the folder for compiled programs."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


@pytest.fixture
def cli(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAXGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("cli")


def test_compiled_programs_are_kept_and_taken_up(cli, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(SCRIPTS)!r})
import cli
cli.keep_compiled()
import jax
jax.monitoring.register_event_listener(lambda name, **_: print(name))
jax.jit(lambda x: x @ x)(jax.numpy.ones((64, 64)))
"""
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert any((tmp_path / "cache/compiled").rglob("jit_*"))
    hits = [run.stdout.count("/jax/compilation_cache/cache_hits") for run in runs]
    assert hits[0] < hits[1]


@pytest.mark.parametrize("name", VARIABLES)
def test_a_choice_of_the_users_is_left_alone(name, cli, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "false")
    cli.keep_compiled()
    assert not (tmp_path / "cache").exists()
    assert os.environ[name] == "false"


def test_a_folder_that_cannot_be_made_is_done_without(cli, tmp_path):
    (tmp_path / "cache").touch()
    cli.keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
