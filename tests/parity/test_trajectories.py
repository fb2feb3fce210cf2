"""Two programs, one training: the losses part by rounding and no more."""

import importlib
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.benchmark import trajectories
from jaxgpt.benchmark.trajectories import compare_training, train_in_torch
from jaxgpt.config import DataConfig, ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError
from jaxgpt.run_config import OptimizerConfig

SCRIPTS = Path(__file__).parents[2] / "scripts"
CONFIG = TrainConfig(
    model=ModelConfig(
        vocab_size=37, context_length=16, num_layers=2, num_heads=4, embed_dim=32, tie_head=False
    ),
    data=DataConfig(tokenizer="bytes"),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=5),
    steps=30,
    batch_size=4,
    seed=7,
)
TOKENS = np.random.default_rng(0).integers(37, size=2000, dtype=np.int32)


@pytest.fixture(scope="module")
def runs():
    return compare_training(CONFIG, TOKENS)


@pytest.mark.whole_run
def test_the_float32_runs_are_alike(runs, rounding):
    # The sums on the way to the logits, as in test_gpt_parity.py: 2.5e-6 of a loss of 3.6, and
    # thirty steps. Measured: 7e-7 nats.
    D, T = 32, 16
    tolerance = rounding(2 * (5 * D + 8 + 2 * T + 4 * D) + 2 * D) * runs.torch[0]
    assert runs.torch[0] > runs.torch[-1] > 0
    for losses in (runs.jaxgpt, runs.torch_two_threads, runs.float64):
        assert losses.shape == (30,)
        np.testing.assert_allclose(losses, runs.torch, rtol=0, atol=tolerance)
    assert (runs.float64 != runs.torch).any()


@pytest.mark.whole_run
@pytest.mark.parametrize("change", [{"beta2": 0.96}, {"learning_rate": 3.01e-3}, {"epsilon": 1e-6}])
def test_another_optimizer_shows(change, runs, monkeypatch):
    monkeypatch.setattr(trajectories, "train_in_jax", lambda *_: runs.jaxgpt)
    other = replace(CONFIG, optimizer=replace(CONFIG.optimizer, **change))
    params = trajectories.init_like_torch(CONFIG.model, CONFIG.seed)
    windows = trajectories.SlidingWindows(TOKENS, 16)
    batches = [windows.batch(4 * step, 4, seed=7) for step in range(30)]
    wrong = train_in_torch(other, params, batches, threads=1)
    assert abs(wrong - runs.jaxgpt).max() > 20 * abs(runs.torch - runs.jaxgpt).max()


def test_dropout_is_refused():
    config = replace(CONFIG, model=replace(CONFIG.model, dropout=0.1))
    with pytest.raises(ConfigError, match=r"dropout is 0.1; it must be 0"):
        compare_training(config, TOKENS)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plot", "curves.foo"], "--plot is curves.foo; its name must end in .png"),
        (["--plot", "none/curves.png"], "--plot is none/curves.png, in a folder that does not"),
        (
            [],
            f"this needs PyTorch, which is not installed: {shlex.quote(sys.executable)} -m pip",
        ),
    ],
)
def test_the_script_says_what_it_needs(flags, message, tmp_path):
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 40)
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(name='torch')")
    done = subprocess.run(
        [sys.executable, SCRIPTS / "trajectories.py", "--data", "text.txt", *flags],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.whole_run
def test_the_script_prints_a_table_and_draws(tmp_path, monkeypatch, capsys):
    script = importlib.import_module("jaxgpt.commands.trajectories")
    monkeypatch.setattr(
        script, "CONFIG", replace(CONFIG, model=replace(CONFIG.model, vocab_size=256))
    )
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 40)
    picture = tmp_path / "curves.png"
    script.main(["--data", str(tmp_path / "text.txt"), "--steps", "6", "--plot", str(picture)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 1", "| 2", "| 5", "| 6", "| largest"]
    assert picture.read_bytes().startswith(b"\x89PNG")
