"""Records of instructions or conversations -> tokens, and which of them a model is to learn."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from jaxgpt.data.batches import IGNORE, Batch
from jaxgpt.errors import DataError
from jaxgpt.finetuning.batching import Rows, TooLong, bucket_widths, pad
from jaxgpt.finetuning.messages import end_of_conversation, list_name, read_messages
from jaxgpt.finetuning.records import Record, read_records
from jaxgpt.finetuning.templates import Piece, Template, Turn
from jaxgpt.finetuning.usable import usable
from jaxgpt.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Conversation:
    """The turns of one record, the last of them an answer, and where it was read."""

    turns: tuple[Turn, ...]
    where: str

    @property
    def prompt(self) -> tuple[Turn, ...]:
        """All turns before the last answer."""
        return self.turns[:-1]

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.turns[-1].text


@dataclass(frozen=True)
class TokenRow:
    """One text as a row of a batch: its tokens and, at each place, the next one (or `IGNORE`)."""

    inputs: Int32[np.ndarray, " T"]
    targets: Int32[np.ndarray, " T"]

    def __len__(self) -> int:
        return len(self.inputs)


def read_conversations(paths: Sequence[str | Path], *, strict: bool = False) -> list[Conversation]:
    """The records in `paths`: `instruction`, `input` (may be empty) and `output`, or `messages`.

    A message has a `role` (system, user or assistant) and a `content`; the last is the assistant's.
    ShareGPT's `conversations` are messages too, with `from` (system, human or gpt) and `value`.

    Raises:
        DataError: see `read_records` and `usable`; a field or message that is missing or no text.
    """
    return [item for _, item in usable(read_records(paths), conversation, strict=strict)]


def conversation(record: Record) -> Conversation:
    """A record as a conversation; see `read_conversations`."""
    if name := list_name(record):
        turns = read_messages(record, name)
        end_of_conversation(turns, record.where)
        return Conversation(turns, record.where)
    turns = [Turn("user", record.text("instruction")), Turn("assistant", record.text("output"))]
    if (given := record.text("input", required=False)).strip():
        turns.insert(1, Turn("input", given))
    return Conversation(tuple(turns), record.where)


def encode_prompt(turns: Sequence[Turn], template: Template, tokenizer: Tokenizer) -> list[int]:
    """The tokens after which the assistant's answer to `turns` begins."""
    return [token for token, _ in _tokens(template.render_prompt(turns), tokenizer)]


def encode_conversation(
    turns: Sequence[Turn], template: Template, tokenizer: Tokenizer, *, mask_prompt: bool = True
) -> TokenRow:
    """A conversation as a row whose targets are the answers, each with its end-of-text token.

    With `mask_prompt=False`, all tokens are targets. Only the template's markers can be special
    tokens. Every piece is encoded by itself, so that the row begins with `encode_prompt`.

    Raises:
        DataError: the tokenizer has no end-of-text token.
    """
    tokens, learnt = zip(*_tokens(template.render(turns), tokenizer), strict=True)
    return token_row(tokens, learnt if mask_prompt else None)


def _tokens(pieces: Iterable[Piece], tokenizer: Tokenizer) -> Iterator[tuple[int, bool]]:
    """Each token, and whether an answer has it."""
    end = end_of_text(tokenizer)
    for piece in pieces:
        answer = piece.kind == "answer"
        for token in tokenizer.encode(piece.text, allow_special=piece.kind == "marker"):
            yield token, answer
        if answer:
            yield end, answer


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id of the token that ends an answer and fills up a batch.

    Raises:
        DataError: the tokenizer has none.
    """
    if tokenizer.end_of_text is None:
        raise DataError(
            f"tokenizer {tokenizer.name} has no end-of-text token, by which a model could end an "
            "answer; pretrain with gpt2, or with bpe:N for a vocabulary of your own"
        )
    return tokenizer.end_of_text


def token_row(tokens: Sequence[int], learnt: Sequence[bool] | None = None) -> TokenRow:
    """The row that predicts each token from those before it, as far as it is among the learnt.

    `learnt` says so for each token, and is all of them if not given.
    """
    row = np.array(tokens, np.int32)
    targets = row[1:] if learnt is None else np.where(learnt[1:], row[1:], np.int32(IGNORE))
    return TokenRow(row[:-1], targets)


def collate(
    rows: Sequence[TokenRow], *, padding: int, widths: Sequence[int] | None = None
) -> Batch:
    """The rows as a batch, filled up with the id `padding` to the first of `widths` that holds all.

    Without `widths`, to the longest row. Padding has no targets, and no token looks at what
    follows it, so the loss is that of the rows by themselves.
    """
    return Batch(
        pad([row.inputs for row in rows], padding, widths),
        pad([row.targets for row in rows], IGNORE, widths),
    )


def conversation_rows(
    conversations: Sequence[Conversation],
    template: Template,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    mask_prompt: bool = True,
    too_long: TooLong = "refuse",
) -> Rows[TokenRow, Batch]:
    """The conversations in batches of a few widths, up to `context_length`.

    A longer one is refused or, with a warning, cut; it is left out if no target then remains.

    Raises:
        DataError: a conversation that is too long; none that remains; see `encode_conversation`.
    """
    rows, cut = [], 0
    for item in conversations:
        row = encode_conversation(item.turns, template, tokenizer, mask_prompt=mask_prompt)
        if len(row) > context_length:
            if too_long == "refuse":
                raise DataError(
                    f"{item.where}: {len(row)} tokens are longer than context_length "
                    f"{context_length}; shorten the record, take a model with a longer context, "
                    "or set too_long to truncate"
                )
            row, cut = TokenRow(row.inputs[:context_length], row.targets[:context_length]), cut + 1
        if (row.targets != IGNORE).any():
            rows.append(row)
    if cut:
        warnings.warn(
            f"{cut} of {len(conversations)} records were cut to context_length {context_length}, "
            f"and {len(conversations) - len(rows)} of them left out, as nothing of the answer "
            "remained",
            stacklevel=2,
        )
    padding = end_of_text(tokenizer)
    filler = TokenRow(np.array([padding], np.int32), np.array([IGNORE], np.int32))
    widths = bucket_widths(context_length)
    return Rows(rows, partial(collate, padding=padding, widths=widths), filler)
