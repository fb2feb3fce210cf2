"""Byte-pair encoding as it is first taught: letters instead of bytes, and a plain loop for a heap.

`jaxgpt.tokenization.bpe` is the tokenizer to use. This one differs in ways that show in the ids: a
space is a letter of its own, equal counts fall to the pair met first, and encoding merges from left
to right, whatever was learnt first.
"""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from jaxgpt.tokenization.vocabulary import END_OF_TEXT

SPACE = "Ġ"  # how GPT-2's published files write a space


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
            self.merges[pair] = self.ids[self._joined(pair)] = len(self.pieces)
            self.pieces.append(self._joined(pair))
            spelt = [self._merged(word, {pair: self.merges[pair]}) for word in spelt]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, a word at a time.

        Raises:
            ValueError: a special token is spelt out in it.
        """
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

    def _joined(self, pair: tuple[int, int]) -> str:
        return self.pieces[pair[0]] + self.pieces[pair[1]]

    @staticmethod
    def _merged(tokens: list[int], merges: dict[tuple[int, int], int]) -> list[int]:
        merged, position = [], 0
        while position < len(tokens):
            pair = (tokens[position], tokens[position + 1] if position + 1 < len(tokens) else -1)
            merged.append(merges.get(pair, tokens[position]))
            position += 2 if pair in merges else 1
        return merged
