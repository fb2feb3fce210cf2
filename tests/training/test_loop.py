"""The loop, over steps that compute nothing."""

import io
from dataclasses import replace

import numpy as np

from jaxgpt.config import OptimizerConfig, TrainConfig
from jaxgpt.training.loop import Hooks, fit
from jaxgpt.training.metrics import read_metrics
from jaxgpt.training.report import Reporter
from jaxgpt.training.step import TrainState

CONFIG = TrainConfig(steps=6, log_every=3, optimizer=OptimizerConfig(warmup_steps=0))


def step(state, targets, number):
    metrics = {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 0.1, "targets": targets}
    return replace(state, step=state.step + 1), metrics


def test_a_run_is_measured_before_its_first_step_once(tmp_path):
    """Not again where it goes on, be it from before its first checkpoint, and not as training."""
    measured = []

    def evaluate(state):
        measured.append(int(state.step))
        return {"validation_loss": 2.0}

    hooks = Hooks(evaluate=evaluate, save=lambda state: None)
    for first in (0, 0, 4):
        fit(
            TrainState(np.int32(first), {}, None),
            CONFIG,
            step_fn=step,
            batch_at=lambda number: 5,
            hooks=hooks,
            reporter=Reporter(tmp_path, 6, first, io.StringIO()),
        )
    assert measured == [0, 6, 6, 6]
    assert read_metrics(tmp_path)[0] == {"step": 0, "validation_loss": 2.0}


def test_batches_without_targets_are_counted_and_said_once(tmp_path):
    stream = io.StringIO()
    reporter = Reporter(tmp_path, 6, 0, stream)
    targets = [5, 0, 5, 5, 0, 5]
    hooks = Hooks(evaluate=lambda state: {"validation_loss": 2.0}, save=lambda state: None)
    state = TrainState(np.int32(0), {}, None)
    fit(
        state,
        CONFIG,
        step_fn=step,
        batch_at=lambda number: targets[number],
        hooks=hooks,
        reporter=reporter,
    )
    assert reporter.empty_batches == 2
    trained = [item["step"] for item in reporter.records if "loss" in item]
    counted = [item for item in reporter.records if "empty_batches" in item]
    assert trained == [1, 3, 6]
    assert counted == [{"step": 2, "empty_batches": 1}, {"step": 5, "empty_batches": 2}]
    assert stream.getvalue().count("no target") == 1
