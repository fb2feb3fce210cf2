import json
import os

import numpy as np
import pytest

from jaxgpt.data import tokens
from jaxgpt.data.prepare import write_tokens
from jaxgpt.data.shards import BLOCK
from jaxgpt.data.text import Document
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import DataError
from jaxgpt.tokenization.tokenizer import ByteTokenizer, load_tokenizer
from jaxgpt.tokenization.words import WordTokenizer

TRAIN = bytes(range(32, 127)) * 3


@pytest.fixture
def folder(tmp_path):
    documents = [("train", Document(TRAIN.decode())), ("validation", Document("the end"))]
    write_tokens(tmp_path / "data", ByteTokenizer(), documents, shard_tokens=100)
    return tmp_path / "data"


def edit(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def as_before_there_were_sums(folder):
    edit(folder, lambda manifest: [manifest.pop("sums"), manifest.pop("sha256")])
    (folder / "sums.bin").unlink()


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def read_all(folder, **options):
    dataset = TokenDataset.open(folder, **options)
    return [split.read(0, len(split)).tolist() for split in dataset.splits.values()]


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
        documents = [("train", Document(TRAIN.decode())), ("validation", Document(text))]
        out = tmp_path / "other"
        return write_tokens(
            out, ByteTokenizer(), documents, overwrite=True, shard_tokens=100
        ).fingerprint

    first = TokenDataset.open(folder).fingerprint
    as_before_there_were_sums(folder)
    edit(folder, lambda manifest: manifest.update(sources=[{"name": "another"}]))
    assert TokenDataset.open(folder).fingerprint == first == fingerprint("the end")
    assert fingerprint("the eNd") != first


def test_another_tokenizer_is_refused(folder):
    TokenDataset.open(folder, tokenizer=ByteTokenizer())
    message = r"are from bytes \(.*not from words .*data/tokenizer"
    with pytest.raises(DataError, match=message):
        TokenDataset.open(folder, tokenizer=WordTokenizer(["a"]))
    WordTokenizer(["a"]).save(folder / "tokenizer")
    with pytest.raises(DataError, match=message):
        TokenDataset.open(folder)


@pytest.mark.parametrize("name", ["train-00001.bin", "sums.bin", "manifest.json"])
def test_every_flipped_bit_is_found(folder, name, monkeypatch):
    monkeypatch.setattr(tokens, "_QUICK", 0)
    path = folder / name
    whole = path.read_bytes()
    assert read_all(folder)[0] == list(TRAIN)
    for bit in range(0, 8 * len(whole), 1 + len(whole) // 16):
        flip(path, bit)
        with pytest.raises(DataError, match=r"train-00001|sums|manifest|splits|not a token"):
            read_all(folder)
        path.write_bytes(whole)
    assert read_all(folder)[0] == list(TRAIN)


@pytest.mark.parametrize("key", ["sums", "sha256", "sources", "version"])
def test_what_a_manifest_leaves_out_is_found(folder, key):
    edit(folder, lambda manifest: manifest.pop(key))
    with pytest.raises(DataError, match=r"manifest\.json"):
        TokenDataset.open(folder)


def test_a_missing_file_of_sums_is_found(folder):
    (folder / "sums.bin").unlink()
    with pytest.raises(DataError, match=r"sums\.bin"):
        TokenDataset.open(folder)


def test_a_block_is_compared_when_it_is_first_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "_QUICK", 0)
    documents = [("train", Document("a" * (5 * BLOCK))), ("validation", Document("the end"))]
    folder = write_tokens(tmp_path / "data", ByteTokenizer(), documents).folder
    split = TokenDataset.open(folder).split("train")
    path = folder / "train-00000.bin"
    flip(path, 8 * (4 * BLOCK - 1))
    last = 4 * BLOCK // 2 - 12  # the ids in the first four blocks, after 24 bytes
    assert split.read(0, last - BLOCK // 2).tolist() == [97] * (last - BLOCK // 2)
    for start in (last - 1, last - BLOCK // 2):
        with pytest.raises(DataError, match=r"bytes 49152 to 65536 have changed; prepare"):
            split.read(start, last + 1)
    flip(path, 8 * (4 * BLOCK - 1))
    split.read(last - 1, last)
    assert split.read(last, len(split)).size == len(split) - last


def test_a_damaged_shard_that_can_be_remade_is_put_aside(folder, monkeypatch):
    monkeypatch.setattr(tokens, "_QUICK_REMADE", 0)
    split = TokenDataset.open(folder, remade=True).split("train")
    flip(folder / "train-00001.bin", 8 * 24)
    with pytest.raises(DataError, match="run the same command again, which makes it again"):
        split.read(0, 200)
    assert not (folder / "train-00001.bin").exists()
    with pytest.raises(DataError, match=r"train-00001\.bin"):
        TokenDataset.open(folder, remade=True)


def test_a_dataset_from_before_there_were_sums_is_read_whole(folder):
    fingerprint = TokenDataset.open(folder).fingerprint
    as_before_there_were_sums(folder)
    assert TokenDataset.open(folder).fingerprint == fingerprint
    assert read_all(folder)[0] == list(TRAIN)
    flip(folder / "train-00001.bin", 8 * 40)
    with pytest.raises(DataError, match=r"train-00001\.bin.*sha256"):
        TokenDataset.open(folder)


def test_a_pipe_for_a_file_is_refused(folder):
    for name in ("train-00001.bin", "sums.bin", "manifest.json"):
        whole = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(DataError, match=f"{name} is a pipe"):
            TokenDataset.open(folder)
        (folder / name).unlink()
        (folder / name).write_bytes(whole)


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
        lambda manifest: shard(manifest).update(tokens=2**63),
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
