"""The loop, over steps that compute nothing."""

import io
from concurrent.futures import Future
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import TrainConfig
from jaxgpt.errors import ConfigError, NonFiniteError, ResourceError
from jaxgpt.run_config import OptimizerConfig
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


def run(tmp_path, config=CONFIG, state=None, losses=(), **hooks):
    """Fit `config` on steps with these losses; the reporter, and what it said."""
    stream = io.StringIO()
    reporter = Reporter(tmp_path, config.steps, 0, stream)

    def step(state, loss, number):
        metrics = {"loss": loss, "grad_norm": 1.0, "learning_rate": 0.1, "targets": 5}
        return replace(state, step=state.step + 1), metrics

    hooks = {"evaluate": lambda state: {"validation_loss": 2.0}, "save": lambda state: None} | hooks
    try:
        fit(
            state or TrainState(np.int32(0), {}, None),
            config,
            step_fn=step,
            batch_at=lambda number: losses[number] if losses else 1.0,
            hooks=Hooks(**hooks),
            reporter=reporter,
        )
    finally:
        run.said = stream.getvalue()
    return reporter


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_measured_must_be_finite(value, tmp_path):
    saved = []
    with pytest.raises(
        NonFiniteError, match=r"step 0 has validation margin .* no checkpoint"
    ) as caught:
        run(
            tmp_path,
            evaluate=lambda state: {"validation_loss": 1.0, "validation_margin": value},
            save=saved.append,
        )
    assert not saved
    assert caught.value.exit_code == 5
    assert "--allow-config-change" in str(caught.value)


def test_a_validation_loss_that_is_not_finite_makes_no_checkpoint(tmp_path):
    saved = []
    config = replace(CONFIG, evaluate_every=2, checkpoint_every=2)
    with pytest.raises(NonFiniteError, match="step 4 has validation loss nan"):
        run(
            tmp_path,
            config,
            evaluate=lambda state: {"validation_loss": np.nan if state.step == 4 else 1.0},
            save=lambda state: saved.append(int(state.step)),
        )
    assert saved == [2]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("part", ["params", "opt_state"])
def test_a_state_that_is_not_finite_makes_no_checkpoint(part, tmp_path):
    saved = []
    broken = {part: {"a": jnp.array([1.0, np.nan]), "b": jnp.array([1, 2])}}
    state = TrainState(np.int32(0), **({"params": {}, "opt_state": None} | broken))
    with pytest.raises(NonFiniteError, match="after step 6 the parameters or the optimizer's"):
        run(tmp_path, state=state, save=saved.append)
    assert not saved


def test_a_step_of_ones_own_needs_no_folder_no_hooks_and_no_learning_rate(capsys):
    def own(state, batch, number):
        metrics = {"loss": float(batch), "grad_norm": 1.0, "targets": 5}
        return replace(state, step=state.step + 1), metrics

    given = {"step_fn": own, "batch_at": lambda number: 10 * number}
    state = fit(TrainState(np.int32(0), {}, None), CONFIG, **given)
    assert int(state.step) == 6
    said = capsys.readouterr().err
    assert "step 6/6  loss 50.0000" in said
    assert "lr" not in said


def test_metrics_that_a_step_lacks_are_named(capsys):
    def own(state, batch, number):
        return replace(state, step=state.step + 1), {"loss": 1.0}

    with pytest.raises(ConfigError, match="step_fn gives no grad_norm and no targets; it must"):
        fit(TrainState(np.int32(0), {}, None), CONFIG, step_fn=own, batch_at=lambda number: number)


def failing(*steps):
    """A save that fails at these steps, and the steps at which it did not."""
    saved = []

    def save(state):
        if int(state.step) in steps:
            raise ResourceError("the disk is\nfull")
        saved.append(int(state.step))

    return save, saved


def test_a_checkpoint_that_cannot_be_written_is_tried_again(tmp_path):
    save, saved = failing(2, 3, 5)
    run(tmp_path, replace(CONFIG, checkpoint_every=1), save=save)
    assert saved == [1, 4, 6]
    assert run.said.count("warning: the disk is full; the checkpoint before is kept") == 3


