"""Records of preferences become pairs of rows, and bad ones a line that says where."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.data.bpe import train_bpe
from jaxgpt.data.tokenizer import ByteTokenizer
from jaxgpt.errors import DataError
from jaxgpt.finetuning.pairs import (
    collate_pairs,
    encode_preference,
    preference_rows,
    read_preferences,
    with_reference,
)
from jaxgpt.finetuning.templates import TEMPLATES

TOKENIZER = train_bpe(["the cat sat on the mat"], 262)
ALPACA = TEMPLATES["alpaca"]
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
        ({"chosen": None}, '"chosen" must be a string, not null'),
        ({"rejected": " "}, '"rejected" is empty; fill it in or remove the record'),
        ({"instruction": 3}, '"instruction" must be a string, not int'),
    ],
)
def test_a_bad_field_is_named_with_its_line(written, record, complaint):
    path = written(RECORD, RECORD | record)
    with pytest.raises(DataError, match=f"pairs.jsonl:2: {complaint}"):
        read_preferences(path)


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
            UserWarning, match="1 of 2 preferences were left out, as their answers do not"
        ),
    ):
        cut = rows(written, RECORD, prompt, context_length=200, too_long="truncate")
    assert len(cut) == 1


def test_answers_that_are_the_same_are_left_out(written):
    with pytest.warns(UserWarning, match="1 of 2 preferences were left out"):
        assert len(rows(written, RECORD, RECORD | {"rejected": RECORD["chosen"]})) == 1
    with (
        pytest.warns(UserWarning, match="1 of 1 preferences were left out"),
        pytest.raises(DataError, match="no record"),
    ):
        rows(written, RECORD | {"rejected": RECORD["chosen"]})


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
    for batch in [measured.batch(step, 2, seed=0) for step in range(3)]:
        np.testing.assert_array_equal(batch.reference, lengths(batch))
    *_, last = measured.in_order(2)
    assert last.reference[1].tolist() == [0, 0]
