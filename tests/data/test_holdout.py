import json

import pytest

from jaxgpt.data.paths import expand_paths
from jaxgpt.data.sources import label_documents

LINES = "".join(f"line number {number}\n" for number in range(1000))


def split(fraction, *paths):
    """The text of each split."""
    texts = {"train": "", "validation": ""}
    for name, document in label_documents(expand_paths(paths), fraction):
        texts[name] += document.text
    return texts["train"], texts["validation"]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_the_end_of_a_text_is_held_out_from_the_end_of_a_line(tmp_path, fraction):
    path = tmp_path / "a.txt"
    path.write_text(LINES)
    train, validation = split(fraction, path)
    assert train + validation == LINES
    assert train.endswith("\n")
    expected = fraction * len(LINES)
    assert expected <= len(validation) < 1.2 * expected


@pytest.mark.parametrize(
    ("text", "fraction", "border"),
    [
        ("word " * 100, 0.1, 449),
        ("a" * 100, 0.1, 90),
        ("é" * 50, 0.11, 44),  # byte 89 is inside character 44
        ("🙂" * 50, 0.11, 44),
        ("title\n" + "a" * 994, 0.1, 900),  # the only line end is too far away
    ],
)
def test_without_a_line_end_nearby_the_cut_is_at_a_word_or_character(
    tmp_path, text, fraction, border
):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    train, validation = split(fraction, path)
    assert train + validation == text
    assert len(train) == border


def test_text_files_count_as_one_text_of_which_one_is_cut(tmp_path):
    for name, size in (("a", 300), ("b", 500), ("c", 200)):
        (tmp_path / f"{name}.txt").write_text(name * size)
    labelled = list(label_documents(expand_paths([tmp_path]), 0.4))
    assert [(name, document.text) for name, document in labelled] == [
        ("train", "a" * 300),
        ("train", "b" * 300),
        ("validation", "b" * 200),
        ("validation", "c" * 200),
    ]
    assert all(document.ends_document for _, document in labelled)


def test_a_border_between_two_files_cuts_neither(tmp_path):
    for name, size in (("a", 300), ("b", 100)):
        (tmp_path / f"{name}.txt").write_text(name * size)
    assert split(0.25, tmp_path) == ("a" * 300, "b" * 100)


@pytest.mark.slow
def test_whole_json_documents_are_held_out_and_copies_together(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgpt.data.text.PIECE", 32)
    rows = [f"document {number} " + "and so on " * 9 for number in range(2000)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows + rows))
    train, validation = split(0.1, path)
    held_out = [row for row in rows if row in validation]
    assert 150 < len(held_out) < 250
    assert validation == "".join(held_out) * 2
    assert train == "".join(row for row in rows if row not in set(held_out)) * 2
    assert split(0.1, path) == (train, validation)


def test_files_of_both_kinds_are_split_by_their_own_rule(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"<{n}>"}) + "\n" for n in range(99))
    )
    (tmp_path / "b.txt").write_text("b" * 100)
    train, validation = split(0.2, tmp_path)
    assert train.count("b") == 80
    assert validation.count("b") == 20
    assert train.count("<") + validation.count("<") == 99
    assert validation.count("<") > 5