@pytest.mark.parametrize(("steps", "saved"), [((2, 3, 4), [1]), ((6,), [1, 2, 3, 4, 5])])
def test_three_failures_in_a_row_or_the_last_end_the_run(steps, saved, tmp_path):
    save, done = failing(*steps)
    with pytest.raises(ResourceError, match="the disk is"):
        run(tmp_path, replace(CONFIG, checkpoint_every=1), save=save)
    assert done == saved


def behind(save):
    """The same save, by a thread, of which the loop gets the future."""

    def begin(state):
        future = Future()
        try:
            future.set_result(save(state))
        except ResourceError as error:
            future.set_exception(error)
        return future

    return begin


def test_a_checkpoint_that_fails_beside_the_steps_is_tried_again_at_the_next(tmp_path):
    save, saved = failing(2, 3, 5)
    run(tmp_path, replace(CONFIG, checkpoint_every=1), save=behind(save))
    assert saved == [1, 4, 6]
    assert run.said.count("warning: the disk is full; the checkpoint before is kept") == 3


@pytest.mark.parametrize(("steps", "saved"), [((2, 3, 4), [1]), ((6,), [1, 2, 3, 4, 5])])
def test_three_failures_beside_the_steps_or_the_last_end_the_run(steps, saved, tmp_path):
    save, done = failing(*steps)
    with pytest.raises(ResourceError, match="the disk is"):
        run(tmp_path, replace(CONFIG, checkpoint_every=1), save=behind(save))
    assert done == saved


def test_a_run_that_is_stopped_does_not_swallow_its_last_checkpoint(tmp_path):
    save, _ = failing(1)
    with pytest.raises(ResourceError):
        run(tmp_path, save=save, stopped=lambda: True)


def test_loss_spikes_are_said_once_and_recorded(tmp_path):
    noise = np.random.default_rng(0).normal(size=200)
    losses = (3 + 0.1 * noise).tolist()
    losses[20] = losses[150] = 9.0  # the first comes before there are 128 to compare it with
    losses[151] = 12.0
    config = replace(CONFIG, steps=200, log_every=1000)
    reporter = run(tmp_path, config, losses=losses)
    spikes = [item for item in reporter.records if "loss_spike" in item]
    assert spikes == [{"step": 151, "loss_spike": 9.0}, {"step": 152, "loss_spike": 12.0}]
    assert run.said.count("far above") == 1
    assert "warning: loss 9.0000 at step 151" in run.said


def test_a_skipped_step_is_said_and_recorded_by_its_batch(tmp_path):
    stream, losses = io.StringIO(), [1.0, np.nan, 1.0, np.inf, 1.0, np.nan]
    reporter = Reporter(tmp_path, 6, 0, stream)

    def step(state, loss, number):
        metrics = {"loss": loss, "grad_norm": 1.0, "targets": 5, "skipped": number in (1, 3)}
        return replace(state, step=state.step + 1), metrics

    config = replace(CONFIG, seed=7, skip_bad_steps=2)
    with pytest.raises(
        NonFiniteError, match=r"step 6 has loss nan .*2 were skipped before.*number 5 of seed 7"
    ) as caught:
        fit(
            TrainState(np.int32(0), {}, None),
            config,
            step_fn=step,
            batch_at=lambda number: losses[number],
            reporter=reporter,
        )
    assert caught.value.step == 6
    skipped = [item for item in reporter.records if "skipped_batch" in item]
    assert skipped == [{"step": 2, "skipped_batch": 1}, {"step": 4, "skipped_batch": 3}]
    assert read_metrics(tmp_path) == reporter.records
    said = "step 4 has loss inf and gradient norm 1.0; its batch is number 3 of seed 7. The step"
    assert said in stream.getvalue()


def test_losses_that_are_all_alike_have_no_spikes(tmp_path):
    losses = [0.1 + 1e-9 * (step % 7) for step in range(400)]
    reporter = run(tmp_path, replace(CONFIG, steps=400), losses=losses)
    assert not [item for item in reporter.records if "loss_spike" in item]
