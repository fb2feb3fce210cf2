from dataclasses import replace

import pytest

from jaxgpt.config import DataConfig
from jaxgpt.data.corpus import is_current, open_corpus
from jaxgpt.data.mixture import FINEST, counts_of, names_of, read_weights, same_sources
from jaxgpt.data.named_text import prepare_corpus
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.tokenization.bpe import train_bpe


def silent(what, done, total):
    """Nobody watches."""


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Files a.txt and b.txt, from whose folder they are named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the cat sat on the mat.\n" * 50)
    (tmp_path / "b.txt").write_text("zyx qvw\n" * 50)
    return tmp_path


def test_weights_are_read_and_files_win(texts):
    assert read_weights(("a.txt", "b.txt")) == {}
    assert read_weights(("a.txt=0.7", "b.txt=.3e0")) == {"a.txt": 0.7, "b.txt": 0.3}
    assert read_weights(("x=y=2",)) == {"x=y": 2}
    assert read_weights(("x=y", "x=")) == {}
    (texts / "a.txt=0.7").write_text("a file of that name")
    assert read_weights(("a.txt=0.7",)) == {}
    assert read_weights(("a.txt=0.7=2", "b.txt=1")) == {"a.txt=0.7": 2, "b.txt": 1}
    assert names_of(("a.txt", "b.txt")) == ("a.txt", "b.txt") == names_of(("a.txt=1", "b.txt=2"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (("a=1", "b"), "data has b without a weight beside a=1; write a weight behind each"),
        (("b", "a=0"), "data has b without a weight beside a=0"),
        (("a=0", "b=1"), "gives a the weight 0; it must be above 0"),
        (("a=-1",), "gives a the weight -1"),
        (("a=nan",), "gives a the weight nan"),
        (("a=1", "b=1e999"), "gives b the weight inf"),
        (("a=1", "a=2"), "names a source twice"),
        (("=1",), "the weight 1 of nothing"),
    ],
)
def test_weights_that_are_none_are_refused(data, said):
    with pytest.raises(ConfigError, match=said):
        read_weights(data)


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ((0.7, 0.3), (7, 3)),
        ((7.0, 3.0), (7, 3)),
        ((2.0, 2.0, 4.0), (1, 1, 2)),
        ((1.0,), (1,)),
        ((1e-300, 1e-300), (1, 1)),
        ((1 / 3, 2 / 3), (1, 2)),
    ],
)
def test_shares_are_the_smallest_whole_numbers(weights, counts):
    found = counts_of({str(number): weight for number, weight in enumerate(weights)})
    assert [x / sum(found) for x in found] == pytest.approx([x / sum(counts) for x in counts], 1e-4)
    assert sum(found) == sum(counts) or sum(found) == FINEST


def test_a_share_too_small_to_come_up_is_refused():
    counts = counts_of({"a": 0.123456789, "b": 0.987654321, "c": 0.00002})
    assert sum(counts) == FINEST
    assert counts[2] == 2
    with pytest.raises(ConfigError, match="gives b a share of less than 1/100,000"):
        counts_of({"a": 1.0, "b": 1e-9})


def test_sources_are_the_same_whatever_their_weights():
    assert same_sources(("a=1", "b=2"), ("a=3", "b=2"))
    assert not same_sources(("a=1", "b=2"), ("b=2", "a=1"))
    assert not same_sources(("a=1", "b=2"), ("a", "b"))
    assert same_sources(("a=1",), ("a",))


def test_a_mixture_is_of_text_and_of_prepared_tokens(texts):
    config = DataConfig(data=("a.txt",), tokenizer="bytes")
    prepare_corpus(config, texts / "made", progress=silent)
    mixed = replace(config, data=("made=3", "b.txt=1"))
    mixture, tokenizer = open_corpus(mixed, texts / "tokens", progress=silent)
    assert mixture.counts == (3, 1)
    assert mixture.shares == {"made": 0.75, "b.txt": 0.25}
    assert [path.name for path in (texts / "tokens").iterdir()] == ["1"]
    made = TokenDataset.open(texts / "made").split("train")
    assert mixture.split("train").num_tokens > made.num_tokens
    assert mixture.split("train").read(0, 20).tolist() == made.read(0, 20).tolist()
    assert mixture.passes(made.num_tokens)["made"] == 0.75
    assert tokenizer.name == "bytes" == mixture.manifest["tokenizer"]["name"]

    again, _ = open_corpus(mixed, texts / "tokens", progress=silent)
    assert again.fingerprint == mixture.fingerprint
    other = replace(config, data=("made=2", "b.txt=1"))
    other_weights, _ = open_corpus(other, texts / "tokens", progress=silent)
    assert other_weights.fingerprint != mixture.fingerprint
    assert is_current(mixed, texts / "tokens")
    (texts / "b.txt").write_text("qvw zyx\n" * 50)
    assert not is_current(mixed, texts / "tokens")


def test_one_source_with_a_weight_is_that_source(texts):
    config = DataConfig(data=("a.txt=5",), tokenizer="bytes")
    one, _ = open_corpus(config, texts / "one", progress=silent)
    plain, _ = open_corpus(replace(config, data=("a.txt",)), texts / "two", progress=silent)
    assert one.fingerprint == plain.fingerprint


def test_a_vocabulary_is_learnt_once_from_all_sources(texts):
    config = DataConfig(data=("a.txt=1", "b.txt=1"), tokenizer="bpe:270")
    mixture, tokenizer = open_corpus(config, texts / "tokens", progress=silent)
    assert {data.tokenizer.fingerprint for data in mixture.datasets.values()} == {
        tokenizer.fingerprint
    }
    assert len(tokenizer.encode("the cat sat")) < 11
    assert len(tokenizer.encode("zyx qvw")) < 7
    damaged = texts / "tokens" / "0" / "train-00000.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again, _ = open_corpus(config, texts / "tokens", progress=silent)
    assert again.fingerprint == mixture.fingerprint


def test_sources_of_two_vocabularies_are_refused(texts):
    config = DataConfig(data=("a.txt",), tokenizer="bytes")
    prepare_corpus(config, texts / "bytes", progress=silent)
    prepare_corpus(config, texts / "made", tokenizer=train_bpe(["the cat"], 258), progress=silent)
    mixed = replace(config, data=("bytes=1", "made=1"))
    with pytest.raises(DataError, match="made holds tokens of bpe"):
        open_corpus(mixed, texts / "tokens", progress=silent)
    with pytest.raises(DataError, match="not of bpe:300"):
        open_corpus(replace(mixed, tokenizer="bpe:300"), texts / "tokens", progress=silent)


def test_tokens_are_not_prepared_with_weights(texts):
    config = DataConfig(data=("a.txt=1", "b.txt=1"), tokenizer="bytes")
    with pytest.raises(ConfigError, match=r"data gives a\.txt a weight, and tokens have none"):
        prepare_corpus(config, texts / "made", progress=silent)
    held_out = replace(config, validation_data=("b.txt",))
    with pytest.raises(ConfigError, match="of a mixture, a share of each source is held out"):
        open_corpus(held_out, texts / "tokens", progress=silent)
