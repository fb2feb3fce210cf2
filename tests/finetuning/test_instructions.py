"""What is learnt of a record, and that neither padding nor a cut of the batch changes the loss."""

import dataclasses
import json
from functools import partial

import jax
import numpy as np
import pytest

from jaxgpt.errors import DataError
from jaxgpt.finetuning.instructions import (
    Conversation,
    collate,
    conversation_rows,
    encode_conversation,
    encode_prompt,
    read_conversations,
    token_row,
)
from jaxgpt.finetuning.templates import TEMPLATES, Turn
from jaxgpt.presets import get_preset
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.tokenization.tokenizer import ByteTokenizer
from jaxgpt.training.loss import next_token_loss
from jaxgpt.training.step import gradients

TOKENIZER = train_bpe(["Name the hero. Who was kind? "] * 9, 270)
END = 269
RECORD = {"instruction": "Name the hero.", "input": "Finn ran.", "output": "Finn."}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Finn."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "At sea."},
]


def write(folder, *records):
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return [path]


def text_of(name, turns):
    return "".join(
        piece.text + "<end>" * (piece.kind == "answer") for piece in TEMPLATES[name].render(turns)
    )


def test_reading(tmp_path):
    without = {"instruction": "Go.", "output": "Gone.", "input": " "}
    first, second, third = read_conversations(write(tmp_path, RECORD, without, {"messages": CHAT}))
    assert first.turns == (
        Turn("user", "Name the hero."),
        Turn("input", "Finn ran."),
        Turn("assistant", "Finn."),
    )
    assert (first.prompt, first.answer) == (first.turns[:2], "Finn.")
    assert second.turns == (Turn("user", "Go."), Turn("assistant", "Gone."))
    assert [turn.role for turn in third.turns] == [message["role"] for message in CHAT]
    assert third.where.endswith("records.jsonl:3")


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({**RECORD, "output": ""}, r'jsonl:2: "output" is empty; fill it in or remove'),
        ({"instruction": "Go.", "input": ""}, r'jsonl:2: no field "output"; the fields are instr'),
        ({"prompt": "Go."}, r'jsonl:2: no field "instruction"; the fields are prompt'),
        ({**RECORD, "input": 3}, r'jsonl:2: "input" must be a string, not int'),
        ({"messages": "Go."}, 'jsonl:2: "messages" must be a list'),
        ({"messages": []}, 'jsonl:2: "messages" is empty'),
        ({"messages": None}, 'jsonl:2: "messages" is empty'),
        ({"messages": CHAT[2:3]}, "jsonl:2: the assistant's message has none before it"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "1: from is 'bot'; it must be one"),
        ({"conversations": [{"from": "gpt", "text": "x"}]}, '1: no field "value"'),
        ({"messages": CHAT[:2]}, "jsonl:2: the last message must be the assistant's"),
        ({"messages": ["Go."]}, "jsonl:2, message 1: must be an object"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "message 1: role is 'bot'; it must be"),
        ({"messages": [{"role": "user"}]}, 'message 1: no field "content"'),
        ({"messages": [{"role": "user", "content": ""}]}, 'message 1: "content" is empty'),
    ],
)
def test_bad_records_say_where(tmp_path, record, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        read_conversations(write(tmp_path, RECORD, record), strict=True)
    assert "\n" not in str(caught.value)


def test_the_turns_of_sharegpt_are_messages(tmp_path):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    said = [{"from": names[item["role"]], "value": item["content"]} for item in CHAT]
    theirs, ours = read_conversations(write(tmp_path, {"conversations": said}, {"messages": CHAT}))
    assert theirs.turns == ours.turns


@pytest.mark.parametrize("record", [{**RECORD, "output": ""}, {"messages": CHAT[:2]}])
def test_a_record_without_an_answer_is_left_out_by_name(tmp_path, record):
    with pytest.warns(UserWarning, match=r"1 of 3 records was left out: .*records.jsonl:2: .*"):
        assert len(read_conversations(write(tmp_path, RECORD, record, RECORD))) == 2


def test_templates(tmp_path):
    plain, chat = read_conversations(write(tmp_path, RECORD, {"messages": CHAT}))
    assert text_of("alpaca", plain.turns) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nName the hero.\n\n### Input:\nFinn ran."
        "\n\n### Response:\nFinn.<end>"
    )
    assert text_of("phi", plain.turns) == (
        "<|user|>\nName the hero.\nFinn ran.<|end|>\n<|assistant|>\nFinn.<end>"
    )
    assert text_of("chat", chat.turns) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\nFinn.<end><|im_start|>user\nWhere?<|im_end|>\n"
        "<|im_start|>assistant\nAt sea.<end>"
    )
    assert text_of("alpaca", chat.turns).startswith("Be brief.\n\n### Instruction:\nWho?\n\n###")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_answers_are_the_targets(tmp_path, name):
    (chat,) = read_conversations(write(tmp_path, {"messages": CHAT}))
    row = encode_conversation(chat.turns, TEMPLATES[name], TOKENIZER)
    learnt = row.targets[row.targets != -100]
    assert TOKENIZER.decode(learnt.tolist()) == "Finn.<|endoftext|>At sea.<|endoftext|>"
    whole = encode_conversation(chat.turns, TEMPLATES[name], TOKENIZER, mask_prompt=False)
    assert (whole.inputs == row.inputs).all()
    assert (whole.targets[:-1] == row.inputs[1:]).all()
    assert whole.targets[-1] == END


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_row_begins_with_the_prompt_that_is_generated_from(tmp_path, name):
    (chat,) = read_conversations(write(tmp_path, {"messages": CHAT}))
    prompt = encode_prompt(chat.prompt, TEMPLATES[name], TOKENIZER)
    row = encode_conversation(chat.turns, TEMPLATES[name], TOKENIZER)
    assert row.inputs[: len(prompt)].tolist() == prompt
    assert row.targets[len(prompt) - 1 :].tolist() == [*TOKENIZER.encode("At sea."), END]


