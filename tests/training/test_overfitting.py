"""What is said of a run that learns its text by heart, and that its best state is kept."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.config import TrainConfig
from jaxgpt.data.tokens import TokenDataset, TokenSplit
from jaxgpt.presets import get_preset
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.tokenization.tokenizer import ByteTokenizer
from jaxgpt.training.loop import Hooks, fit
from jaxgpt.training.overfitting import best, improved, newly_overfit, passes_line, validation_loss
from jaxgpt.training.report import Reporter
from jaxgpt.training.run_card import SMALL_TEXT, headline
from jaxgpt.training.step import TrainState


def measured(*losses):
    return [{"step": 10 * i, "validation_loss": loss} for i, loss in enumerate(losses)]


def overfit(records):
    """The places at which it is said."""
    return [i for i in range(len(records)) if newly_overfit(records[: i + 1])]


@pytest.mark.parametrize(
    ("losses", "places"),
    [
        ([7.0, 5.0, 4.0, 3.9, 3.9], []),
        ([7.0, 5.0, 4.0, 4.5, 3.9, 4.5, 3.9], []),
        ([7.0, 5.0, 4.0, 4.03, 4.03, 4.03], []),
        ([7.0, 5.0, 4.0, 4.05, 4.06, 5.0, 6.0], [4]),
        ([7.0, 5.0, 4.0, 4.5, 3.9, 4.5, 4.4], [6]),
        ([0.5, 0.6, 0.7], [2]),
        ([0.02, 0.021, 0.022, 0.025, 0.025], []),
        ([0.02, 0.01, 0.05, 0.06], [3]),
        ([0.0, 0.0, 0.0], []),
        ([3.0, 9.0], []),
        ([9.0], []),
    ],
)
def test_a_rise_is_said_once_when_it_is_clear_twice_in_a_row(losses, places):
    assert overfit(measured(*losses)) == places


def test_the_message_names_the_lowest_and_what_to_do():
    said = newly_overfit(measured(7.0, 5.0, 4.0, 4.5, 4.6))
    assert "above that of step 20, 4.0000, twice in a row" in said
    for remedy in ("--best", "fewer steps", "--dropout", "smaller model", "more text"):
        assert remedy in said


def test_a_single_measurement_far_above_the_training_loss_is_said_too():
    trained = [{"step": step, "loss": 1.0 + 0.1 * (step % 2)} for step in range(1, 60)]
    assert overfit([*measured(7.6), *trained, {"step": 60, "validation_loss": 2.0}]) == []
    said = newly_overfit([*measured(7.6), *trained, {"step": 60, "validation_loss": 6.33}])
    assert "validation loss 6.3300 is far above the training loss 1.06" in said


def test_the_best_is_the_newest_of_the_lowest_and_not_before_the_first_step():
    assert best(measured(1.0, 3.0, 2.0, 2.0, 2.5)) == (30, 2.0)
    assert best(measured(1.0)) is None
    places = [improved(measured(1.0, 3.0, 2.0, 2.0, 2.5)[: i + 1]) for i in range(5)]
    assert places == [False, True, True, True, False]
    assert not improved([])
    assert validation_loss(measured(1.0, 3.0), 10) == 3.0
    assert validation_loss(measured(1.0, 3.0), 11) is None


def test_the_best_is_saved_where_no_checkpoint_is_due(tmp_path):
    losses = {0: 9.0, 2: 3.0, 4: 2.0, 6: 2.5, 8: 2.6, 10: 1.9}
    saved, stream = [], io.StringIO()
    config = TrainConfig(
        steps=10, evaluate_every=2, checkpoint_every=6, optimizer=OptimizerConfig(warmup_steps=0)
    )

    def step(state, batch, number):
        metrics = {"loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.1, "targets": 5}
        return replace(state, step=state.step + 1), metrics

    fit(
        TrainState(np.int32(0), {}, None),
        config,
        step_fn=step,
        batch_at=lambda number: None,
        hooks=Hooks(
            evaluate=lambda state: {"validation_loss": losses[int(state.step)]},
            save=lambda state: saved.append(int(state.step)),
        ),
        reporter=Reporter(tmp_path, 10, 0, stream),
    )
    assert saved == [2, 4, 6, 10]
    assert stream.getvalue().count("above that of step 4, 2.0000, twice in a row") == 1


@pytest.mark.parametrize(
    ("passes", "shown"), [(0.00012, "0.0001"), (1.02, "1.0"), (24.4, "24"), (12345.6, "12,346")]
)
def test_passes_are_told_in_a_line(passes, shown):
    assert passes_line(60, passes, "texts") == f"60 steps make {shown} passes over the texts"


@pytest.fixture
def lines(base):
    """`lines(preset, rows, ...)`: what a run on 5,000 tokens says before it begins."""
    split = TokenSplit((np.zeros(5000, np.uint16),), num_bytes=15_000, num_documents=1)
    splits = {"train": split, "validation": split}

    def lines(preset, rows, tokenizer=base.tokenizer, **model):
        config = get_preset(preset)
        config = replace(
            config,
            model=replace(config.model, vocab_size=300, **model),
            data=replace(config.data, data=("my text.txt",)),
        )
        return list(headline(config, TokenDataset(Path(), {}, splits, tokenizer), tokenizer, rows))

    return lines


def test_a_run_says_how_many_passes_it_makes(lines):
    sizes, passes = lines("small", 80)
    assert "5,000 training tokens" in sizes
    assert passes == "1,000 steps make 4.1 passes over the training tokens"


def test_a_text_that_is_too_short_is_told_with_the_command_that_is_made_for_it(lines):
    warning = lines("small", 480)[-1]
    assert warning.startswith("warning: that is more than 16 passes")
    assert warning.endswith("scripts/train.py small-text --data 'my text.txt'`")
    assert not any("warning" in line for line in lines("small", 480, dropout=0.1))
    assert not any("warning" in line for line in lines(SMALL_TEXT, 480))


def test_a_model_that_cannot_become_an_assistant_is_told_before_it_is_trained(lines):
    assert "no assistant to chat with" in lines("tiny", 80, ByteTokenizer())[-1]
    assert not any("chat" in line for line in lines("tiny", 80))
