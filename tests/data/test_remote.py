"""Prepared tokens behind a URL; of fsspec's kinds of URL those that need no network."""

import os

import fsspec
import numpy as np
import pytest

from jaxgpt.config import DataConfig
from jaxgpt.data import remote
from jaxgpt.data.corpus import open_corpus
from jaxgpt.data.prepare import write_tokens
from jaxgpt.data.text import Document
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import DataError
from jaxgpt.tokenization.tokenizer import ByteTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "data"
    texts = [("train", "".join(map(chr, range(32, 127))) * 900), ("validation", "the end")]
    documents = [(name, Document(text)) for name, text in texts]
    write_tokens(folder, ByteTokenizer(), documents, shard_tokens=50_000)
    return folder


@pytest.fixture
def url(folder):
    files = fsspec.filesystem("memory")
    files.put(f"{folder}/", "/bucket/data/", recursive=True)
    yield "memory://bucket/data"
    files.rm("/bucket", recursive=True)


def test_tokens_behind_a_url_are_those_of_the_folder(folder, url):
    here, there = TokenDataset.open(folder), TokenDataset.open(url, verify=True)
    assert there.fingerprint == here.fingerprint
    for start, stop in [(0, 30), (49_990, 50_010), (16_380, 16_390), (85_000, 85_500), (7, 7)]:
        found = there.split("train").read(start, stop)
        np.testing.assert_array_equal(found, here.split("train").read(start, stop))
    assert TokenDataset.open(f"file://{folder}").fingerprint == here.fingerprint


def test_a_run_takes_a_url_and_reads_ranges_of_it(url, tmp_path, monkeypatch):
    fetched = []
    fetch = remote.RemoteFile._fetch
    monkeypatch.setattr(
        remote.RemoteFile, "_fetch", lambda self, n: fetched.append(n) or fetch(self, n)
    )
    config = DataConfig(data=(url,), tokenizer="bytes")
    dataset, _ = open_corpus(config, tmp_path / "tokens", progress=lambda *_: None)
    dataset.split("train").read(0, 100)
    before = len(fetched)
    dataset.split("train").read(100, 200)
    assert len(fetched) == before  # the block is there
    assert os.listdir(tmp_path) == []


def test_damage_behind_a_url_is_noticed(url):
    files = fsspec.filesystem("memory")
    path = "/bucket/data/train-00000.bin"
    sound = files.cat_file(path)
    files.pipe_file(path, sound[:40_000] + bytes([sound[40_000] ^ 1]) + sound[40_001:])
    split = TokenDataset.open(url).split("train")
    split.read(0, 10)
    with pytest.raises(DataError, match="bytes 32768 to 49152 have changed"):
        split.read(19_000, 20_100)
    files.pipe_file(path, sound[:-1])
    with pytest.raises(DataError, match="not the token file it should be"):
        TokenDataset.open(url)
    files.rm(path)
    with pytest.raises(DataError, match="cannot be read"):
        TokenDataset.open(url)


def test_what_is_missing_is_one_line(monkeypatch):
    with pytest.raises(DataError, match="not a token dataset"):
        TokenDataset.open("memory://bucket/nothing")
    with pytest.raises(DataError, match="abacus://x cannot be read"):
        TokenDataset.open("abacus://x")
    monkeypatch.setattr(remote.importlib, "import_module", missing)
    with pytest.raises(DataError, match=r"read through fsspec, .*jaxgpt\[remote\]|\.\[remote\]"):
        TokenDataset.open("s3://bucket/data")


class StoreError(Exception):
    """Of no class that Python has, as those of some stores."""


def test_a_store_that_fails_is_tried_again_and_then_told(url, monkeypatch):
    monkeypatch.setattr(remote, "_PAUSES", (0.0, 0.0))
    files, failures = fsspec.filesystem("memory"), [2]
    read = type(files).cat_file

    def cat_file(self, path, start=None, end=None, **more):
        if start is not None and failures[0]:
            failures[0] -= 1
            raise StoreError("503")
        return read(self, path, start=start, end=end, **more)

    monkeypatch.setattr(type(files), "cat_file", cat_file)
    assert len(TokenDataset.open(url).split("train").read(0, 100)) == 100
    assert failures == [0]
    failures[0] = 3
    with pytest.raises(DataError, match="cannot be read: 503"):
        TokenDataset.open(url)


def missing(name):
    raise ImportError(f"No module named {name}")
