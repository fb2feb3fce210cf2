"""Byte-pair encoding (chapter 2's bonus): learnt from the story, and GPT-2's own."""

from functools import cache
from typing import Any

from jaxgpt.tokenization.vocabulary import END_OF_TEXT
from jaxgpt.worked.examples import Given, example
from jaxgpt.worked.letter_pairs import LetterPairs, spaced_words, whole_text

_SENTENCE = "Jack embraced beauty through art and life."


@cache
def _learnt(story: str) -> LetterPairs:
    return LetterPairs(spaced_words(story), 1000)


@example("bpe.vocab1000")
def _vocabulary_of_1000(given: Given) -> dict[str, int]:
    learnt = _learnt(given.story)
    return {"vocab": len(learnt.pieces), "merges": len(learnt.merges)}


@example("bpe.full.ids")
def _encode_by_words(given: Given) -> list[int]:
    return _learnt(given.story).encode(_SENTENCE)


@example("bpe.simple.ids")
def _encode_as_one_word(given: Given) -> list[int]:
    return LetterPairs(whole_text(given.story), 1000).encode(_SENTENCE)


@example("bpe.gpt2.'Implementations'")
def _encode_implementations(given: Given) -> list[int]:
    return given.tokenizer.encode("Implementations")


@example("bpe.gpt2.'\\n'")
def _encode_newline(given: Given) -> list[int]:
    return given.tokenizer.encode("\n")


@example("bpe.specials")
def _special_tokens(given: Given) -> dict[str, Any]:
    def refused() -> bool:
        try:
            LetterPairs(["a"], 300).encode(f"a {END_OF_TEXT}")
        except ValueError:
            return True
        return False

    texts = ("  two spaces before", " \n ", "a\nb")
    encode, decode = given.tokenizer.encode, given.tokenizer.decode
    return {
        "a special token in a text is refused": refused(),
        "end of text": encode(END_OF_TEXT, allow_special=True),
        "newline": encode("\n"),
        "round trip": [decode(encode(text)) == text for text in texts],
    }
