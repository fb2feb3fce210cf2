"""Records of preferences -> pairs of rows in batches."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.batches import IGNORE
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import DataError
from jaxgpt.finetuning.batching import Rows, bucket_widths
from jaxgpt.finetuning.instructions import (
    TokenRow,
    TooLong,
    collate,
    encode_conversation,
    end_of_text,
)
from jaxgpt.finetuning.preferences import Pairs
from jaxgpt.finetuning.records import Record, read_records
from jaxgpt.finetuning.templates import Template, Turn


@dataclass(frozen=True)
class Preference:
    """A prompt and two answers to it, and where they were read."""

    prompt: tuple[Turn, ...]
    chosen: str
    rejected: str
    where: str


@dataclass(frozen=True)
class PairRow:
    """A preference as two rows whose targets are the answers.

    `reference` holds their log-probabilities under the reference, once they are measured.
    """

    chosen: TokenRow
    rejected: TokenRow
    reference: tuple[float, float] | None = None


def read_preferences(paths: Sequence[str | Path]) -> list[Preference]:
    """The records in `paths`: `prompt` or `instruction`, `input` (may be empty), and two answers.

    The answers are `chosen` and `rejected`.

    Raises:
        DataError: see `read_records`; a field that is missing, empty or no text.
    """
    return [preference(record) for record in read_records(paths)]


def preference(record: Record) -> Preference:
    """A record as a preference; see `read_preferences`."""
    turns = [Turn("user", record.text("prompt" if "prompt" in record.fields else "instruction"))]
    if (given := record.text("input", required=False)).strip():
        turns.append(Turn("input", given))
    return Preference(tuple(turns), record.text("chosen"), record.text("rejected"), record.where)


def encode_preference(preference: Preference, template: Template, tokenizer: Tokenizer) -> PairRow:
    """A preference as rows; raises as `encode_conversation` does."""
    chosen, rejected = (
        encode_conversation((*preference.prompt, Turn("assistant", answer)), template, tokenizer)
        for answer in (preference.chosen, preference.rejected)
    )
    return PairRow(chosen, rejected)


def collate_pairs(
    pairs: Sequence[PairRow], *, padding: int, widths: Sequence[int] | None = None
) -> Pairs:
    """The pairs as a batch, both answers as wide as the longest row; see `collate`."""
    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    batch = collate(rows, padding=padding, widths=widths)
    references = [pair.reference for pair in pairs]
    return Pairs(
        batch.inputs.reshape(len(pairs), 2, -1),
        batch.targets.reshape(len(pairs), 2, -1),
        None if None in references else np.array(references, np.float32),
    )


def preference_rows(
    preferences: Sequence[Preference],
    template: Template,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    too_long: TooLong = "refuse",
) -> Rows[PairRow, Pairs]:
    """The preferences in batches of a few widths, up to `context_length`.

    A longer one is refused or, with a warning, cut. It is left out if nothing of an answer remains,
    and so is one whose answers are the same, from which nothing can be learnt.

    Raises:
        DataError: a preference that is too long; none that remains; see `encode_conversation`.
    """
    pairs, cut = [], 0
    for preference in preferences:
        pair = encode_preference(preference, template, tokenizer)
        length = max(len(pair.chosen), len(pair.rejected))
        if length > context_length:
            if too_long == "refuse":
                raise DataError(
                    f"{preference.where}: {length} tokens are longer than context_length "
                    f"{context_length}; shorten the record, take a model with a longer context, "
                    "or set too_long to truncate"
                )
            pair = PairRow(_cut(pair.chosen, context_length), _cut(pair.rejected, context_length))
            cut += 1
        if _differ(pair):
            pairs.append(pair)
    count, left_out = len(preferences), len(preferences) - len(pairs)
    if cut:
        warnings.warn(
            f"{cut} of {count} preferences were cut to context_length {context_length}",
            stacklevel=2,
        )
    if left_out:
        warnings.warn(
            f"{left_out} of {count} preferences were left out, as their answers do not differ",
            stacklevel=2,
        )
    padding = end_of_text(tokenizer)
    nothing = TokenRow(np.array([padding], np.int32), np.array([IGNORE], np.int32))
    return Rows(
        pairs,
        partial(collate_pairs, padding=padding, widths=bucket_widths(context_length)),
        filler=PairRow(nothing, nothing, (0.0, 0.0)),
    )


def _cut(row: TokenRow, length: int) -> TokenRow:
    return TokenRow(row.inputs[:length], row.targets[:length])


def _differ(pair: PairRow) -> bool:
    """Whether both rows have targets, and not the same ones."""
    chosen, rejected = (row.targets[row.targets != IGNORE] for row in (pair.chosen, pair.rejected))
    return bool(len(chosen) and len(rejected)) and not np.array_equal(chosen, rejected)


def with_reference(
    rows: Rows[PairRow, Pairs], measure: Callable[[Pairs], Any], batch_size: int
) -> Rows[PairRow, Pairs]:
    """The rows with what `measure` gives, once, so that training needs no second model.

    `measure` is `pair_likelihood` of the reference's parameters. Where they are kept instead, each
    batch can be measured as it comes: `pairs._replace(reference=measure(pairs))`.
    """
    found = np.concatenate([np.asarray(measure(pairs)) for pairs in rows.in_order(batch_size)])
    return rows.with_examples(
        [
            replace(pair, reference=(float(chosen), float(rejected)))
            for pair, (chosen, rejected) in zip(rows.examples, found, strict=False)
        ]
    )
