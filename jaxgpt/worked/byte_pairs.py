"""Byte-pair encoding (chapter 2's bonus): as it is first taught, and GPT-2's own.

`jaxgpt.tokenization.bpe` is the tokenizer to use. This one differs in ways that show in the ids: it
has letters for bytes, a space is one of them, equal counts fall to the pair met first, and encoding
merges from left to right, whatever was learnt first.
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import Any

from jaxgpt.tokenization.vocabulary import END_OF_TEXT
from jaxgpt.worked.examples import EXAMPLES, Given, example

SPACE = "Ġ"  # how GPT-2's published files write a space
_SENTENCE = "Jack embraced beauty through art and life."


def whole_text(text: str) -> list[str]:
    """The text as one word, without the space that it may begin with."""
    return [text.removeprefix(" ").replace(" ", SPACE)]


def spaced_words(text: str) -> list[str]:
    """Words, each with the space before it; line ends and further spaces stand alone."""
    words: list[str] = []
    for line in re.split(r"([\r\n])", text):
        for spaces, word in re.findall(r"( *)([^ ]*)", line):
            if word:
                words += [SPACE] * (len(spaces) - 1) + [SPACE * bool(spaces) + word]
            else:
                words += [SPACE] * len(spaces)
    return words


class LetterPairs:
    """A vocabulary of `vocab_size` pieces, learnt from `words`: the letters, then the merges."""

    def __init__(self, words: Iterable[str], vocab_size: int):
        words = list(words)
        letters = dict.fromkeys(map(chr, range(256)))
        letters |= dict.fromkeys([*sorted(set("".join(words))), SPACE, END_OF_TEXT])
        self.pieces = list(letters)
        self.ids = {letter: index for index, letter in enumerate(self.pieces)}
        self.merges: dict[tuple[int, int], int] = {}
        spelt = [[self.ids[letter] for letter in word] for word in words]
        while len(self.pieces) < vocab_size:
            counts = Counter(pair for word in spelt for pair in pairwise(word))
            if not counts:
                break
            pair = max(counts, key=counts.__getitem__)  # the first met among equals
            joined = self.pieces[pair[0]] + self.pieces[pair[1]]
            self.merges[pair] = self.ids[joined] = len(self.pieces)
            self.pieces.append(joined)
            spelt = [self._merged(word, {pair: self.merges[pair]}) for word in spelt]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, word by word; raises ValueError for a special token in it."""
        if END_OF_TEXT in text:
            raise ValueError(f"{END_OF_TEXT} is a special token, which a text may not contain")
        return [token for word in spaced_words(text) for token in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word in self.ids:
            return [self.ids[word]]
        tokens, before = [self.ids[letter] for letter in word], []
        while tokens != before:
            tokens, before = self._merged(tokens, self.merges), tokens
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`."""
        return "".join(self.pieces[token] for token in tokens).replace(SPACE, " ")

    @staticmethod
    def _merged(tokens: list[int], merges: dict[tuple[int, int], int]) -> list[int]:
        merged, position = [], 0
        while position < len(tokens):
            pair = (tokens[position], tokens[position + 1] if position + 1 < len(tokens) else -1)
            merged.append(merges.get(pair, tokens[position]))
            position += 2 if pair in merges else 1
        return merged


@cache
def _learnt(story: str) -> LetterPairs:
    return LetterPairs(spaced_words(story), 1000)


@example("bpe.vocab1000")
def _vocabulary_of_1000(given: Given) -> dict[str, int]:
    learnt = _learnt(given.story)
    return {"vocab": len(learnt.pieces), "merges": len(learnt.merges)}


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


EXAMPLES |= {
    "bpe.full.ids": lambda given: _learnt(given.story).encode(_SENTENCE),
    "bpe.simple.ids": lambda given: LetterPairs(whole_text(given.story), 1000).encode(_SENTENCE),
    "bpe.gpt2.'Implementations'": lambda given: given.tokenizer.encode("Implementations"),
    "bpe.gpt2.'\\n'": lambda given: given.tokenizer.encode("\n"),
}
