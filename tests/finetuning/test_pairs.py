"""Records of preferences become pairs of rows, and bad ones a line that says where."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import DataError
from jaxgpt.finetuning.pairs import (
    collate_pairs,
    encode_preference,
    preference_rows,
    read_preferences,
    with_reference,
)
from jaxgpt.finetuning.templates import TEMPLATES
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.tokenization.tokenizer import ByteTokenizer

TOKENIZER = train_bpe(["the cat sat on the mat"], 262)
ALPACA = TEMPLATES["alpaca"]
CHAT = [
    {"role": "user", "content": "Sit."},
    {"role": "assistant", "content": "I sat."},
    {"role": "user", "content": "Go."},
    {"role": "assistant", "content": "Gone."},
]
RECORD = {"instruction": "Sit.", "input": "on the mat", "chosen": "I sat.", "rejected": "No"}


@pytest.fixture
def written(tmp_path):
    """`written(record, ...)`: a file of such records, a line each."""

    def write(*records):
        path = tmp_path / "pairs.jsonl"
        path.write_text("\n".join(map(json.dumps, records)))
        return [path]

    return write


def encoded(written, *records):
    return [
        encode_preference(item, ALPACA, TOKENIZER) for item in read_preferences(written(*records))
    ]


def rows(written, *records, **options):
    preferences = read_preferences(written(*records))
    return preference_rows(preferences, ALPACA, TOKENIZER, **{"context_length": 400} | options)


def learnt(row):
    return TOKENIZER.decode([int(token) for token in row.targets if token != -100])


def test_the_targets_are_the_answer_and_its_end(written):
    (pair,) = encoded(written, RECORD)
    assert learnt(pair.chosen) == "I sat.<|endoftext|>"
    assert learnt(pair.rejected) == "No<|endoftext|>"
    text = TOKENIZER.decode([int(token) for token in pair.chosen.inputs])
    assert text.startswith("Below is an instruction")
    assert text.endswith(
        "### Instruction:\nSit.\n\n### Input:\non the mat\n\n### Response:\nI sat."
    )
    prompt = len(pair.rejected) - len(TOKENIZER.encode("No"))
    np.testing.assert_array_equal(pair.chosen.inputs[:prompt], pair.rejected.inputs[:prompt])


def test_a_prompt_is_an_instruction(written):
    by_name = {"prompt": "Sit.", "chosen": "I sat.", "rejected": "No"}
    asked, told = encoded(written, by_name, RECORD | {"input": ""})
    np.testing.assert_array_equal(asked.chosen.inputs, told.chosen.inputs)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"chosen": None}, '"chosen" is null; fill it in or remove the record'),
        ({"rejected": " "}, '"rejected" is empty; fill it in or remove the record'),
        ({"instruction": 3}, '"instruction" must be a string, not int'),
        ({"chosen": CHAT[:1]}, '"chosen" does not end with an answer'),
        ({"chosen": CHAT[:2], "rejected": CHAT}, "chosen and rejected differ before their last"),
        ({"chosen": CHAT, "rejected": CHAT}, "the lists of answers do not begin with"),
        ({"chosen": 3}, '"chosen" must be a string, not int'),
    ],
)
def test_a_bad_field_is_named_with_its_line(written, record, complaint):
    path = written(RECORD, RECORD | record)
    with pytest.raises(DataError, match=f"pairs.jsonl:2: {complaint}"):
        read_preferences(path, strict=True)


def says(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": CHAT[:3], "chosen": [says("assistant", "c")], "rejected": "r"},
        {"prompt": CHAT[:3], "chosen": [*CHAT[:3], says("assistant", "c")], "rejected": None},
        {"prompt": "Sit.", "chosen": [*CHAT[:3], says("assistant", "c")], "rejected": None},
        {"chosen": [*CHAT[:3], says("assistant", "c")], "rejected": None},
        {"prompt": CHAT[:1], "chosen": [*CHAT[1:3], says("assistant", "c")], "rejected": None},
        {
            "conversations": [
                {"from": "human", "value": "Sit."},
                {"from": "gpt", "value": "I sat."},
                {"from": "human", "value": "Go."},
            ],
            "chosen": {"from": "gpt", "value": "c"},
            "rejected": {"from": "gpt", "value": "r"},
        },
    ],
)
def test_answers_and_prompts_as_lists_of_messages(written, record):
    if record["rejected"] is None:
        record["rejected"] = [*record["chosen"][:-1], says("assistant", "r")]
    (pair,) = read_preferences(written(record))
    assert [(turn.role, turn.text) for turn in pair.prompt] == [
        *(("user", "Sit."), ("assistant", "I sat."), ("user", "Go."))
    ]
    assert (pair.chosen, pair.rejected) == ("c", "r")


def test_the_earlier_answers_of_a_prompt_are_no_targets(written):
    (pair,) = encoded(written, {"chosen": CHAT, "rejected": [*CHAT[:3], says("assistant", "No")]})
    assert (learnt(pair.chosen), learnt(pair.rejected)) == ("Gone.<|endoftext|>", "No<|endoftext|>")


def test_empty_records_are_left_out_by_name_or_refused(written):
    path = written(RECORD, *[RECORD | {"rejected": ""}] * 4)
    wanted = (
        r"4 of 5 records were left out: .*jsonl:2: \"rejected\" is empty; .*:4: .*; and 1 more$"
    )
    with pytest.warns(UserWarning, match=wanted):
        assert len(read_preferences(path)) == 1
    with pytest.raises(DataError, match=r"pairs\.jsonl:2"):
        read_preferences(path, strict=True)
    with pytest.raises(DataError, match=r"1 of 1 records was left out.*; nothing remains, so give"):
        read_preferences(written(RECORD | {"chosen": " "}))


def test_a_missing_answer_and_a_broken_line_are_named(written, tmp_path):
    with pytest.raises(DataError, match='jsonl:1: no field "rejected"; the fields are instruction'):
        read_preferences(written({"instruction": "Sit.", "chosen": "I sat."}))
    (tmp_path / "broken.jsonl").write_text(json.dumps(RECORD) + "\n{")
    with pytest.raises(DataError, match=r"broken\.jsonl:2: not JSON"):
        read_preferences([tmp_path / "broken.jsonl"])


def test_both_answers_are_as_wide_as_the_longest(written):
    pairs = encoded(written, RECORD, RECORD | {"rejected": "No, I would rather stand."})
    longest = len(pairs[1].rejected)
    batch = collate_pairs(pairs, padding=7)
    assert batch.inputs.shape == batch.targets.shape == (2, 2, longest)
    assert (batch.inputs[0, 1, len(pairs[0].rejected) :] == 7).all()
    assert (batch.targets[0, 1, len(pairs[0].rejected) :] == -100).all()
    assert collate_pairs(pairs, padding=7, widths=[16, 999]).inputs.shape == (2, 2, 999)


def test_a_pair_that_is_too_long_is_refused_with_its_line(written):
    with pytest.raises(DataError, match=r"jsonl:2: \d+ tokens are longer than context_length 200"):
        rows(written, RECORD, RECORD | {"rejected": "No. " * 99}, context_length=200)


def test_a_pair_that_is_too_long_can_be_cut(written):
    long = RECORD | {"rejected": "No. " * 99}
    with pytest.warns(UserWarning, match="1 of 2 preferences were cut to context_length 200"):
        cut = rows(written, RECORD, long, context_length=200, too_long="truncate")
    assert [len(pair.rejected) for pair in cut.examples][1] == 200
    prompt = RECORD | {"instruction": "Sit. " * 99}
    with (
        pytest.warns(UserWarning, match="1 of 2 preferences were cut to context_length 200"),
        pytest.warns(
            UserWarning, match=r"1 of 2 records was left out: .*jsonl:2: its answers do not differ"
        ),
    ):
        cut = rows(written, RECORD, prompt, context_length=200, too_long="truncate")
    assert len(cut) == 1


def test_answers_that_are_the_same_are_left_out(written):
    same = RECORD | {"rejected": RECORD["chosen"]}
    with pytest.warns(UserWarning, match="1 of 2 records was left out"):
        assert len(rows(written, RECORD, same)) == 1
    with pytest.raises(DataError, match=r"1 of 1 records was left out.*; nothing remains"):
        rows(written, same)
    with pytest.raises(DataError, match=r"pairs.jsonl:2: its answers do not differ; fill it in or"):
        rows(written, RECORD, same, strict=True)


def test_a_tokenizer_that_cannot_end_an_answer_is_refused(written):
    with pytest.raises(DataError, match="tokenizer bytes has no end-of-text token"):
        preference_rows(
            read_preferences(written(RECORD)), ALPACA, ByteTokenizer(), context_length=400
        )


def test_a_reference_is_measured_once_for_each_pair(written):
    three = rows(written, *(RECORD | {"rejected": "No" * n} for n in (1, 2, 3)))
    assert three.batch(0, 2, seed=0).reference is None
    lengths = lambda pairs: jnp.array((pairs.targets != -100).sum(-1), jnp.float32)  # noqa: E731
    measured = with_reference(three, lengths, batch_size=2)
    assert three.examples[0].reference is None
    for batch in [measured.batch(2 * step, 2, seed=0) for step in range(3)]:
        np.testing.assert_array_equal(batch.reference, lengths(batch))
    *_, last = measured.in_order(2)
    assert last.reference[1].tolist() == [0, 0]
