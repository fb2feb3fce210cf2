import sys
from pathlib import Path

import pytest

from jaxgpt.data.sources import read_documents
from jaxgpt.errors import DataError


def write(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_without_pyarrow_the_command_that_brings_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(DataError, match=r"python[\d.]* -m pip install -e '\.\[parquet\]'"):
        list(read_documents([path]))


def test_rows_are_documents_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgpt.data.text.PIECE", 8)
    rows = ["one\r\n", "", "two words 🙂 more", *map(str, range(600))]
    path = write(tmp_path / "a.parquet", id=list(range(603)), text=rows)
    with pytest.warns(UserWarning, match="1 empty documents were left out"):
        documents = list(read_documents([path]))
    assert "".join(document.text for document in documents) == "".join(rows)
    assert sum(document.ends_document for document in documents) == 602
    assert max(len(document.text) for document in documents) <= 8
    assert path.stat().st_size - sum(document.source_bytes for document in documents) < 20


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"body": ["x"]}, r"no column \"text\" among \['body'\]"),
        ({"text": ["x", None]}, "row 2: .* must be a string, not NoneType"),
        ({"text": [1]}, "row 1: .* must be a string, not int"),
    ],
)
def test_a_table_without_text_is_refused(tmp_path, columns, complaint):
    path = write(tmp_path / "a.parquet", **columns)
    with pytest.raises(DataError, match=rf"a\.parquet: {complaint}"):
        list(read_documents([path]))


def test_a_damaged_file_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", text=["some text"] * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet file"):
        list(read_documents([path]))
