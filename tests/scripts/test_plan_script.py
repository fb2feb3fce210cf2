"""The command line of plans."""

import importlib
import json
import time
from pathlib import Path

import jax
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def plan(monkeypatch, capsys):
    script = importlib.import_module("jaxgpt.commands.plan")

    def plan(*argv):
        script.main(list(argv))
        return capsys.readouterr().out.splitlines()

    return plan


def test_the_largest_preset_is_planned_in_seconds(plan):
    began = time.process_time()  # which other programs do not lengthen
    lines = plan("gpt2-xl", "--memory", "80GB", "--gradient-accumulation", "1")
    assert time.process_time() - began < 20
    assert lines[0] == "48 layers, 25 heads, width 1600, T=1024, V=50257, bfloat16"
    assert "1,557,611,200" in lines[1]
    assert lines[-1].startswith("does not fit in 80.0 GB: set --gradient-accumulation ")


def test_what_is_advised_fits(plan):
    advised = plan("small", "--memory", "60MB")[-1]
    cut = advised.split("set --gradient-accumulation ")[1].split()[0]
    lines = plan("small", "--memory", "60MB", "--gradient-accumulation", cut)
    assert any(line.startswith("fits: ") for line in lines)


def test_a_gpu_nearly_full_needs_a_word_to_jax(plan):
    peak = next(line for line in plan("gpt2", "--memory", "80GB") if "estimated peak" in line)
    memory = f"{1.1 * float(peak.split()[-2])}GB"
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in plan("gpt2", "--memory", memory)[-1]


def test_the_devices_here_share_the_batch(plan):
    lines = plan("small")
    assert lines[0].endswith("V=2048, float32")
    assert lines[1].startswith(f"on each of {jax.device_count()} devices")
    assert lines[-1].startswith("fits: ")


def test_devices_that_are_not_here_are_as_many_as_named(plan):
    flags = ("--fsdp", "4", "--data-parallel", "4", "--memory", "40GB")
    assert plan("gpt2", *flags)[1] == "on each of 16 devices, 4 of which share parameters:"


def test_figures_are_written(plan, tmp_path):
    lines = plan("tiny", "--memory", "1GB", "--json", str(tmp_path / "plan.json"))
    figures = json.loads((tmp_path / "plan.json").read_text())
    assert figures["config"]["model"]["vocab_size"] == 256
    assert (figures["devices"], figures["memory"]) == (1, 10**9)
    assert f"{sum(figures['parameters'].values()):,}" in lines[1]
    assert f"{figures['peak'] / 1e6:.1f} MB" in next(line for line in lines if "peak" in line)


def test_a_file_of_settings_is_planned(plan, tmp_path):
    (tmp_path / "run.toml").write_text('preset = "small"\n[model]\nnum_layers = 5\n')
    assert plan(str(tmp_path / "run.toml"))[0].startswith("5 layers, 2 heads, width 128")
