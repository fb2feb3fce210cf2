"""Engines of models of all kinds: windows, grouped heads, rotary positions, experts, own blocks."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.config import Experts, ModelConfig, Rope
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.prepared_params import prepare_params
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.generation.text import PreparedModel
from jaxgpt.model.transformer import with_block
from jaxgpt.serving.engine_types import Request
from jaxgpt.tokenization.tokenizer import ByteTokenizer

GREEDY = SamplingConfig(temperature=0.0)
ROTARY = ModelConfig(
    *(256, 64, 2, 4, 16),
    num_kv_heads=2,
    norm="rms",
    gate="silu",
    positions="rope",
    qk_norm="head",
    rope=Rope(rope_base=100.0, rope_local_base=20.0),
)
CONFIGS = {
    "rotary, grouped heads": ROTARY,
    "every second layer in a window": dataclasses.replace(
        ROTARY, num_layers=3, window=8, window_period=2, norm_place="both"
    ),
    "a window in all layers": dataclasses.replace(ROTARY, window=20),
    "a window as long as the context": dataclasses.replace(ROTARY, window=64),
    "experts": dataclasses.replace(ROTARY, experts=Experts(num_experts=4, experts_per_token=2)),
}
SHARES = {"rotary, grouped heads", "a window as long as the context", "experts"}


def requests():
    noise = np.random.default_rng(3)
    lengths = (1, 16, 17, 30, 45)
    return [
        Request(tuple(noise.integers(0, 256, length).tolist()), 15, sampling=GREEDY)
        for length in lengths
    ]


def check(model, engines, ask, shares):
    engine = engines(model, slots=2, prefill_chunk=16)
    asked = requests()
    for _ in range(2):  # the second time over what others left in the slots
        callers = ask(engine, asked)
        for request, caller in zip(asked, callers, strict=True):
            assert [caller.ids] == generate(
                model.config,
                model.params,
                [request.prompt],
                max_new_tokens=15,
                sampling=GREEDY,
                vocab_size=256,
            )
    (again,) = ask(engine, [asked[-1]])
    assert again.ticket.cached_tokens == (32 if shares else 0)
    assert again.ids == callers[-1].ids
    assert engine.stats().compiles == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if i < 2 else pytest.param(name, marks=pytest.mark.whole_run)
        for i, name in enumerate(CONFIGS)
    ],
)
def test_answers_are_what_generate_writes(name, random_params, engines, ask):
    config = CONFIGS[name]
    params = jax.tree.map(lambda leaf: 2 * leaf, random_params(config))
    check(
        PreparedModel(config, prepare_params(params), ByteTokenizer()), engines, ask, name in SHARES
    )


@pytest.mark.whole_run
def test_a_block_that_keeps_sums_begins_each_text_anew(random_params, engines, ask):
    path = Path(__file__).parents[3] / "examples" / "linear_attention.py"
    spec = importlib.util.spec_from_file_location("linear_attention", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    config = with_block(ModelConfig(256, 64, 2, 4, 16), example.BLOCK)
    check(
        PreparedModel(config, prepare_params(random_params(config)), ByteTokenizer()),
        engines,
        ask,
        False,
    )
