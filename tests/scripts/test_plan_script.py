"""The command line of plans."""

import importlib
import json
import math
import re
import time
from pathlib import Path

import jax
import pytest

from jaxgpt.errors import ConfigError

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_file_of_settings_is_planned(plan, tmp_path):
    (tmp_path / "run.toml").write_text('preset = "small"\n[model]\nnum_layers = 5\n')
    assert plan(str(tmp_path / "run.toml"))[0].startswith("5 layers, 2 heads, width 128")


@pytest.mark.slow
def test_every_mesh_of_devices_that_are_not_here_is_planned(plan, tmp_path):
    path = tmp_path / "plan.json"
    lines = plan("small", "--devices", "2..8", "--memory", "1GB", "--json", str(path))
    figures = json.loads(path.read_text())
    assert (figures["memory"], figures["per_host"]) == (10**9, 8)
    counts = [math.prod(each["mesh"].values()) for each in figures["layouts"]]
    assert counts == sorted(counts)
    assert set(counts) == {2, 4, 8}
    shown = [line.split()[0] for line in lines if line[:9].strip().isdecimal()]
    assert shown == sorted(["2", "4", "8"] * 3)
    fastest = figures["layouts"][0]
    assert fastest["step_seconds"] <= fastest["step_seconds_in_turn"]


def test_of_one_number_of_devices_the_traffic_of_the_fastest_is_shown(plan):
    lines = plan("small", "--devices", "4", "--mesh", "fsdp=4", "--link", "100GB/s")
    said = lines.index("with fsdp=4, each device sends in a step, by ring algorithms:")
    assert any(line.startswith("  all-gather along fsdp: 25 times, ") for line in lines[said:])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--devices", "8.."), "devices is '8..'; write a number from 1 to 1,048,576, such as 64"),
        (("--devices", "8", "--link", "450GB"), "link is '450GB'; write .* such as 450GB/s"),
        (("--devices", "8", "--network", "0GB/s"), "network is '0GB/s'; write a number"),
        (("--devices", "8", "--flops", "nan"), "flops is nan; it must be from"),
        (("--devices", "8", "--utilization", "2"), "utilization is 2.0; it must be from 0.01 to 1"),
        (("--devices", "8", "--per-host", "0"), "per_host is 0; it must be from 1"),
        (("--devices", "8", "--gradient-accumulation", "2"), "is chosen for each mesh"),
        (("--devices", "128"), "no mesh of 128 devices can be: "),
        (("--per-host", "4"), "--per-host is of devices that are not here; add --devices"),
    ],
)
def test_devices_that_cannot_be_are_refused(plan, flags, message, capsys):
    with pytest.raises((ConfigError, SystemExit)) as refused:
        plan("small", *flags)
    assert re.search(message, f"{refused.value} {capsys.readouterr().err}")
