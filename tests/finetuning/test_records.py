"""Records are read from four forms, and each complaint names the place."""

import pytest

from jaxgpt.errors import DataError
from jaxgpt.finetuning.records import Record, read_records


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.json", '[{"label": "x", "text": "é"}, {"label": "y", "text": "a, b"}]', [1, 2]),
        ("a.jsonl", '{"label": "x", "text": "é"}\n\n{"label": "y", "text": "a, b"}\n', [1, 3]),
        ("a.csv", 'Label, text\nx,é\n\ny,"a, b"\n', [2, 4]),
        ("a.tsv", "x\té\r\n\ny\ta, b", [1, 3]),
        ("a.txt", "x\té\ny\ta, b\n", [1, 2]),
    ],
)
def test_the_same_records_in_every_form(tmp_path, name, content, places):
    path = write(tmp_path, name, content)
    records = read_records([path])
    assert [record.fields for record in records] == [
        {"label": "x", "text": "é"},
        {"label": "y", "text": "a, b"},
    ]
    between = ": record " if name.endswith(".json") else ":"
    assert [record.where for record in records] == [f"{path}{between}{line}" for line in places]


def test_a_string_may_hold_any_line_separator(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "a\u2028b\x85c"}\n{"text": "d"}')
    assert [record.text("text") for record in read_records([path])] == ["a\u2028b\x85c", "d"]


def test_a_csv_text_may_have_lines_and_quotes(tmp_path):
    path = write(tmp_path, "a.csv", 'label,text\nx,"one\n""two"""\ny,three\n')
    first, second = read_records([path])
    assert first.text("text") == 'one\n"two"'
    assert second.where == f"{path}:4"


def test_a_csv_text_may_be_of_any_length(tmp_path):
    path = write(tmp_path, "a.csv", f"label,text\nx,{'a' * 200_000}\n")
    assert len(read_records([path])[0].text("text")) == 200_000


@pytest.mark.parametrize("header", ["label\ttext", "Label\tText", "text\tlabel"])
@pytest.mark.parametrize("suffix", [".tsv", ".txt"])
def test_the_names_of_a_tsv_are_no_record(tmp_path, header, suffix):
    row = "one\tx" if header.startswith("text") else "x\tone"
    records = read_records([write(tmp_path, f"a{suffix}", f"{header}\n{row}\n")])
    assert [record.fields for record in records] == [{"label": "x", "text": "one"}]


def test_a_folder_gives_all_kinds_of_records(tmp_path):
    write(tmp_path, "a.json", '[{"text": "1"}]')
    write(tmp_path, "b.jsonl", '{"text": "2"}')
    write(tmp_path, "c.csv", "text\n3")
    write(tmp_path, "d.tsv", "x\t4")
    write(tmp_path, "e.txt", "x\t5")
    write(tmp_path, "f.md", "notes")
    with pytest.warns(UserWarning, match=r"skipped 1 files: f\.md"):
        records = read_records([tmp_path])
    assert [record.text("text") for record in records] == list("12345")


def test_quotes_in_a_tsv_are_text(tmp_path):
    path = write(tmp_path, "a.tsv", 'x\t"hello\ny\tb\tc\n')
    assert [record.text("text") for record in read_records([path])] == ['"hello', "b\tc"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": }\n', r"a\.jsonl:2: not JSON \(Expecting value"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', r"a\.jsonl:2: a list; each record must be one ob"),
        ("a.json", '[{"text": "a"}, 3]', r"a\.json: record 2: a int; each"),
        ("a.json", '{"text": "a"}', "a.json: holds one dict; it must be a list"),
        ("a.json", '{"text": "a"}\n{"text": "b"}', "give it the suffix .jsonl"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.json", "[]", "no record"),
        ("a.jsonl", "\n\n", "no record"),
        ("a.csv", "label,text\n", "no record"),
        ("a.csv", "label,text\nx,one, two\n", r"a\.csv:2: 3 fields, where the first line names 2"),
        ("a.csv", 'label,text\nx,b\nx,"one\ntwo\n', r"a\.csv:3: not CSV"),
        ("a.csv", "label,text,Label\nx,y,z\n", r"a\.csv:1: the column 'label' is named twice"),
        ("a.tsv", "label\ttext\ttext\nx\ty\tz\n", "the column 'text' is named twice"),
        ("a.jsonl", '{"text": "a", "text": "b"}', r"a\.jsonl:1: not JSON \(key text stands twice"),
        ("a.tsv", "x\ta\nxb\n", r"a\.tsv:2: no tab"),
        ("a.tsv", b"x\ta\xff\n", "not UTF-8 at byte 3"),
        ("a.yaml", "x", "the suffix must be"),
        ("a.tsv", "", "the file is empty"),
    ],
)
def test_malformed_files_say_where(tmp_path, name, content, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        read_records([write(tmp_path, name, content)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"output": "x"}, 'f:1: no field "text"; the fields are output'),
        ({}, 'no field "text"; the fields are none'),
        ({"text": " \n"}, 'f:1: "text" is empty'),
        ({"text": None}, '"text" is null; fill it in'),
        ({"text": 3}, '"text" must be a string, not int'),
        ({"text": "\ud800"}, 'f:1: "text": the text has the lone surrogate'),
    ],
)
def test_a_field_that_is_needed(fields, complaint):
    with pytest.raises(DataError, match=complaint):
        Record(fields, "f:1").text("text")


def test_a_field_that_is_not_needed():
    assert Record({}, "f:1").text("text", required=False) == ""
    assert Record({"text": None}, "f:1").text("text", required=False) == ""
    assert Record({"text": " "}, "f:1").text("text", required=False) == " "
    with pytest.raises(DataError, match="not list"):
        Record({"text": []}, "f:1").text("text", required=False)
