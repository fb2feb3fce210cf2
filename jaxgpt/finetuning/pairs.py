"""Records of preferences -> pairs of rows in batches."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.batches import IGNORE
from jaxgpt.errors import DataError
from jaxgpt.finetuning.batching import Rows, TooLong, bucket_widths, is_too_long
from jaxgpt.finetuning.instructions import (
    LISTS,
    TokenRow,
    collate,
    encode_conversation,
    encode_prompt,
    end_of_text,
    read_messages,
)
from jaxgpt.finetuning.preferences import Pairs
from jaxgpt.finetuning.records import EmptyRecordError, Record, left_out, read_records, usable
from jaxgpt.finetuning.templates import PromptTemplate, Turn
from jaxgpt.tokenization.tokenizer import Tokenizer
from jaxgpt.training.placing import to_host


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


def read_preferences(paths: Sequence[str | Path], *, strict: bool = False) -> list[Preference]:
    """The records in `paths`: `prompt` or `instruction`, `input` (may be empty), and two answers.

    The answers are `chosen` and `rejected`, texts or lists of messages (see `read_conversations`).
    A list may hold the whole conversation; the prompt is then what both begin with. `prompt` may be
    a list too, and may be called `messages` or `conversations`. Raises DataError as `read_records`
    and `usable` do, for a field that is missing or no text, and for answers to different prompts.
    """
    return [item for _, item in usable(read_records(paths), preference, strict=strict)]


def preference(record: Record) -> Preference:
    """A record as a preference; see `read_preferences`."""
    (begun, chosen), (other, rejected) = (_answer(record, name) for name in ("chosen", "rejected"))
    if begun != other:
        raise DataError(
            f"{record.where}: chosen and rejected differ before their last message; they must "
            "answer the same prompt"
        )
    return Preference(_prompt(record, begun), chosen, rejected, record.where)


def _answer(record: Record, name: str) -> tuple[tuple[Turn, ...], str]:
    """An answer, and the messages that stand before it in its own list."""
    if not isinstance(record.fields.get(name), list | dict):
        return (), record.text(name)
    *before, last = read_messages(record, name)
    if last.role != "assistant":
        raise EmptyRecordError(record.where, f'"{name}" does not end with an answer')
    return tuple(before), last.text


def _prompt(record: Record, begun: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """What is answered, if the answers' own lists begin with the turns `begun`."""
    names = ("prompt", *LISTS, "instruction")
    name = next((name for name in names if name in record.fields), "instruction")
    if begun and name not in record.fields:
        return begun
    if isinstance(record.fields.get(name), list | dict):
        prompt = read_messages(record, name)
    else:
        given = record.text("input", required=False)
        prompt = (Turn("user", record.text(name)), *([Turn("input", given)] * bool(given.strip())))
    if {turn.text.strip() for turn in prompt} <= {turn.text.strip() for turn in begun}:
        return begun  # the whole conversation, with the prompt in it
    if begun and begun[0].role != "assistant":
        raise DataError(f'{record.where}: the lists of answers do not begin with the "{name}"')
    return prompt + begun


def encode_preference(
    preference: Preference, template: PromptTemplate, tokenizer: Tokenizer
) -> PairRow:
    """A preference as rows; raises as `encode_conversation` does."""
    prompt = encode_prompt(preference.prompt, template, tokenizer)

    def row(answer: str) -> TokenRow:
        turns = (*preference.prompt, Turn("assistant", answer))
        whole = encode_conversation(turns, template, tokenizer)
        targets = whole.targets.copy()
        targets[: len(prompt) - 1] = IGNORE  # where earlier answers stand
        return TokenRow(whole.inputs, targets)

    return PairRow(row(preference.chosen), row(preference.rejected))


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
    template: PromptTemplate,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    too_long: TooLong = "refuse",
    strict: bool = False,
) -> Rows[PairRow, Pairs]:
    """The preferences in batches of a few widths, up to `context_length`.

    A longer one is refused or, with a warning, cut. It is left out if nothing of an answer remains,
    and so is one whose answers are the same, from which nothing can be learnt; `strict` refuses it.
    Raises DataError for a preference that is too long, if none remains, and as
    `encode_conversation` does.
    """
    pairs, same, cut = [], [], 0
    for preference in preferences:
        pair = encode_preference(preference, template, tokenizer)
        length = max(len(pair.chosen), len(pair.rejected))
        if is_too_long(preference.where, length, context_length, too_long):
            pair = PairRow(pair.chosen.cut(context_length), pair.rejected.cut(context_length))
            cut += 1
        if _differ(pair):
            pairs.append(pair)
            continue
        error = EmptyRecordError(preference.where, "its answers do not differ")
        if strict:
            raise error
        same.append(error.brief)
    if cut:
        warnings.warn(
            f"{cut} of {len(preferences)} preferences were cut to context_length {context_length}",
            stacklevel=2,
        )
    if same and not pairs:
        raise DataError(f"{left_out(same, len(preferences))}; nothing remains, so give others")
    if same:
        warnings.warn(left_out(same, len(preferences)), stacklevel=2)
    padding = end_of_text(tokenizer)
    nothing = TokenRow(np.array([padding], np.int32), np.array([IGNORE], np.int32))
    return Rows(
        pairs,
        partial(collate_pairs, padding=padding, widths=bucket_widths(context_length)),
        filler=PairRow(nothing, nothing, (0.0, 0.0)),
    )


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
    found = np.concatenate([to_host(measure(pairs)) for pairs in rows.in_order(batch_size)])
    return rows.with_examples(
        [
            replace(pair, reference=(float(chosen), float(rejected)))
            for pair, (chosen, rejected) in zip(rows.examples, found, strict=False)
        ]
    )
