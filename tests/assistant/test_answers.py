"""Answers do not depend on the batch; loss and exact match count what they say."""

import dataclasses

import pytest

from jaxgpt.assistant.answers import answer_loss, exact_match, write_answers
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.finetuning.instructions import Conversation, encode_prompt
from jaxgpt.finetuning.templates import TEMPLATES, Turn
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.presets import get_preset
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.training.checkpoint import LoadedModel

TOKENIZER = train_bpe(["Name the hero. Who was kind? "] * 9, 270)
TEMPLATE = TEMPLATES["phi"]
PROMPTS = [(Turn("user", "Who? " * times),) for times in (1, 4, 2, 3)]


@pytest.fixture(scope="module")
def model(random_params):
    tiny = get_preset("tiny")
    shape = dataclasses.replace(
        tiny.model, vocab_size=280, context_length=64, num_layers=1, tie_head=False
    )
    params = random_params(shape)
    # Logits far apart, so that no rounding decides between two tokens.
    params["head"]["weight"] = params["head"]["weight"] * 5
    return LoadedModel(shape, params, TOKENIZER, 0, dataclasses.replace(tiny, model=shape))


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [SamplingConfig(2.0, 0.0), SamplingConfig()])
def test_the_batch_does_not_change_an_answer(model, sampling):
    options = {"max_new_tokens": 12, "sampling": sampling, "seed": 3}
    together = write_answers(model, PROMPTS, TEMPLATE, **options)
    assert len(set(together)) == 4
    assert write_answers(model, PROMPTS, TEMPLATE, batch_size=3, **options) == together
    alone = [
        generate(
            model.config,
            model.params,
            [encode_prompt(prompt, TEMPLATE, TOKENIZER)],
            sample_indices=[i],
            vocab_size=270,
            end_of_text=269,
            **options,
        )[0]
        for i, prompt in enumerate(PROMPTS)
    ]
    assert [TOKENIZER.decode(tokens) for tokens in alone] == together


def test_an_answer_ends_at_the_end_of_text(model):
    prompt = encode_prompt(PROMPTS[0], TEMPLATE, TOKENIZER)
    greedy = SamplingConfig(temperature=0.0)
    ((first,),) = generate(
        model.config, model.params, [prompt], max_new_tokens=1, sampling=greedy, vocab_size=270
    )
    # Its logits for the two tokens change places.
    weight = model.params["head"]["weight"]
    swapped = weight.at[:, first].set(weight[:, 269]).at[:, 269].set(weight[:, first])
    params = model.params | {"head": {"weight": swapped}}
    ended = dataclasses.replace(model, params=params)
    assert write_answers(ended, PROMPTS[:1], TEMPLATE, max_new_tokens=12) == [""]


def test_no_prompts_no_answers(model):
    assert write_answers(model, [], TEMPLATE, max_new_tokens=3) == []


def test_a_prompt_needs_room_for_its_answer(model):
    length = len(encode_prompt(PROMPTS[1], TEMPLATE, TOKENIZER))
    with pytest.raises(DataError, match=rf"prompt 2 \('Who\? Who.*{length} tokens leave no room"):
        write_answers(model, [PROMPTS[0], PROMPTS[1]], TEMPLATE, max_new_tokens=64 - length + 1)
    with pytest.raises(ConfigError, match="batch_size is 0; it must be 1 or more"):
        write_answers(model, PROMPTS, TEMPLATE, max_new_tokens=3, batch_size=0)


def test_exact_match():
    assert exact_match([" Finn.\n", "finn.", "Finn", "Mara."], ["Finn."] * 3 + ["Mara. "]) == 0.5
    with pytest.raises(DataError, match="1 answers for 2 references; give one each"):
        exact_match(["a"], ["a", "b"])
    with pytest.raises(DataError, match="0 answers"):
        exact_match([], [])


def conversations(*answers):
    turns = [(Turn("user", "Who?"), Turn("assistant", answer)) for answer in answers]
    return [Conversation(pair, f"f:{i}") for i, pair in enumerate(turns, 1)]


@pytest.mark.slow
def test_the_loss_is_that_of_the_answers(model):
    items = conversations("Finn.", "Kind, and kind again.", "No one")
    alone = [answer_loss(model, [item], TEMPLATE, batch_size=2) for item in items]
    assert [count for _, count in alone] == [
        len(TOKENIZER.encode(item.answer)) + 1 for item in items
    ]
    loss, count = answer_loss(model, items, TEMPLATE, batch_size=2)
    assert count == sum(count for _, count in alone)
    # About 40 float32 terms in another order: sqrt(40) roundings of 2^-24.
    assert loss == pytest.approx(sum(nats * n for nats, n in alone) / count, rel=1e-6)


def test_a_conversation_longer_than_the_context(model):
    with pytest.raises(DataError, match=r"f:2: .* longer than context_length 64"):
        answer_loss(model, conversations("Finn.", "so " * 200), TEMPLATE)
