"""Programs are compiled once, and a deeper model makes no longer ones."""

import importlib
from dataclasses import fields, replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.data.batches import SlidingWindows
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.presets import get_preset
from jaxgpt.training import pretrain
from jaxgpt.training.compiled_step import make_step
from jaxgpt.training.mesh import make_mesh

SCRIPTS = Path(__file__).parents[2] / "scripts"
COMPILED = "/jax/core/compile/backend_compile_duration"  # told also where a cache had the program


@pytest.fixture
def programs():
    """The names of the programs compiled in this test so far, in order."""
    names, counting = [], True

    def listen(event, seconds, **details):
        if counting and event == COMPILED:
            names.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    counting = False


@pytest.mark.whole_run
def test_nothing_is_compiled_after_the_first_visit_nor_in_a_run_by_other_numbers(
    small_run, programs, compiled_anew, tmp_path, monkeypatch
):
    write_sample = importlib.import_module("jaxgpt.commands.train").write_sample
    counts, write = [], pretrain.save

    def save(*arguments, **options):
        folder = write(*arguments, **options)
        counts.append(len(programs))
        return folder

    monkeypatch.setattr(pretrain, "save", save)

    config = small_run(
        steps=12,
        batch_size=16,
        gradient_accumulation=2,
        evaluate_every=4,
        evaluation_batches=0,
        evaluation_stride=8,
        checkpoint_every=4,
        sample_every=4,
    )
    pretrain.pretrain(config, tmp_path / "run", sampler=write_sample)
    validation = TokenDataset.open(tmp_path / "run" / "tokens").split("validation")
    *_, last = SlidingWindows(validation, 16, 8).in_order(8)
    assert (last.targets == -100).all(axis=1).any(), "the last batch is to be incomplete"
    # Evaluated, sampled and saved for the first time; what follows is more of the same.
    assert len(counts) == 3
    assert programs[counts[0] :] == []
    assert programs.count("jit(step_and_rate)") == programs.count("jit(eval_step)") == 1
    assert len(programs) < 150  # most of them slices of the stacked layers, for the first sample

    # A new process would find in the cache on disk what this one does.
    assert compiled_anew
    compiled_anew.clear()
    pretrain.pretrain(by_other_numbers(config), tmp_path / "other", sampler=write_sample)
    assert compiled_anew == []


def by_other_numbers(config):
    """The same shapes, and another value of each number that is no shape; some of them 0."""
    numbers = {
        item.name: getattr(config.optimizer, item.name) * 0.9
        for item in fields(config.optimizer)
        if item.type in (float, "float")
    }
    optimizer = replace(config.optimizer, **numbers, gradient_clip=0.5, warmup_steps=0)
    optimizer = replace(optimizer, weight_decay=0.0, final_learning_rate=1e-4)
    model = replace(config.model, dropout=0.3)
    return replace(config, model=model, optimizer=optimizer, steps=14, seed=2**32 - 1)


def _step_text(num_layers):
    config = get_preset("tiny")
    config = replace(config, model=replace(config.model, vocab_size=64, num_layers=num_layers))
    mesh = make_mesh(config)
    state = jax.eval_shape(lambda: pretrain.initial_state(config, 0))
    batch = jax.ShapeDtypeStruct((16, 64), np.int32)
    return make_step(config, mesh).lower(state, (batch, batch), np.int32(0)).as_text()


@pytest.mark.slow
def test_the_program_does_not_grow_with_depth():
    shallow, deep = (_step_text(num_layers).count("\n") for num_layers in (12, 48))
    assert shallow == deep > 1000
