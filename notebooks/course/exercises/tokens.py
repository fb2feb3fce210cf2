"""Exercises of notebook 01: ids of words, one merge, and a decoder that breaks characters."""

from collections.abc import Sequence
from typing import Any

from course.checks import choose, exercise, whole_numbers_in
from jaxgpt import WordTokenizer

SENTENCE, ASKED = "The cat sat on the mat.", "the mat sat."


@exercise("01.1")
def word_ids(answer: Any) -> str | None:
    """The ids of a sentence in the sorted vocabulary of another."""
    right = WordTokenizer.train(SENTENCE).encode(ASKED)
    answer = whole_numbers_in(answer)
    if answer is None:
        return "a list of ids is wanted, such as [0, 1]"
    if answer == right:
        return None
    if len(answer) != len(right):
        why = "the full stop is one as well" if len(answer) < len(right) else "a space is none"
        return f"{len(answer)} ids for {len(right)} tokens: {why}"
    if answer == [right[0] - 5, *right[1:]]:
        return "that is The with a capital letter, which is another word with another id"
    if answer == [item + 1 for item in right]:
        return "each is one too many: ids begin at 0"
    first_seen = ["The", "cat", "sat", "on", "the", "mat", "."]
    if answer == [first_seen.index(word) for word in ("the", "mat", "sat", ".")]:
        return "those are places in the sentence; ids are places in the sorted vocabulary"
    place = next(i for i, (a, b) in enumerate(zip(answer, right, strict=True)) if a != b)
    return f"the id at place {place} is another; write the sorted vocabulary down, and count from 0"


def merged(ids: Sequence[int], pair: tuple[int, int], new: int) -> list[int]:
    """`ids` with `new` for each `pair`, from the left, none of which overlap."""
    result, place = [], 0
    while place < len(ids):
        found = tuple(ids[place : place + 2]) == pair
        result.append(new if found else ids[place])
        place += 2 if found else 1
    return result


_LISTS: tuple[tuple[str, list[int], tuple[int, int]], ...] = (
    ("[1, 2, 3, 1, 2]", [1, 2, 3, 1, 2], (1, 2)),
    ("no pair at all", [3, 2, 1], (1, 2)),
    ("an empty list", [], (1, 2)),
    ("one id", [1], (1, 2)),
    ("the pair alone", [1, 2], (1, 2)),
    ("[7, 7, 7]", [7, 7, 7], (7, 7)),
    ("[7, 7, 7, 7]", [7, 7, 7, 7], (7, 7)),
    ("[0, 0, 5, 0]", [0, 0, 5, 0], (0, 0)),
    ("ids of thousands", [item * 1000 for item in (5, 6, 7, 5, 6)], (5000, 6000)),
    ("[1, 3, 2]", [1, 3, 2], (1, 2)),
    ("[11, 2, 1, 23]", [11, 2, 1, 23], (1, 2)),
)


@exercise("01.2")
def build_merge(answer: Any) -> str | None:
    """A function that replaces each pair in a list by one id."""
    if not callable(answer):
        return f"a function is wanted, and this is a {type(answer).__name__}"
    for title, ids, pair in _LISTS:
        given = list(ids)
        try:
            found = answer(given, pair, 9999)
        except Exception as error:  # the reader's own
            return f"on {title} it raises {type(error).__name__}: {error}".splitlines()[0]
        if given != ids:
            return f"on {title} it changes the list that it is given; make a new one"
        if said := _complaint(title, found, ids, pair):
            return said
    return None


def _complaint(title: str, found: Any, ids: list[int], pair: tuple[int, int]) -> str | None:
    given, found = found, whole_numbers_in(found)
    if found is None:
        return f"on {title} it gives {given!r} in place of a list of ids"
    right = merged(ids, pair, 9999)
    if found == right:
        return None
    if pair[0] == pair[1] and len(found) == len(right) and found == right[::-1]:
        return f"on {title} it merges from the right; of pairs that overlap, take the left one"
    if found == [9999 if item in pair else item for item in ids] and len(found) > len(right):
        return f"on {title} both ids of the pair become 9999; the two become one"
    if found.count(9999) > 0 == right.count(9999):
        return f"on {title} it merges what is no pair: the two side by side, in their order"
    if found.count(9999) > right.count(9999):
        return f"on {title} an id is used twice: behind a merged pair, go on two places further"
    if found == list(ids) and min(ids) > 256:
        return f"on {title} it finds no pair: compare ids by ==, for `is` asks for the same object"
    if found.count(9999) == 1 < right.count(9999):
        return f"on {title} only one pair is merged; go on to the end"
    if len(found) > len(right) and 9999 in found:
        return f"on {title} part of a merged pair stays behind: {found} in place of {right}"
    return f"on {title} it gives {found} in place of {right}"


def broken_decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decoding with one error, for the reader to find."""
    pieces: list[bytes] = [tokenizer.decode_bytes([token]) for token in ids]
    return "".join(piece.decode("utf-8", errors="replace") for piece in pieces)


_NOT_SO = {
    "vocabulary": "each byte is in the vocabulary: `tokenizer.decode(ids)` gives the text back",
    "order": "letters of one byte come out in their order; look at those that do not come out",
    "special": "there is no special token among these ids: all are below `tokenizer.end_of_text`",
}


@exercise("01.3")
def find_the_bug(answer: Any) -> str | None:
    """Why `broken_decode` breaks some characters: bytes are decoded one token at a time."""
    return choose(answer, "characters", _NOT_SO)
