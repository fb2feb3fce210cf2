"""Files of records: read in full and encoded as they are, or refused by the line."""

import csv
import io

import pytest
from harness import HOSTILE, Put, Raw, Whole, attempt, cuts, to_json, trees, wholes
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgpt.data.batches import IGNORE
from jaxgpt.errors import DataError
from jaxgpt.finetuning.instructions import conversation_rows, read_conversations
from jaxgpt.finetuning.labelled import class_names, labelled_rows, read_labelled
from jaxgpt.finetuning.pairs import preference_rows, read_preferences
from jaxgpt.finetuning.records import read_records
from jaxgpt.finetuning.templates import TEMPLATES

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who ran?"},
    {"role": "assistant", "content": "Finn."},
]
RECORDS = {
    "conversations": [
        {"instruction": "Who ran?", "input": "Finn ran.", "output": "Finn."},
        {"messages": MESSAGES},
        {"instruction": "Say it.", "output": "It."},
    ],
    "preferences": [
        {"prompt": "Who ran?", "chosen": "Finn.", "rejected": "Nobody."},
        {"instruction": "Say", "input": "it", "chosen": "It.", "rejected": "No."},
    ],
    "labelled": [
        {"label": "ham", "text": "see you at 17"},
        {"label": "spam", "text": "you won"},
        {"label": 1, "text": "one"},
    ],
}
READ = {
    "conversations": read_conversations,
    "preferences": read_preferences,
    "labelled": read_labelled,
}


@pytest.fixture(scope="module")
def tokenizer(base):
    return base.tokenizer


def lines(records):
    return "".join(to_json(record) + "\n" for record in records).encode()


def table(records, separator=","):
    names = list(dict.fromkeys(name for record in records for name in record))
    rows = [[f'"{record.get(name, "")}"' for name in names] for record in records]
    return "".join(separator.join(row) + "\n" for row in [names, *rows]).encode()


def tabbed(records):
    return "".join(f"{record['label']}\t{record['text']}\n" for record in records).encode()


def rows(kind, found, tokenizer):
    """The records as the batches of a run; all that is learnt is what they say."""
    options = {"context_length": 64, "too_long": "truncate"}
    if kind == "labelled":
        made = labelled_rows(found, class_names(found), tokenizer, **options)
    elif kind == "preferences":
        made = preference_rows(found, TEMPLATES["chat"], tokenizer, **options)
    else:
        made = conversation_rows(found, TEMPLATES["chat"], tokenizer, **options)
    return list(made.in_order(2))


def check(kind, path, content, tokenizer):
    path.write_bytes(content)
    found = attempt(lambda: READ[kind]([path]), DataError)
    if isinstance(found, DataError):
        assert str(path) in str(found)
        return
    assert found
    made = attempt(lambda: rows(kind, found, tokenizer), DataError)
    if isinstance(made, DataError) or kind == "labelled":
        return
    for batch in made:
        learnt = batch.targets[batch.targets != IGNORE]
        assert ((learnt >= 0) & (learnt < tokenizer.vocab_size)).all()


kinds = st.sampled_from(list(RECORDS))
SOUND = RECORDS["conversations"]


@given(kind=kinds, mutation=trees)
@example("conversations", Put((0, "output"), "\ud800"))
@example("conversations", Put((0, "output"), ""))
@example("conversations", Put((1, "messages"), {}))
@example("conversations", Put((1, "messages"), []))
@example("conversations", Put((1, "messages", 0), None))
@example("conversations", Put((1, "messages", 0, "role"), []))
@example("conversations", Put((1, "messages", 0, "role"), "\x1b[2J"))
@example("conversations", Put((0, "\x1b[2J"), 1))
@example("conversations", Put((0, "more"), Raw("1e999")))
@example("conversations", Put((0, "more"), Raw("[" * 100_000)))
@example("conversations", Put((0, "more"), Raw("1" * 5000)))
@example("preferences", Put((0, "chosen"), 10**400))
@example("labelled", Put((2, "label"), 10**400))
@example("labelled", Put((2, "label"), Raw("1" * 5000)))
@example("labelled", Put((2, "label"), True))
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_hostile_records_are_encoded_or_refused(tmp_path, tokenizer, suffix, kind, mutation):
    found = mutation.into(RECORDS[kind])
    if suffix == ".jsonl" and isinstance(found, list):
        content = lines(found)
    else:
        content = to_json(found).encode()
    check(kind, tmp_path / f"records{suffix}", content, tokenizer)


@given(kind=kinds, suffix=st.sampled_from([".json", ".jsonl", ".csv"]), mutation=cuts | wholes)
@example("labelled", ".csv", Whole(b"label,text,text\nham,one,two\n"))
@example("labelled", ".csv", Whole(b'label,text\nham,"a\0b"\n'))
@example("labelled", ".csv", Whole(b"\xef\xbb\xbflabel,text\nham,a\nspam,b\n"))
@example("labelled", ".csv", Whole(b'"'))
@example("labelled", ".json", Whole(b"[" * 100_000))
@example("labelled", ".jsonl", Whole(b'{"label": "a", "text": "b", "text": "c"}\n'))
def test_damaged_records_are_encoded_or_refused(tmp_path, tokenizer, kind, suffix, mutation):
    sound = RECORDS[kind]
    content = {
        ".json": lambda: to_json(sound).encode(),
        ".jsonl": lambda: lines(sound),
        ".csv": lambda: table(sound),
    }[suffix]()
    check(kind, tmp_path / f"records{suffix}", mutation(content), tokenizer)


@given(suffix=st.sampled_from([".tsv", ".txt"]), mutation=cuts | wholes)
@example(".tsv", Whole(b"ham\t\0\n"))
@example(".txt", Whole(b"ham\ta\rspam\tb\n"))
def test_damaged_tables_are_encoded_or_refused(tmp_path, tokenizer, suffix, mutation):
    content = mutation(tabbed(RECORDS["labelled"]))
    check("labelled", tmp_path / f"records{suffix}", content, tokenizer)


cells = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(cells=st.lists(st.tuples(cells, cells), min_size=1, max_size=3))
def test_a_csv_is_read_as_it_was_written(tmp_path, cells):
    written = io.StringIO()
    csv.writer(written).writerows([("label", "text"), *cells])
    (tmp_path / "records.csv").write_bytes(written.getvalue().encode())
    found = attempt(lambda: read_records([tmp_path / "records.csv"]), DataError)
    if not isinstance(found, DataError):
        assert [(item.fields["label"], item.fields["text"]) for item in found] == cells


@given(
    name=st.sampled_from([x for x in HOSTILE if isinstance(x, str)]) | st.text(max_size=20),
    suffix=st.sampled_from([".jsonl", ""]),
)
def test_a_name_is_a_file_of_records_or_refused(tmp_path, name, suffix):
    attempt(lambda: read_records([f"{tmp_path}/{name}{suffix}"]), DataError)
