"""A dataset's folder: its tokens are those that were written, or it is refused."""

import pytest
from harness import Cut, Put, Raw, Whole, attempt, cuts, flips, json_mutations, replaced, wholes
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgpt.data import tokens
from jaxgpt.data.prepare import write_tokens
from jaxgpt.data.text import Document
from jaxgpt.data.tokens import SUMS, TokenDataset
from jaxgpt.errors import DataError
from jaxgpt.tokenization.tokenizer import ByteTokenizer

SHARDS = ("train-00000.bin", "train-00001.bin", "validation-00000.bin")
HEADER = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "data"
    text = "".join(map(chr, range(32, 127))) * 3
    documents = [("train", Document(text)), ("validation", Document("the end"))]
    write_tokens(folder, ByteTokenizer(), documents, shard_tokens=200)
    return folder


def contents(folder):
    """All that a run takes from a dataset."""
    dataset = TokenDataset.open(folder)
    splits = {
        name: (
            split.read(0, len(split)).tolist(),
            *(split.num_bytes, split.num_documents, split.entropy_bits),
        )
        for name, split in dataset.splits.items()
    }
    return splits, dataset.manifest["tokenizer"], dataset.fingerprint


def check(folder, name, mutation, *, large=False):
    """What is read of a damaged dataset; of a large one blocks are compared as they are read."""
    sound = contents(folder)
    damaged = replaced(folder / name, mutation((folder / name).read_bytes()))
    with damaged, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_QUICK", -1 if large else 1 << 27)
        found = attempt(lambda: contents(folder), DataError)
    assert isinstance(found, DataError) or found == sound


@given(name=st.sampled_from([*SHARDS, SUMS]), mutation=cuts | wholes, large=st.booleans())
@example(SHARDS[0], Whole(b""), False)
@example(SHARDS[0], Whole(b"JAXGPTOK"), True)
@example(SUMS, Whole(b""), True)
def test_damaged_shards_are_refused(folder, name, mutation, large):
    check(folder, name, mutation, large=large)


@given(name=st.sampled_from(SHARDS), byte=st.integers(0, HEADER - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_header_is_refused(folder, name, byte, bit):
    check(folder, name, lambda sound: flipped(sound, byte, bit))


@given(name=st.sampled_from([*SHARDS, SUMS]), mutation=flips, large=st.booleans())
@example(SHARDS[0], Cut((("flip", 500_000, 1, 0),)), True)
def test_a_flipped_bit_of_a_shard_is_refused(folder, name, mutation, large):
    check(folder, name, mutation, large=large)


@given(mutation=json_mutations)
def test_another_tokenizer_in_it_is_refused(folder, mutation):
    check(folder, "tokenizer/tokenizer.json", mutation)


def flipped(content, byte, bit):
    return content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :]


@given(mutation=json_mutations)
@example(Put(("version",), Raw("Infinity")))
@example(Put(("version",), Raw("1e999")))
@example(Put(("splits", "train", "bytes"), 10**400))
@example(Put(("splits", "train", "bytes"), 286))
@example(Put(("splits", "train", "documents"), 2))
@example(Put(("splits", "train", "entropy_bits"), 1.0))
@example(Put(("splits", "train", "entropy_bits"), Raw("NaN")))
@example(Put(("splits", "train", "shards", 0, "file"), "../train-00000.bin"))
@example(Put(("splits", "train", "shards", 0, "sha256"), "0" * 64))
@example(Put(("splits", "train", "shards", 1), ...))
@example(Put(("splits", "validation"), ...))
@example(Put(("tokenizer", "vocab_size"), 1000))
@example(Put(("tokenizer", "name"), "\ud800"))
@example(Whole(b"[" * 100_000))
def test_a_damaged_manifest_is_refused(folder, mutation):
    check(folder, "manifest.json", mutation)
