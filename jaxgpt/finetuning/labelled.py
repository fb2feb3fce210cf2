"""Texts with a label each -> classes, parts for training and testing, and padded batches."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from jaxgpt.data.batches import IGNORE
from jaxgpt.errors import DataError
from jaxgpt.finetuning.batching import Rows, TooLong, bucket_widths, pad
from jaxgpt.finetuning.records import Record, read_records
from jaxgpt.finetuning.splits import rank, split
from jaxgpt.finetuning.usable import usable
from jaxgpt.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Labelled:
    """A text, the name of its class, and where both were read."""

    text: str
    label: str
    where: str


class LabelledBatch(NamedTuple):
    """Padded tokens, how many of each row are real, and each row's class (or `IGNORE`)."""

    tokens: Int32[np.ndarray, "B T"]
    lengths: Int32[np.ndarray, " B"]
    labels: Int32[np.ndarray, " B"]


class Parts(NamedTuple):
    """What is trained on, what training is watched with, and what is measured at the end."""

    train: list[Labelled]
    validation: list[Labelled]
    test: list[Labelled]


def read_labelled(paths: Sequence[str | Path], *, strict: bool = False) -> list[Labelled]:
    """The texts in `paths`: lines `label<TAB>text`, or the fields `label` and `text`.

    Raises:
        DataError: see `read_records` and `usable`; a label or text that is missing or no text.
    """
    return [item for _, item in usable(read_records(paths), labelled, strict=strict)]


def labelled(record: Record) -> Labelled:
    """A record as a text with its label; see `read_labelled`."""
    return Labelled(record.text("text"), _label(record), record.where)


def _label(record: Record) -> str:
    label = record.fields.get("label")
    if isinstance(label, int) and not isinstance(label, bool):
        return str(label)
    return record.text("label").strip()


def class_names(texts: Sequence[Labelled]) -> list[str]:
    """The classes in alphabetical order; a class's number is its place in this list.

    Raises:
        DataError: fewer than two classes.
    """
    names = sorted({item.label for item in texts})
    if len(names) < 2:
        raise DataError(
            f"all {len(texts)} texts have the label {', '.join(names)!r}; give two classes or more"
        )
    return names


def balance(texts: Sequence[Labelled], *, seed: int) -> list[Labelled]:
    """As many texts of each class as the smallest has, chosen by the seed, in their order.

    For the part to train on; a test keeps all its texts, and `balanced_accuracy` weighs classes.
    """
    size = min(Counter(item.label for item in texts).values())
    chosen: Counter[str] = Counter()
    kept = set()
    for i in sorted(range(len(texts)), key=lambda i: rank(texts[i].text, seed)):
        chosen[texts[i].label] += 1
        if chosen[texts[i].label] <= size:
            kept.add(i)
    return [item for i, item in enumerate(texts) if i in kept]


def cut_labelled(
    texts: Sequence[Labelled], *, seed: int, fractions: Sequence[float]
) -> list[list[Labelled]]:
    """Cut each class by itself as `split` does, so that every part has all classes in their shares.

    Raises:
        DataError: a class with too few distinct texts for a share in each part.
        ConfigError: see `split`.
    """
    of_class = {name: [item for item in texts if item.label == name] for name in class_names(texts)}
    parts: list[list[Labelled]] = [[] for _ in fractions]
    for name, members in of_class.items():
        if (distinct := len({item.text for item in members})) < len(parts):
            raise DataError(
                f"the class {name!r} has only {distinct} different text"
                f"{'s' * (distinct != 1)} (one at {members[0].where}); training, validation and "
                "test need one each, so give more or drop the class"
            )
        if len(parts) == 1:
            parts[0].extend(members)
            continue
        shares = split(members, lambda item: item.text, seed=seed, fractions=fractions)
        for part, share in zip(parts, shares, strict=True):
            part.extend(share)
    return parts


def labelled_rows(
    texts: Sequence[Labelled],
    classes: Sequence[str],
    tokenizer: Tokenizer,
    *,
    context_length: int,
    too_long: TooLong = "truncate",
) -> Rows[tuple[list[int], int], LabelledBatch]:
    """The texts in batches of a few widths, up to `context_length`.

    A longer text is refused or, with a warning, cut.

    Raises:
        DataError: a label that is not among the classes; a text that is too long, or without
            tokens; no text at all.
    """
    rows, cut = [], 0
    number_of = {name: number for number, name in enumerate(classes)}
    for item in texts:
        if item.label not in number_of:
            raise DataError(
                f"{item.where}: the label {item.label!r} is none of the classes that the model "
                f"has learnt: {', '.join(classes)}"
            )
        tokens = tokenizer.encode(item.text)
        if not tokens:
            raise DataError(f"{item.where}: the tokenizer finds no token in the text; remove it")
        if len(tokens) > context_length:
            if too_long == "refuse":
                raise DataError(
                    f"{item.where}: {len(tokens)} tokens are longer than context_length "
                    f"{context_length}; shorten the text, or set too_long to truncate"
                )
            cut += 1
        rows.append((tokens[:context_length], number_of[item.label]))
    if cut:
        warnings.warn(
            f"{cut} of {len(rows)} texts were cut to context_length {context_length}", stacklevel=2
        )
    padding, widths = tokenizer.end_of_text or 0, bucket_widths(context_length)
    return Rows(rows, partial(collate, padding=padding, widths=widths), ([padding], IGNORE))


def collate(
    rows: Sequence[tuple[list[int], int]], *, padding: int, widths: Sequence[int] | None = None
) -> LabelledBatch:
    """Tokens and class of each row as a batch; see `pad`."""
    tokens = [np.array(tokens, np.int32) for tokens, _ in rows]
    return LabelledBatch(
        pad(tokens, padding, widths),
        np.array([len(row) for row in tokens], np.int32),
        np.array([label for _, label in rows], np.int32),
    )
