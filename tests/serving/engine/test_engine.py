"""Many answers at once: each is what it is alone, and nothing is compiled meanwhile."""

import jax
import numpy as np
import pytest

from jaxgpt.generation.decoding import generate
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.serving import schedule
from jaxgpt.serving.engine_types import Request

GREEDY = SamplingConfig(temperature=0.0)
SETTINGS = [
    GREEDY,
    SamplingConfig(),
    SamplingConfig(temperature=0.8, top_p=0.9),
    SamplingConfig(temperature=1.3, top_k=7),
    SamplingConfig(temperature=0.9, min_p=0.05, repetition_penalty=1.3),
    SamplingConfig(temperature=0.0, repetition_penalty=1.5),
]


def ragged(count, seed=0):
    """Requests of all lengths and settings."""
    noise = np.random.default_rng(seed)
    return [
        Request(
            tuple(noise.integers(0, 128, noise.integers(1, 70)).tolist()),
            int(noise.integers(1, 40)),
            sampling=SETTINGS[i % len(SETTINGS)],
            seed=i,
            sample_index=i % 3,
            top_logprobs=i % 4 if i % 5 == 0 else None,
        )
        for i in range(count)
    ]


def alone(model, request):
    """What `generate` writes, by a program of one row."""
    room = model.config.context_length - len(request.prompt)
    (text,) = generate(
        model.config,
        model.params,
        [request.prompt],
        max_new_tokens=min(request.max_new_tokens, room),
        sampling=request.sampling,
        seed=request.seed,
        sample_indices=[request.sample_index],
        end_of_text=model.tokenizer.end_of_text,
        vocab_size=min(model.tokenizer.vocab_size, model.config.vocab_size),
    )
    return text


@pytest.mark.slow
def test_sixteen_at_once_are_what_each_is_alone(served, engines, ask):
    requests = ragged(16)
    engine = engines(served, slots=16, prefill_chunk=16)
    together = ask(engine, requests)
    assert [caller.reason for caller in together] == ["length"] * 16
    by_itself = engines(served, slots=16, prefill_chunk=16)
    for request, caller in zip(requests, together, strict=True):
        (lone,) = ask(by_itself, [request])
        assert lone.tokens == caller.tokens  # and bit by bit the log-probabilities
        assert lone.text == caller.text == served.tokenizer.decode(caller.ids)
    assert together[0].ids == alone(served, requests[0])
    assert engine.stats().compiles == by_itself.stats().compiles == 0


@pytest.mark.whole_run
def test_answers_are_what_generate_writes(served, engines, ask):
    engine = engines(served, slots=3, prefill_chunk=16)
    requests = ragged(24, seed=5)
    for request, caller in zip(requests, ask(engine, requests), strict=True):
        assert caller.ids == alone(served, request)


def test_more_requests_than_slots_wait_their_turn(served, engines, ask):
    engine = engines(served, slots=3, prefill_chunk=16)
    requests = ragged(9, seed=5)
    wide = engines(served, slots=16, prefill_chunk=16)
    for own, other in zip(ask(engine, requests), ask(wide, requests), strict=True):
        assert own.ids == other.ids
    stats = engine.stats()
    assert (stats.busy, stats.queued, stats.finished) == (0, 0, {"length": 9})
    assert stats.prompt_tokens == sum(len(request.prompt) for request in requests)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 7])
def test_tokens_in_a_dispatch_make_no_difference(served, engines, ask, steps):
    engine = engines(served, slots=2, prefill_chunk=16, tokens_per_dispatch=steps)
    requests = ragged(1, seed=7)
    for request, caller in zip(requests, ask(engine, requests), strict=True):
        assert caller.ids == alone(served, request)


def test_what_is_compiled_in_its_thread_is_counted(served, engines, ask, caller):
    class Compiling(caller):
        def __call__(self, chunk):
            jax.jit(lambda x: 3 * x - len(self.chunks))(np.float32(1))
            super().__call__(chunk)

    engine, compiling = engines(served, slots=3, prefill_chunk=16), Compiling()
    engine.submit(ragged(1)[0], compiling)
    compiling.wait()
    assert engine.stats().compiles >= 1


def test_others_go_on_while_a_long_prompt_is_taken_in(served, engines, caller, monkeypatch):
    monkeypatch.setattr(schedule, "_PROMPTS_SHARE", 0.0)
    engine, order = engines(served, slots=3, prefill_chunk=16), []

    class Noting(caller):
        def __call__(self, chunk):
            order.append(self.name)
            if len(order) == 1:  # in the engine's thread, amid the first one's answer
                engine.submit(Request(tuple(range(90)), 3, sampling=GREEDY), long)
            super().__call__(chunk)

    short, long = Noting(), Noting()
    short.name, long.name = "short", "long"
    engine.submit(Request((1, 2, 3), 40, sampling=GREEDY), short)
    short.wait(), long.wait()
    # Its prompt takes six chunks, and between two of them a token of the other is written.
    assert order.index("long") >= 6


@pytest.mark.slow
def test_settings_of_who_starts_it_do_not_make_it_compile_again(served, engines, ask):
    with jax.default_matmul_precision("float32"):
        engine = engines(served, slots=2, prefill_chunk=16)
    ask(engine, ragged(3))
    assert engine.stats().compiles == 0
