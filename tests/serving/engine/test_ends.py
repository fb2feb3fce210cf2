"""How answers end: by themselves, by the caller, or by a failure that is theirs alone."""

import contextlib
import copy
import dataclasses
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.generation.prepared_params import prepare_params
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.generation.text import PreparedModel, generate_text
from jaxgpt.serving import programs
from jaxgpt.serving.engine import Engine
from jaxgpt.serving.engine_types import Busy, Closing, Request

GREEDY = SamplingConfig(temperature=0.0)
OPTIONS = {"slots": 3, "prefill_chunk": 16}
PROMPT = tuple(range(60, 90))


def greedy(prompt=PROMPT, count=24, **changes):
    return Request(prompt, count, sampling=GREEDY, **changes)


@pytest.fixture
def engine(served, engines):
    return engines(served, **OPTIONS)


@pytest.mark.slow
def test_a_stop_string_ends_the_text_and_its_tokens(served, engine, ask):
    (whole,) = ask(engine, [greedy()])
    stop = whole.text[7:10]
    assert stop not in whole.text[:9]
    (cut,) = ask(engine, [greedy(stop=("never written", stop))])
    assert cut.reason == "stop"
    (expected,) = ["".join(generate_text(served, PROMPT, **_options(stop=[stop])))]
    assert cut.text == expected == whole.text[:7]
    assert served.tokenizer.decode(cut.ids) == cut.text
    # Nothing that begins the stop string was shown before it was known to be no stop string.
    (other,) = ask(engine, [greedy(stop=(whole.text[7:9] + "\0",))])
    assert other.text == whole.text
    assert other.ids == whole.ids


def _options(**changes):
    return {"max_new_tokens": 24, "sampling": GREEDY, **changes}


@pytest.mark.slow
def test_a_token_comes_with_its_text(served, engine, ask):
    (caller,) = ask(engine, [greedy(stop=("no such thing",))])
    for chunk in caller.chunks[:-1]:
        assert chunk.text == served.tokenizer.decode([token.id for token in chunk.tokens])


@pytest.mark.slow
@pytest.mark.parametrize("ignore", [False, True])
def test_an_end_of_text_token_ends_it_unless_ignored(served, engines, ask, ignore):
    (whole,) = ask(engines(served, **OPTIONS), [greedy()])
    end = whole.ids[5]
    tokenizer = copy.copy(served.tokenizer)
    tokenizer.end_of_text = end
    model = PreparedModel(served.config, served.params, tokenizer)
    (caller,) = ask(engines(model, **OPTIONS), [greedy(ignore_end_of_text=ignore)])
    assert caller.ids == (whole.ids if ignore else whole.ids[: whole.ids.index(end)])
    assert caller.reason == ("length" if ignore else "stop")


def test_an_answer_ends_with_the_context(served, engine, ask):
    prompt = tuple(range(90))
    (caller,) = ask(engine, [greedy(prompt, 1000)])
    assert len(caller.ids) == served.config.context_length - 90
    assert caller.reason == "length"
    with pytest.raises(ConfigError, match="the prompt has 96 tokens; the context of 96"):
        engine.submit(greedy(tuple(range(96))), print)
    with pytest.raises(ConfigError, match="a token of the prompt is 128; it must be from 0 to 127"):
        engine.submit(greedy((1, 128)), print)


@pytest.mark.slow
def test_a_shorter_context_than_the_models(served, engines, ask):
    engine = engines(served, context_length=40, **OPTIONS)
    (caller,) = ask(engine, [greedy(PROMPT, 1000)])
    assert len(caller.ids) == 10
    (whole,) = ask(engines(served, **OPTIONS), [greedy(PROMPT, 1000)])
    assert whole.ids[:10] == caller.ids
    with pytest.raises(ConfigError, match="context_length is 97; it must be from 2 to 96"):
        Engine(served, context_length=97)


def test_a_caller_may_cancel_while_it_is_written_or_waits(engine, ask, caller):
    class Held(caller):
        """Holds the engine at its first chunk, until it may go on."""

        def __call__(self, chunk):
            super().__call__(chunk)
            self.began.set()
            self.go_on.wait(20)

    held = Held()
    held.began, held.go_on = threading.Event(), threading.Event()
    held.ticket = engine.submit(greedy(count=60), held)
    assert held.began.wait(20)
    others = [caller() for _ in range(4)]
    for other in others:
        other.ticket = engine.submit(greedy(count=3), other)
    others[3].ticket.cancel()  # which has no slot yet
    held.ticket.cancel()
    held.go_on.set()
    assert held.wait().reason == others[3].wait().reason == "cancelled"
    assert 0 < len(held.ids) < 60
    assert others[3].ids == []
    assert [other.wait().reason for other in others[:3]] == ["length"] * 3
    assert engine.stats().finished == {"cancelled": 2, "length": 3}
    assert engine.stats().busy == 0


def test_as_many_wait_as_may(served, caller):
    engine = Engine(served, queue=2, **OPTIONS)  # not started: all wait
    callers = [caller() for _ in range(5)]
    for each in callers:
        engine.submit(greedy(), each)
    with pytest.raises(Busy, match="5 requests wait already") as error:
        engine.submit(greedy(), print)
    assert error.value.retry_after >= 1
    assert engine.stats().queued == 5
    engine.close(0)
    assert [each.wait().reason for each in callers] == ["cancelled"] * 5


def test_close_lets_answers_finish_and_takes_no_more(served, engines, caller):
    engine = engines(served, **OPTIONS)
    callers = [caller() for _ in range(5)]
    for each in callers:
        engine.submit(greedy(), each)
    engine.close(60)
    assert [each.wait().reason for each in callers] == ["length"] * 5
    with pytest.raises(Closing):
        engine.submit(greedy(), print)
    engine.close(0)  # once more changes nothing


