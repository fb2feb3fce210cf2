import os

import pytest

from jaxgpt.data.paths import expand_paths
from jaxgpt.errors import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "deep/c.jsonl", "deep/er/d.TXT"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def expand(*paths):
    return [os.path.relpath(path) for path in expand_paths(paths)]


def test_a_folder_gives_its_text_files_sorted(folder):
    assert expand(".") == ["a.txt", "b.txt", "deep/c.jsonl", "deep/er/d.TXT"]
    assert expand(folder) == expand(".")


def test_what_is_skipped_is_named(folder):
    for name in ("notes.md", ".hidden/e.txt", ".f.txt", "deep/a.pdf", "deep/x", "deep/y", "deep/z"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    with pytest.warns(UserWarning, match="skipped") as caught:
        assert expand(".") == ["a.txt", "b.txt", "deep/c.jsonl", "deep/er/d.TXT"]
    (warning,) = caught
    names = ".f.txt, .hidden, deep/a.pdf, deep/x, deep/y"
    assert str(warning.message) == f".: skipped 7 files: {names} and 2 more"


def test_linked_folders_are_followed_once(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "f.csv").write_text("text\nf")
    os.symlink(other, "deep/other")
    os.symlink(other, "other")
    os.symlink(folder, other / "back")
    os.symlink(folder / "deep", "deep/circle")
    os.symlink(folder / "deep", "also_deep")
    assert expand(".") == ["a.txt", "b.txt", "deep/c.jsonl", "deep/er/d.TXT", "other/f.csv"]


def test_a_reader_gets_the_files_it_reads(folder):
    with pytest.warns(UserWarning, match="skipped 1 files: deep/c.jsonl"):
        assert len(expand_paths(["."], (".txt",))) == 3


def test_a_pattern_gives_the_files_that_match_it(folder):
    (folder / "notes.md").write_text("notes")
    assert expand("*") == ["a.txt", "b.txt", "notes.md"]
    assert expand("**/*.jsonl") == ["deep/c.jsonl"]


def test_the_order_given_is_kept_and_repeats_are_dropped(folder):
    os.symlink("a.txt", "link")
    (folder / "notes.md").write_text("notes")
    assert expand("b.txt", "*.txt", "link", "notes.md") == ["b.txt", "link", "notes.md"]


def test_a_file_whose_name_looks_like_a_pattern_is_found(folder):
    (folder / "[1].txt").write_text("one")
    assert expand("[1].txt") == ["[1].txt"]


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("none.txt", "no such file"),
        ("none*.txt", "no file matches"),
        ("bare", "no .txt, .jsonl, .json, .csv, .tsv, .parquet file"),
        ("empty.txt", "empty"),
        ("pipe", "not a regular file"),
        ("*.fifo", "not a regular file"),
        ("broken", "link to nothing"),
        ("/dev/zero", "not a regular file"),
        ("no\0name", "no such file"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(path, complaint, folder):
    (folder / "bare").mkdir()
    (folder / "empty.txt").touch()
    os.mkfifo("pipe")
    os.mkfifo("a.fifo")
    os.symlink("nowhere", "broken")
    with pytest.raises(DataError, match=complaint) as caught:
        expand("a.txt", path)
    assert path.replace("*", "a") in str(caught.value).replace("*", "a")


def test_nothing_named_is_refused():
    with pytest.raises(DataError, match="at least one"):
        expand_paths([])


def test_a_file_without_permission_is_refused(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "b.txt")
    with pytest.raises(DataError, match=r"b\.txt: no permission"):
        expand(".")
