import json

import numpy as np
import pytest

from jaxgpt.data.prepare import write_tokens
from jaxgpt.data.sources import Document
from jaxgpt.data.tokenizer import ByteTokenizer, load_tokenizer
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.data.words import WordTokenizer
from jaxgpt.errors import DataError

TRAIN = bytes(range(32, 127)) * 3


@pytest.fixture
def folder(tmp_path):
    splits = {"train": [Document(TRAIN.decode())], "validation": [Document("the end")]}
    write_tokens(tmp_path / "data", ByteTokenizer(), splits, shard_tokens=100)
    return tmp_path / "data"


def edit(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_split_reads_across_its_shards(folder):
    split = TokenDataset.open(folder, verify=True).split("train")
    assert [shard.size for shard in split.shards] == [100, 100, 85]
    assert len(split) == split.num_tokens == split.num_bytes == len(TRAIN)
    for start, stop in [(0, 285), (0, 0), (285, 285), (99, 101), (100, 200), (50, 250), (284, 285)]:
        read = split.read(start, stop)
        assert read.dtype == np.int32
        assert read.tolist() == list(TRAIN[start:stop])
    for start, stop in [(0, 286), (-1, 3), (4, 3)]:
        with pytest.raises(IndexError):
            split.read(start, stop)


def test_what_is_read_is_a_copy(folder):
    split = TokenDataset.open(folder).split("train")
    split.read(0, 5)[:] = 0
    assert split.read(0, 5).tolist() == list(TRAIN[:5])


def test_the_manifest_says_what_the_shards_hold(folder):
    dataset = TokenDataset.open(folder)
    validation = dataset.split("validation")
    assert (validation.num_bytes, validation.num_documents) == (7, 1)
    assert validation.tokens_per_byte == 1.0
    assert validation.entropy_bits is None
    assert dataset.manifest["tokenizer"]["vocab_size"] == 256
    assert load_tokenizer(folder / "tokenizer").fingerprint == ByteTokenizer.fingerprint


def test_the_fingerprint_is_that_of_the_tokens(folder, tmp_path):
    def fingerprint(text):
        splits = {"train": [Document(TRAIN.decode())], "validation": [Document(text)]}
        out = tmp_path / "other"
        return write_tokens(
            out, ByteTokenizer(), splits, overwrite=True, shard_tokens=100
        ).fingerprint

    first = TokenDataset.open(folder).fingerprint
    edit(folder, lambda manifest: manifest.update(sources=[{"name": "another"}]))
    assert TokenDataset.open(folder).fingerprint == first == fingerprint("the end")
    assert fingerprint("the eNd") != first


def test_another_tokenizer_is_refused(folder):
    TokenDataset.open(folder, tokenizer=ByteTokenizer())
    with pytest.raises(DataError, match=r"are from bytes \(.*not from words .*data/tokenizer"):
        TokenDataset.open(folder, tokenizer=WordTokenizer(["a"]))


def test_a_changed_id_is_found_when_asked_for(folder):
    path = folder / "train-00001.bin"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    TokenDataset.open(folder)
    with pytest.raises(DataError, match=r"train-00001\.bin.*sha256"):
        TokenDataset.open(folder, verify=True)


def test_a_missing_or_short_shard_is_found_always(folder):
    path = folder / "train-00001.bin"
    path.write_bytes(path.read_bytes()[:-2])
    for verify in (False, True):
        with pytest.raises(DataError, match=r"train-00001\.bin"):
            TokenDataset.open(folder, verify=verify)
    path.unlink()
    for verify in (False, True):
        with pytest.raises(DataError, match=r"train-00001\.bin"):
            TokenDataset.open(folder, verify=verify)


def shard(manifest):
    return manifest["splits"]["train"]["shards"][0]


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("splits"),
        lambda manifest: manifest.pop("tokenizer"),
        lambda manifest: manifest["tokenizer"].pop("name"),
        lambda manifest: manifest["tokenizer"].update(fingerprint=1),
        lambda manifest: manifest["tokenizer"].update(vocab_size="256"),
        lambda manifest: manifest["tokenizer"].update(vocab_size=True),
        lambda manifest: manifest["tokenizer"].update(vocab_size=0),
        lambda manifest: manifest.update(splits=[]),
        lambda manifest: manifest["splits"].update({"../train": manifest["splits"]["train"]}),
        lambda manifest: manifest["splits"]["train"].update(shards=[]),
        lambda manifest: manifest["splits"]["train"].update(shards=[3]),
        lambda manifest: manifest["splits"]["train"].update(bytes=0),
        lambda manifest: manifest["splits"]["train"].update(entropy_bits="1"),
        lambda manifest: shard(manifest).update(file="../train-00000.bin"),
        lambda manifest: shard(manifest).update(file="/train-00000.bin"),
        lambda manifest: shard(manifest).update(tokens=-1),
        lambda manifest: shard(manifest).update(tokens=10**30),
        lambda manifest: shard(manifest).update(sha256=None),
    ],
)
def test_a_damaged_manifest_is_refused(folder, change):
    edit(folder, change)
    with pytest.raises(DataError, match=r"manifest\.json: damaged"):
        TokenDataset.open(folder)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "format version None"),
        (b'{"version": 2}', "format version 2"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(folder, content, complaint):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"manifest\.json: {complaint}"):
        TokenDataset.open(folder)


def test_a_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match="not a token dataset"):
        TokenDataset.open(tmp_path)


def test_an_unknown_split_is_refused(folder):
    with pytest.raises(DataError, match="no split 'test'"):
        TokenDataset.open(folder).split("test")