def test_close_cancels_what_takes_longer(served, engines, caller):
    engine = engines(served, **OPTIONS)

    class Slow(caller):
        def __call__(self, chunk):
            super().__call__(chunk)
            self.pause.wait(0.05)

    slow, waits = Slow(), [caller() for _ in range(4)]
    slow.pause = threading.Event()
    engine.submit(greedy(count=60), slow)
    for each in waits:
        engine.submit(greedy(count=60), each)
    engine.close(0.2)
    assert [each.wait().reason for each in (slow, *waits)] == ["cancelled"] * 5
    assert engine.stats().busy == engine.stats().queued == 0


def test_a_caller_that_fails_ends_its_own_answer_alone(engine, ask, caller):
    class Failing(caller):
        def __call__(self, chunk):
            super().__call__(chunk)
            if len(self.chunks) == 2:
                raise RuntimeError("the caller's own")

    (expected,) = ask(engine, [greedy()])
    failing, well = Failing(), caller()
    failing.ticket, well.ticket = engine.submit(greedy(), failing), engine.submit(greedy(), well)
    assert failing.wait().reason == "error"
    assert str(failing.ticket.failure) == "the caller's own"
    assert len(failing.chunks) == 3
    assert well.wait().ids == expected.ids
    assert ask(engine, [greedy()])[0].ids == expected.ids
    assert engine.stats().finished == {"length": 3, "error": 1}


def test_a_caller_that_fails_at_the_last_chunk_harms_nobody(engine, ask, caller):
    class Failing(caller):
        def __call__(self, chunk):
            super().__call__(chunk)
            assert chunk.finish_reason is None

    failing = Failing()
    engine.submit(greedy(count=3), failing)
    assert failing.wait().reason == "length"
    assert ask(engine, [greedy()])[0].reason == "length"


def test_numbers_that_are_not_finite_end_one_answer(served, engines, ask, random_params):
    config = dataclasses.replace(served.config, tie_head=False)
    params = random_params(config)
    bad = 125
    table = params["embed"]["tokens"].at[bad].set(jnp.nan)
    params = params | {"embed": params["embed"] | {"tokens": table}}
    model = PreparedModel(config, prepare_params(params), served.tokenizer)
    engine = engines(model, **OPTIONS)
    # Twice in all slots, so that nothing that was left in one is met.
    for _ in range(2):
        requests = [greedy((1, 2, bad, 3), 4), greedy((1, 2, 3), 4), greedy((bad,), 4)]
        first, well, last = ask(engine, requests)
        assert first.reason == last.reason == "error"
        assert isinstance(first.ticket.failure, FloatingPointError)
        assert first.ids == last.ids == []
        assert well.reason == "length"
        assert bad not in well.ids
    again = ask(engine, [greedy((1, 2, 3), 4) for _ in range(3)])
    assert [each.ids for each in again] == [well.ids] * 3


def test_a_program_that_fails_ends_those_it_was_for(engine, ask, monkeypatch):
    (expected,) = ask(engine, [greedy()])
    own, calls = programs.decode, []

    def decode(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            own(*arguments, **options)  # which uses its arrays up
            raise RuntimeError("RESOURCE_EXHAUSTED")
        return own(*arguments, **options)

    monkeypatch.setattr(programs, "decode", decode)
    failed = ask(engine, [greedy() for _ in range(2)])
    assert [caller.reason for caller in failed] == ["error"] * 2
    assert all(0 < len(caller.ids) <= 2 for caller in failed)
    assert str(failed[0].ticket.failure) == "RESOURCE_EXHAUSTED"
    assert [caller.ids for caller in ask(engine, [greedy()] * 4)] == [expected.ids] * 4


def test_log_probabilities_are_the_models_own(served, engine, ask):
    from jaxgpt.model.gpt import GPT

    hot = Request(
        PROMPT, 8, sampling=SamplingConfig(temperature=2.0, top_k=50), seed=4, top_logprobs=3
    )
    plain = dataclasses.replace(hot, top_logprobs=None)
    asked, without = ask(engine, [hot, plain])
    assert asked.ids == without.ids
    assert {(token.logprob, token.top) for token in without.tokens} == {(None, ())}
    text = [*PROMPT, *asked.ids]
    logits = np.asarray(GPT(served.config, served.params.as_params())(jnp.asarray([text]))[0])
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for i, token in enumerate(asked.tokens):
        row = logprobs[len(PROMPT) + i - 1]
        assert token.logprob == pytest.approx(row[token.id], abs=1e-4)
        assert [id for id, _ in token.top] == np.argsort(-row)[:3].tolist()
        assert [value for _, value in token.top] == pytest.approx(np.sort(-row)[:3] * -1, abs=1e-4)


def test_a_device_that_fails_for_good_ends_all_and_takes_no_more(engine, monkeypatch, caller):
    def fail(*_, **__):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(programs, "decode", fail)
    monkeypatch.setattr(type(engine._batch), "reset", fail)
    asked = []
    with contextlib.suppress(Closing):  # once it has failed
        for _ in range(5):
            asked.append(caller())
            engine.submit(greedy(), asked[-1])
        asked.append(None)
    assert {one.wait().reason for one in asked[:-1]} == {"error"}
    engine._thread.join(60)
    with pytest.raises(Closing):
        engine.submit(greedy(), caller())
    stats = engine.stats()
    assert (stats.busy, stats.queued) == (0, 0)
    assert "the device is gone" in stats.failure
