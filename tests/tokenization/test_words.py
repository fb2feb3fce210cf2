import pytest

from jaxgpt.errors import DataError
from jaxgpt.tokenization.words import UnknownWordError, WordTokenizer, split_words

TEXT = 'The cat sat -- "on the mat," she said. Is the cat\'s mat_red?\n\tYes; (it is): no!'


def test_the_split():
    assert split_words("Hello, world. Is this-- a test?") == [
        *("Hello", ",", "world", ".", "Is", "this", "--", "a", "test", "?")
    ]
    assert split_words("mat_red (it's)") == ["mat", "_", "red", "(", "it", "'", "s", ")"]
    assert split_words(" \n\t ") == []


def test_the_vocabulary_is_sorted_and_ends_with_the_special_tokens():
    tokenizer = WordTokenizer.train("b a, b c")
    assert tokenizer.words == [",", "a", "b", "c"]
    assert tokenizer.special_tokens == {"<|endoftext|>": 4, "<|unk|>": 5}
    assert (tokenizer.vocab_size, tokenizer.end_of_text, tokenizer.name) == (6, 4, "words")
    without = WordTokenizer.train("b a, b c", unknown=False)
    assert without.special_tokens == {"<|endoftext|>": 4}
    assert without.vocab_size == 5


def test_encoding_and_an_unknown_word():
    tokenizer = WordTokenizer.train("b a, b c")
    assert tokenizer.encode("c,a\n d") == [3, 0, 1, 5]
    with pytest.raises(KeyError) as caught:
        WordTokenizer.train("b a, b c", unknown=False).encode("a Hello")
    assert isinstance(caught.value, DataError)
    assert isinstance(caught.value, UnknownWordError)
    assert str(caught.value).startswith("the word 'Hello' is not in the vocabulary of 4 words")


def test_special_tokens_only_on_request():
    text = "a <|endoftext|> b"
    tokenizer = WordTokenizer.train(text)
    assert tokenizer.words == ["a", "b"]
    assert tokenizer.encode(text) == [0, 3, 1]
    assert tokenizer.encode(text, allow_special=True) == [0, 2, 1]
    assert tokenizer.encode("a<|endoftext|>b<|unk|>", allow_special=True) == [0, 2, 1, 3]
    without = WordTokenizer.train(text, unknown=False)
    assert without.encode(text, allow_special=True) == [0, 2, 1]
    with pytest.raises(UnknownWordError):
        without.encode(text)


def test_decoding_puts_no_space_before_a_closing_sign():
    tokenizer = WordTokenizer.train(TEXT)
    ids = tokenizer.encode(TEXT)
    expected = 'The cat sat --" on the mat," she said. Is the cat\' s mat _ red? Yes;( it is): no!'
    assert tokenizer.decode(ids) == expected
    assert tokenizer.decode([*ids[:2], tokenizer.vocab_size - 2]) == "The cat <|endoftext|>"
    assert tokenizer.decode([]) == ""


def test_bytes_join_up():
    tokenizer = WordTokenizer.train(TEXT)
    ids = tokenizer.encode(TEXT)
    one_by_one = b"".join(tokenizer.decode_bytes([token]) for token in ids)
    assert one_by_one == tokenizer.decode_bytes(ids)
    assert one_by_one.decode().removeprefix(" ") == tokenizer.decode(ids)


def test_bad_input():
    with pytest.raises(DataError, match="no word"):
        WordTokenizer.train(" \n")
    with pytest.raises(DataError, match="surrogate"):
        WordTokenizer.train("a \udc00")
    with pytest.raises(DataError, match="surrogate"):
        WordTokenizer.train("a").encode("\udc00")
    with pytest.raises(DataError, match=r"id 3 at position 0 is outside \[0, 3\)"):
        WordTokenizer.train("a").decode([3])
    for words in (["a", "a"], ["a", ""]):
        with pytest.raises(DataError, match="empty word or one twice"):
            WordTokenizer(words)
