"""The command line of the benchmark."""

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from jaxgpt.benchmark import machine as rates
from jaxgpt.benchmark import training
from jaxgpt.benchmark.parts import PARTS
from jaxgpt.errors import ConfigError, JaxgptError, ResourceError

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"
SMALL = (
    *("--vocab-size", "31", "--context-length", "16", "--num-layers", "2", "--num-heads", "2"),
    *("--embed-dim", "16", "--batch-size", "2", "--steps", "2"),
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(training, "measure_rates", lambda: rates.measure_rates(16, 1))
    torch.set_num_threads(1)
    return importlib.import_module("jaxgpt.commands.benchmark")


@pytest.mark.slow
def test_a_table_figures_and_bars(script, tmp_path, capsys):
    out, plot = tmp_path / "figures.json", tmp_path / "bars.png"
    script.main([*SMALL, "--contenders", "jaxgpt", "torch", "--out", str(out), "--plot", str(plot)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 2 layers, 2 heads, width 16, T=16, V=31, batch 2"
    assert lines[3].split("  ")[0] == "contender"
    assert lines[4].startswith("jaxgpt float32 ")
    assert lines[5].startswith("PyTorch eager float32 ")
    assert "other programs" in lines[-1]
    report = json.loads(out.read_text())
    assert report["config"]["model"]["embed_dim"] == 16
    assert report["machine"]["versions"]["torch"] == version("torch")
    assert {"cpu", "cores", "device", "products", "copy"} <= report["machine"].keys()
    assert len(report["rows"][0]["turns_ms"]) == 2
    assert report["quotable"] in (True, False)
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_decode_writes_what_it_is_told(script, capsys):
    flags = ["decode", *SMALL, "--prompt-tokens", "4", "--new-tokens", "5"]
    script.main(flags)
    out = capsys.readouterr().out
    assert "prompt 4 + 5 tokens" in out
    assert "10 of 10" in out


@pytest.mark.whole_run
def test_a_server_of_its_own_is_put_under_load(script, capsys, tmp_path):
    sizes = ("--context-length", "64", "--num-layers", "1", "--num-heads", "2", "--embed-dim", "8")
    flags = ("--streams", "2", "--prompt-tokens", "3", "--new-tokens", "5", "--steps", "1")
    out = tmp_path / "figures.json"
    script.main(["serve", *sizes, *flags, "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("serve: 1 layers, 2 heads, width 8, T=64, V=256, prompt 3 + 5")
    assert [line.split("  ")[0] for line in lines[4:7]] == ["alone", "together", "joins the others"]
    rows = json.loads(out.read_text())["rows"]
    assert all(row["tokens_per_second"] > 0 < row["first_token_ms"] for row in rows)
    with pytest.raises(ConfigError, match="context_length is 64, but 64 tokens of prompt and 128"):
        script.main(["serve", *sizes])


DEVICE = ("device", *SMALL, "--dtype", "float32", "--prompt-tokens", "4", "--new-tokens", "5")


@pytest.mark.whole_run
def test_a_device_is_measured_in_parts_once(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    out, plot = tmp_path / "figures.json", tmp_path / "bars.png"
    flags = [*DEVICE, "--out", str(out), "--plot", str(plot)]
    script.main(flags)
    first = capsys.readouterr().out
    assert first.startswith(
        "device: 2 layers, 2 heads, width 16, T=16, V=31, batch 2 in 1, float32"
    )
    kept = json.loads(out.read_text())
    assert not kept["failed"]
    assert set(kept["parts"]) == set(PARTS)
    assert [row["batch"] for row in kept["parts"]["decode"]["rows"]] == [1, 8, 64, 256]
    for row in kept["parts"]["decode"]["rows"]:
        assert 0 < row["token_ms"] < row["first_token_ms"] + row["median_ms"]
    assert all(row["compile_seconds"] > 0 for row in kept["parts"]["loop"]["rows"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    script.main(flags)
    again = capsys.readouterr().out
    assert again.count(f"kept from {out}") == len(PARTS)
    assert json.loads(out.read_text()) == kept


def test_parts_without_figures_are_an_error(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxgpt.benchmark.device.run_module", _fails)
    with pytest.raises(JaxgptError, match=r"8 parts have no figures: rates \(no card\), .*; run"):
        script.main([*DEVICE, "--out", str(tmp_path / "figures.json")])
    assert "rates: failed: no card" in capsys.readouterr().out


def _fails(*_, **__):
    raise JaxgptError("no card")


def test_a_batch_that_cannot_be_cut_is_refused(script):
    with pytest.raises(ConfigError, match="2; it must be a multiple of gradient_accumulation 3"):
        script.main([*SMALL, "--gradient-accumulation", "3"])


def test_a_model_too_large_is_refused(script):
    with pytest.raises(ResourceError, match="choose a smaller model"):
        script.main(["--shape", "gpt2", "--num-layers", "1000000"])


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--contenders", "keras"], "no contender is called keras; there are jaxgpt, torch,"),
        (["--contenders", "torch", "--dtype", "bfloat16"], "no contender of torch computes in"),
        (["decode", "--contenders", "jaxgpt"], "--contenders goes with train, load and memory"),
        (["--out", "figures.txt"], "--out is figures.txt; its name must end in .json"),
        (["--plot", "none/bars.png"], "--plot is none/bars.png, in a folder that does not exist"),
        (["--steps", "-1"], "steps is -1; it must be from 0 to 100,000"),
        (["--steps-per-turn", "0"], "steps_per_turn is 0; it must be from 1 to 100,000"),
        (["--num-layers", "-1"], "num_layers is -1; it must be from 0"),
        (["--num-heads", "5"], "num_heads is 5, which does not divide embed_dim 384"),
        (["--seeds", "1"], "--seeds goes with blocks"),
        (["blocks", "--dtype", "float32"], "--dtype does not go with blocks"),
        (["blocks", "--num-layers", "2"], "blocks trains --shape tiny or small as it is"),
        (["blocks", "--seeds", "0,one"], "--seeds is '0,one'; write whole numbers with commas"),
        (["blocks", "--contenders", "gpt3"], "no block is called gpt3; there are gpt2, rms-norm,"),
        (["--streams", "4"], "--streams goes with serve"),
        (["serve", "--streams", "1"], "streams is 1; it must be from 2 to 256"),
        (["serve", "--remat"], "are of training, not of serve"),
        (["--minutes", "2"], "--minutes goes with device"),
        (["growth", "--anew"], "--anew goes with device"),
        (["device", "--minutes", "0"], "minutes is 0.0; it must be from 0.1"),
        (["device", "--remat"], "are of training, not of device"),
        (["growth", "--contenders", "torch"], "--contenders goes with train, load and memory"),
        (["device", *SMALL, "--platform", "gpu"], "--platform gpu: no such device here"),
        (["device", *SMALL], "context_length is 16, but 64 tokens of prompt and 128 new ones"),
        (["--shape", "huge"], "invalid choice"),
        (["speed"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line(flags, message, tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, *flags], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.whole_run
def test_without_pytorch_it_says_so(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('none', name='torch')")
    done = subprocess.run(
        [sys.executable, SCRIPT, *SMALL, "--contenders", "jaxgpt", "torch"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "left out: PyTorch eager float32: PyTorch " in done.stdout