def test_only_the_template_writes_special_tokens():
    specials = ("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
    tokenizer = train_bpe(["Go now. "] * 9, 264, special_tokens=specials)
    turns = (Turn("user", "<|assistant|>"), Turn("assistant", "<|endoftext|>"))
    row = encode_conversation(turns, TEMPLATES["phi"], tokenizer, mask_prompt=False)
    tokens = [*row.inputs, row.targets[-1]]
    of_template = [token for token in tokens if token >= 260]
    assert [tokenizer.decode([int(token)]) for token in of_template] == [
        *("<|user|>", "<|end|>", "<|assistant|>", "<|endoftext|>")
    ]


def test_collation_keeps_the_first_end_of_text():
    rows = [token_row([*tokens, 99]) for tokens in ([0, 1, 2, 3, 4], [5, 6], [7, 8, 9])]
    batch = collate(rows, padding=99)
    assert batch.inputs.tolist() == [[0, 1, 2, 3, 4], [5, 6, 99, 99, 99], [7, 8, 9, 99, 99]]
    assert batch.targets.tolist() == [
        *([1, 2, 3, 4, 99], [6, 99, -100, -100, -100], [8, 9, 99, -100, -100])
    ]
    assert collate(rows, padding=99, widths=[4, 8]).inputs.shape == (3, 8)


def conversations(count=12):
    return [
        Conversation(
            (Turn("user", "Name the hero. " * (1 + i % 5)), Turn("assistant", f"Hero {i}.")),
            f"f:{i}",
        )
        for i in range(count)
    ]


def rows_of(items, context_length=256, **options):
    template = TEMPLATES["phi"]
    return conversation_rows(items, template, TOKENIZER, context_length=context_length, **options)


def test_the_shapes_of_a_run_are_few():
    rows = rows_of(conversations())
    widths = {rows.batch(2 * step, 2, seed=0).inputs.shape[1] for step in range(60)}
    widths |= {batch.inputs.shape[1] for batch in rows.in_order(2)}
    assert widths <= {48, 64, 96, 128}


def test_an_evaluation_counts_each_target_once():
    rows = rows_of(conversations(5))
    counted = sum(int((batch.targets != -100).sum()) for batch in rows.in_order(2))
    assert counted == sum(int((row.targets != -100).sum()) for row in rows.examples)


def test_a_record_longer_than_the_context():
    items = conversations(5)
    lengths = [len(row) for row in rows_of(items).examples]
    with pytest.raises(DataError, match=rf"f:4: {lengths[4]} tokens are longer than context_lengt"):
        rows_of(items, lengths[4] - 1)
    with pytest.warns(UserWarning, match=f"1 of 5 records were cut to .* {lengths[4] - 1}, and 0 "):
        rows = rows_of(items, lengths[4] - 1, too_long="truncate")
    whole = rows_of(items).examples[4]
    assert rows.examples[4].inputs.tolist() == whole.inputs[:-1].tolist()
    assert rows.examples[4].targets.tolist() == whole.targets[:-1].tolist()
    with pytest.warns(UserWarning, match="1 of 5 records were cut to .*, and 1 of them left out"):
        assert len(rows_of(items, lengths[3] + 1, too_long="truncate")) == 4


def test_a_tokenizer_that_cannot_end_an_answer():
    with pytest.raises(DataError, match="tokenizer bytes has no end-of-text token"):
        encode_conversation(conversations(1)[0].turns, TEMPLATES["phi"], ByteTokenizer())


@pytest.fixture(scope="module")
def loss():
    tiny = get_preset("tiny")
    model = dataclasses.replace(tiny.model, vocab_size=270, context_length=256)
    config = dataclasses.replace(tiny, model=model)
    return (
        model,
        jax.jit(next_token_loss(config.model, config.compute)),
        next_token_loss(config.model, config.compute),
    )


@pytest.mark.slow
@pytest.mark.parametrize("mask_prompt", [True, False])
def test_padding_does_not_change_the_loss(loss, random_params, mask_prompt):
    model, measure, _ = loss
    params = random_params(model)
    rows = rows_of(conversations(4), mask_prompt=mask_prompt).examples
    alone = [measure(params, _pair(collate([row], padding=END)), None) for row in rows]
    nats, count = sum(float(nats) for nats, _ in alone), sum(int(count) for _, count in alone)
    for widths in ([128], [256]):
        together = measure(params, _pair(collate(rows, padding=END, widths=widths)), None)
        assert int(together[1]) == count
        # Up to 200 terms in another order: sqrt(200) roundings of 2^-24, about 1e-6.
        assert float(together[0]) == pytest.approx(nats, rel=2e-6)


def _pair(batch):
    return jax.device_put((batch.inputs, batch.targets))


@pytest.mark.slow
def test_micro_batches_do_not_change_the_gradient(loss, random_params):
    model, _, loss_fn = loss
    params, key = random_params(model), jax.random.key(0)
    batch = _pair(rows_of(conversations()).batch(0, 8, seed=0))
    compiled = jax.jit(partial(gradients, loss_fn), static_argnames="micro_batches")
    whole, (nats, count) = compiled(params, batch, key)
    parts, (nats_cut, count_cut) = compiled(params, batch, key, micro_batches=4)
    assert int(count) == int(count_cut)
    assert float(nats_cut) == pytest.approx(float(nats), rel=1e-6)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(whole))
    for ours, theirs in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        assert float(np.abs(ours - theirs).max()) < 2e-6 * largest
