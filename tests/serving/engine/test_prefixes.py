"""Prompts that begin alike are computed once, and answered as if they had not been."""

import time

import numpy as np
import pytest

from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.serving.answer import Job
from jaxgpt.serving.engine_types import Request
from jaxgpt.serving.prefixes import Slot, place

GREEDY = SamplingConfig(temperature=0.0)
OPTIONS = {"slots": 3, "prefill_chunk": 16}
TEXT = tuple(np.random.default_rng(0).integers(0, 128, 96).tolist())


def request(prompt, count=20, **changes):
    return Request(tuple(prompt), count, sampling=GREEDY, top_logprobs=2, **changes)


def rest(engine):
    """Wait until the engine has nothing left to do, be it to keep a text."""
    for _ in range(2000):
        if not engine._schedule.has_work:
            return
        time.sleep(0.005)
    raise AssertionError("it never rests")


@pytest.fixture
def fresh(served, engines, ask):
    """What an engine that has served nobody writes."""

    def run(prompt, **changes):
        (caller,) = ask(engines(served, **OPTIONS), [request(prompt, **changes)])
        assert caller.ticket.cached_tokens == 0
        return caller

    return run


def test_the_next_turn_of_a_chat_computes_what_is_new(served, engines, ask, fresh):
    engine = engines(served, **OPTIONS)
    (first,) = ask(engine, [request(TEXT[:30])])
    rest(engine)
    # Of 50 tokens of the first turn, 48 are whole chunks, answer included.
    turn = [*TEXT[:30], *first.ids, *TEXT[40:50]]
    (second,) = ask(engine, [request(turn)])
    assert second.ticket.cached_tokens == 48
    assert second.tokens == fresh(turn).tokens  # bit by bit
    rest(engine)
    third_turn = [*turn, *second.ids, *TEXT[:5]]
    (third,) = ask(engine, [request(third_turn)])
    assert third.ticket.cached_tokens == 80
    assert third.tokens == fresh(third_turn).tokens
    stats = engine.stats()
    assert stats.cached_tokens == 128
    assert stats.prompt_tokens == 30 + 60 + 85
    assert stats.compiles == 0


def test_a_prompt_goes_on_from_one_that_is_being_written(served, engines, ask, fresh, caller):
    engine = engines(served, **OPTIONS)
    begun, others = caller(), []

    def on_chunk(chunk):
        if not others:  # in the engine's thread, amid the first one's answer
            others.append(caller())
            others[0].ticket = engine.submit(request([*TEXT[:35], 7, 8]), others[0])
        begun(chunk)

    engine.submit(request(TEXT[:40], 40), on_chunk)
    begun.wait()
    assert others[0].wait().ticket.cached_tokens == 32
    assert others[0].tokens == fresh([*TEXT[:35], 7, 8]).tokens
    assert begun.tokens == fresh(TEXT[:40], count=40).tokens


def test_several_answers_to_one_prompt_take_it_in_once(served, engines, ask):
    engine = engines(served, **OPTIONS)
    warm = SamplingConfig()
    many = [Request(TEXT[:40], 9, sampling=warm, sample_index=i) for i in range(3)]
    callers = ask(engine, many)
    assert [each.ticket.cached_tokens for each in callers] == [0, 32, 32]
    assert len({tuple(each.ids) for each in callers}) == 3


def test_a_text_that_parts_within_a_chunk_shares_those_before_it(served, engines, ask, fresh):
    engine = engines(served, **OPTIONS)
    ask(engine, [request(TEXT[:60])])
    other = [*TEXT[:31], 127 - TEXT[31], *TEXT[32:50]]
    (caller,) = ask(engine, [request(other)])
    assert caller.ticket.cached_tokens == 16
    assert caller.tokens == fresh(other).tokens


def test_the_whole_prompt_again_computes_its_last_chunk_at_most(served, engines, ask, fresh):
    engine = engines(served, **OPTIONS)
    for cached in (0, 32, 32):
        (caller,) = ask(engine, [request(TEXT[:48])])
        assert caller.ticket.cached_tokens == cached
        assert caller.tokens == fresh(TEXT[:48]).tokens


def slots_of(*texts):
    """Slots that were used one after another, of texts that were taken in."""
    return [Slot(i, None, list(text), len(text), i + 1) for i, text in enumerate(texts)]


def test_where_a_prompt_goes():
    chat, system, other = list(range(64)), list(range(16)), list(range(60, 124))

    def where(slots, prompt, *, share=True):
        slot, source, count = place(slots, prompt, 16, share=share)
        return slot.index, source and source.index, count

    slots = slots_of(chat, other, [])
    assert where(slots, [*chat, 1]) == (0, 0, 64)
    assert where(slots, chat) == (0, 0, 48)  # its last token is to be written from
    assert where(slots, [*chat, 1], share=False) == (2, None, 0)
    assert where(slots, [7, *chat]) == (2, None, 0)  # the empty one first
    # What goes on from the system prompt alone leaves the chat where it is.
    assert where(slots, [*system, 1, 2]) == (2, 0, 16)
    full = slots_of(chat, other)
    assert where(full, [*system, 1, 2]) == (0, 0, 16)  # the oldest of all
    assert where(full, [*other[:16], 1, 2]) == (0, 1, 16)
    assert where(full, [7]) == (0, None, 0)
    full[0].job = Job.__new__(Job)
    assert where(full, [*chat, 1]) == (1, 0, 64)
    assert where(full, [7]) == (1, None, 0)
