import os

import pytest

from jaxgpt.errors import CheckpointError, DataError, ResourceError
from jaxgpt.files import member, parse_json, read_json, read_regular, write_file


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a": 1, "a": 2}', "key a stands twice"),
        ("[NaN]", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("1" + "0" * 400, r"10000000000000000000\.\.\. \(401 digits\) is beyond 64 bits"),
        ("18446744073709551616", "beyond 64 bits"),
        ("1e999", "beyond the largest double"),
        ('["\\ud800"]', "half of a surrogate pair"),
        ('{"\\ud800": 1}', "half of a surrogate pair"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "Expecting property name"),
    ],
)
def test_json_that_readers_disagree_on_is_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_json(text)


def test_json_keeps_what_is_sound():
    assert parse_json('{"a": [1, -2.5, "\\ud83d\\ude42", 18446744073709551615]}') == {
        "a": [1, -2.5, "🙂", 2**64 - 1]
    }


def test_reading_never_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(CheckpointError, match=r"pipe\.json is a pipe, socket or device"):
        read_json(tmp_path / "pipe.json", error=CheckpointError)


@pytest.mark.parametrize("name", ["missing", "x" * 5000, "nul\0byte", "half\ud800", "."])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name):
    with pytest.raises(DataError, match=r"^[^\n]*(cannot be|folder)[^\n]*$"):
        read_regular(f"{tmp_path}/{name}")


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(DataError, match="has 11 bytes; at most 10 are read"):
        read_regular(tmp_path / "large", limit=10)


def test_json_says_where_it_is_wrong(tmp_path):
    (tmp_path / "x.json").write_text('{\n "a": }')
    with pytest.raises(DataError, match=r"x\.json is not JSON: .* at line 2, column 7"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../b", "a//b", ".", "x\0", "\ud800", "x" * 256, 5, None, ["a"]],
)
def test_a_name_that_leads_out_of_a_folder_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="lists"):
        member(tmp_path, name, error=CheckpointError)


def test_a_name_inside_is_its_path(tmp_path):
    assert member(tmp_path, "params/ocdbt.process_0/d/1f[2]") == (
        tmp_path / "params/ocdbt.process_0/d/1f[2]"
    )


def test_writing_replaces_a_link_and_does_not_follow_it(tmp_path):
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "out.txt").symlink_to(tmp_path / "precious")
    write_file(tmp_path / "out.txt", "new")
    assert (tmp_path / "precious").read_text() == "keep"
    assert (tmp_path / "out.txt").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["out.txt", "precious"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    write_file(tmp_path / "x", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        write_file(tmp_path / "x", "new")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"
