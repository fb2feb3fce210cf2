import tracemalloc

import pytest

from jaxgpt.data import encode
from jaxgpt.data import text as text_module
from jaxgpt.data.encode import SplitEncoder
from jaxgpt.data.shards import TokenWriter, open_shard
from jaxgpt.data.text import Document
from jaxgpt.errors import DataError
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.tokenization.tokenizer import ByteTokenizer

TEXT = "".join(f"The year {year} had {year % 9} days.\n\n" for year in range(200))
TOKENIZER = train_bpe([TEXT], 300)


def run(folder, documents, *, end_of_text, tokenizer=TOKENIZER):
    """The ids that are written for `documents`, and the encoder."""
    with (
        TokenWriter(folder, "train", tokenizer.vocab_size) as writer,
        SplitEncoder(writer, tokenizer, end_of_text=end_of_text) as encoder,
    ):
        for document in documents:
            encoder.add(document)
    (shard,) = writer.shards
    path = folder / shard["file"]
    opened = open_shard(path, tokens=shard["tokens"], vocab_size=300)
    return opened[0 : opened.size].tolist(), encoder


@pytest.fixture
def short_pieces(monkeypatch):
    for module in (text_module, encode):
        monkeypatch.setattr(module, "PIECE", 64)


def in_pieces(text, size):
    starts = range(0, len(text), size)
    return [Document(text[at : at + size], ends_document=at == starts[-1]) for at in starts]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_each_document_ends_with_the_end_of_text(tmp_path, short_pieces, monkeypatch, workers):
    monkeypatch.setattr(encode, "WORKERS", workers)
    texts = TEXT.splitlines(keepends=True)
    ids, encoder = run(tmp_path, [Document(text) for text in texts], end_of_text=True)
    expected = []
    for text in texts:
        expected += [*TOKENIZER.encode(text), TOKENIZER.end_of_text]
    assert ids == expected
    assert encoder.num_documents == len(texts)
    assert encoder.num_bytes == len(TEXT.encode())


def test_a_document_in_pieces_ends_once(tmp_path, short_pieces):
    pieces = [
        Document("The year", ends_document=False),
        Document(" 1 had", ends_document=False),
        Document(" days."),
        Document("The"),
    ]
    ids, encoder = run(tmp_path, pieces, end_of_text=True)
    end = [TOKENIZER.end_of_text]
    assert ids == TOKENIZER.encode("The year 1 had days.") + end + TOKENIZER.encode("The") + end
    assert encoder.num_documents == 2


@pytest.mark.parametrize("size", [1, 7, 63, 64, 65, 200, 10_000])
def test_a_running_text_is_tokenized_across_borders(tmp_path, short_pieces, size):
    ids, encoder = run(tmp_path, in_pieces(TEXT, size), end_of_text=False)
    assert ids == TOKENIZER.encode(TEXT)
    assert encoder.num_bytes == len(TEXT.encode())


def test_a_tokenizer_without_an_end_of_text_goes_without(tmp_path):
    documents = [Document("one"), Document("two")]
    ids, _ = run(tmp_path, documents, end_of_text=True, tokenizer=ByteTokenizer())
    assert bytes(ids) == b"onetwo"


def test_a_spelt_out_special_token_is_text(tmp_path):
    ids, _ = run(tmp_path, [Document("<|endoftext|>")], end_of_text=False)
    assert TOKENIZER.end_of_text not in ids
    assert TOKENIZER.decode(ids) == "<|endoftext|>"


def test_entropy_adds_up_and_one_unknown_makes_it_unknown(tmp_path):
    known = [Document("a", entropy_bits=1.5), Document("b", entropy_bits=2.0)]
    _, encoder = run(tmp_path, known, end_of_text=False)
    assert encoder.entropy_bits == 3.5
    _, encoder = run(tmp_path, [known[0], Document("b"), known[1]], end_of_text=False)
    assert encoder.entropy_bits is None


class Untrue(ByteTokenizer):
    """Gives ids that its vocabulary does not have."""

    vocab_size = 100


def test_an_error_in_a_worker_is_raised_here(tmp_path):
    with pytest.raises(DataError, match="the id 122, outside"):
        run(tmp_path, [Document("A"), Document("z")], end_of_text=False, tokenizer=Untrue())


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "WORKERS", 2)
    for module in (text_module, encode):
        monkeypatch.setattr(module, "PIECE", 1 << 14)

    def peak(pieces):
        tokenizer = ByteTokenizer()
        tracemalloc.start()
        with (
            TokenWriter(tmp_path, "train", tokenizer.vocab_size) as writer,
            SplitEncoder(writer, tokenizer, end_of_text=False) as encoder,
        ):
            for _ in range(pieces):
                encoder.add(Document("word " * 3000, ends_document=False))
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(10)
    assert peak(200) < 1.5 * peak(20)
