"""Which texts of a test are nearly those of training, and so measure memory rather than skill."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgpt.errors import DataError
from jaxgpt.fields import check
from jaxgpt.finetuning.instructions import conversation, list_name, read_messages
from jaxgpt.finetuning.records import Record, read_records, usable


class Text(NamedTuple):
    """A text and where it was read."""

    text: str
    where: str


class Nearest(NamedTuple):
    """A test text, the training text most like it, if any, and how similar it is, from 0 to 1."""

    test: Text
    train: Text | None
    similarity: float


def read_texts(paths: Sequence[str | Path]) -> list[Text]:
    """What is read before an answer or a label in each record, of any kind.

    That is its `text`, `ctx`, `prompt`, `instruction` with its `input`, or all `messages` (or
    ShareGPT's `conversations`) but the last. Raises DataError as `read_records` and `usable` do,
    and for a record that has none of these.
    """
    return [Text(text, record.where) for record, text in usable(read_records(paths), _text)]


def _text(record: Record) -> str:
    if list_name(record):
        return "\n".join(turn.text for turn in conversation(record).prompt)
    if isinstance(record.fields.get("prompt"), list):
        return "\n".join(turn.text for turn in read_messages(record, "prompt"))
    for name in ("text", "ctx", "prompt", "instruction"):
        if name in record.fields:
            given = record.text("input", required=False) if name == "instruction" else ""
            return f"{record.text(name)}\n{given}".rstrip("\n")
    raise DataError(f"{record.where}: no text, ctx, prompt, instruction or messages to compare")


def most_similar(train: Sequence[Text], test: Sequence[Text], *, words: int = 3) -> list[Nearest]:
    """The most similar training text of each test text, the first of several.

    The similarity of two texts is the share of runs of `words` words that are in both among those
    in either (their resemblance, Broder 1997). Case, punctuation and spacing do not count. An index
    from each run to the texts that have it finds all that share one, in time about proportional to
    the number of texts. Raises ConfigError for `words` below 1.
    """
    check(words >= 1, f"words is {words}; it must be 1 or more")
    having: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes = np.zeros(len(train), np.int64)
    for i, item in enumerate(train):
        runs = _runs(item.text, words)
        sizes[i] = len(runs)
        for run in runs:
            having[run].append(i)
    postings = {run: np.array(places) for run, places in having.items()}
    found = []
    for item in test:
        runs = _runs(item.text, words)
        shared = [postings[run] for run in runs if run in postings]
        if not shared:
            found.append(Nearest(item, None, 0.0))
            continue
        places, both = np.unique(np.concatenate(shared), return_counts=True)
        similarity = both / (len(runs) + sizes[places] - both)
        best = similarity.argmax()
        found.append(Nearest(item, train[places[best]], float(similarity[best])))
    return found


def _runs(text: str, words: int) -> set[tuple[str, ...]]:
    """All runs of `words` words; a text with fewer is one run."""
    found = re.findall(r"\w+", text.casefold()) or text.split()  # where all is punctuation
    return {tuple(found[i : i + words]) for i in range(max(1, len(found) - words + 1))}
