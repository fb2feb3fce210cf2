"""Texts with a label each -> classes, parts for training and testing, and padded batches."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from jaxgpt.data.batches import IGNORE
from jaxgpt.errors import DataError
from jaxgpt.finetuning.batching import Rows, TooLong, bucket_widths, is_too_long, pad
from jaxgpt.finetuning.records import Record, read_records, usable
from jaxgpt.finetuning.splits import rank, split
from jaxgpt.tokenization.tokenizer import Tokenizer, prefix_of


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

    Raises DataError as `read_records` and `usable` do, and for a label or text that is missing or
    no text.
    """
    return [item for _, item in usable(read_records(paths), labelled, strict=strict)]


def labelled(record: Record) -> Labelled:
    """A record as a text with its label; see `read_labelled`."""
    text, label = record.text("text"), record.fields.get("label")
    label = str(label) if type(label) is int else record.text("label").strip()
    return Labelled(text, label, record.where)


def class_names(texts: Sequence[Labelled]) -> list[str]:
    """The classes in alphabetical order, which numbers them; raises DataError for but one."""
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
    of_class: dict[str, list[int]] = {}
    for i in sorted(range(len(texts)), key=lambda i: rank(texts[i].text, seed)):
        of_class.setdefault(texts[i].label, []).append(i)
    size = min(map(len, of_class.values()))
    return [texts[i] for i in sorted(i for places in of_class.values() for i in places[:size])]


def cut_labelled(
    texts: Sequence[Labelled], *, seed: int, fractions: Sequence[float]
) -> list[list[Labelled]]:
    """Cut each class by itself as `split` does, so that every part has all classes in their shares.

    Raises DataError for a class with too few distinct texts for a share in each part; ConfigError
    as `split` does.
    """
    parts: list[list[Labelled]] = [[] for _ in fractions]
    for name in class_names(texts):
        members = [item for item in texts if item.label == name]
        if (distinct := len({item.text for item in members})) < len(parts):
            raise DataError(
                f"the class {name!r} has only {distinct} different text"
                f"{'s' * (distinct != 1)} (one at {members[0].where}); training, validation and "
                "test need one each, so give more or drop the class"
            )
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

    A longer text is refused or, with a warning, cut. Raises DataError for a label that is not among
    the classes, a text that is too long or without tokens, or no text at all.
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
        tokens = [*prefix_of(tokenizer), *tokens]
        cut += is_too_long(item.where, len(tokens), context_length, too_long, "shorten the text")
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
