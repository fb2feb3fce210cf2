"""A run small enough to be repeated in every test."""

import dataclasses

import pytest


@pytest.fixture(scope="session")
def small_run():
    """`small_run(**changes)`: a config of 12 steps on 20 kB of stories."""
    # Not at the top: the annotations are enforced in what is imported after this file.
    from jaxgpt.presets import get_preset

    tiny = get_preset("tiny")
    config = dataclasses.replace(
        tiny,
        model=dataclasses.replace(
            tiny.model, context_length=16, num_layers=1, embed_dim=16, dropout=0.1
        ),
        data=dataclasses.replace(tiny.data, stories_bytes=20_000),
        optimizer=dataclasses.replace(tiny.optimizer, warmup_steps=2),
        steps=12,
        batch_size=8,
        evaluate_every=4,
        evaluation_batches=2,
        checkpoint_every=4,
        sample_every=6,
        log_every=1,
    )
    return lambda **changes: dataclasses.replace(config, **changes)
