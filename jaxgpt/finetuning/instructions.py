"""Records of instructions, or of messages in OpenAI's form or ShareGPT's -> tokens to be learnt."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from jaxgpt.data.batches import IGNORE, Batch
from jaxgpt.errors import DataError
from jaxgpt.finetuning.batching import Rows, TooLong, bucket_widths, is_too_long, pad
from jaxgpt.finetuning.records import EmptyRecordError, Record, read_records, usable
from jaxgpt.finetuning.templates import PromptTemplate, Role, Turn, as_messages
from jaxgpt.tokenization.chat_template import ChatTemplate
from jaxgpt.tokenization.tokenizer import Tokenizer, prefix_of

LISTS = ("messages", "conversations")
"""The fields that hold a whole conversation."""

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_SPEAKERS: dict[str, Role] = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", **_ROLES}


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

    def cut(self, length: int) -> "TokenRow":
        """Its first `length` tokens."""
        return TokenRow(self.inputs[:length], self.targets[:length])


def read_conversations(paths: Sequence[str | Path], *, strict: bool = False) -> list[Conversation]:
    """The records in `paths`: `instruction`, `input` (may be empty) and `output`, or `messages`.

    A message has a `role` (system, user or assistant) and a `content`; the last is the assistant's.
    ShareGPT's `conversations` are messages too, with `from` (system, human or gpt) and `value`.
    Raises DataError as `read_records` and `usable` do, and for a field or message that is missing
    or no text.
    """
    return [item for _, item in usable(read_records(paths), conversation, strict=strict)]


def conversation(record: Record) -> Conversation:
    """A record as a conversation; see `read_conversations`."""
    if name := list_name(record):
        turns, where = read_messages(record, name), record.where
        if turns[-1].role != "assistant":
            raise EmptyRecordError(where, "the last message must be the assistant's, to be learnt")
        if len(turns) == 1:
            raise EmptyRecordError(where, "the assistant's message has none before it, to answer")
        return Conversation(turns, record.where)
    turns = [Turn("user", record.text("instruction")), Turn("assistant", record.text("output"))]
    if (given := record.text("input", required=False)).strip():
        turns.insert(1, Turn("input", given))
    return Conversation(tuple(turns), record.where)


def list_name(record: Record) -> str | None:
    """Which of `LISTS` a record has, if any."""
    return next((name for name in LISTS if name in record.fields), None)


def read_messages(record: Record, name: str) -> tuple[Turn, ...]:
    """The turns in the field `name`: a list of messages, or a single one.

    Raises EmptyRecordError for no message, or one without a text; DataError for anything but
    messages, or a role that is not known.
    """
    found = record.fields[name]
    messages = [found] if isinstance(found, dict) else found
    if messages is None or messages == []:
        raise EmptyRecordError(record.where, f'"{name}" is empty')
    if not isinstance(messages, list):
        raise DataError(f'{record.where}: "{name}" must be a list of objects')
    return tuple(
        _turn(message, f"{record.where}, message {number}")
        for number, message in enumerate(messages, 1)
    )


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, dict):
        raise DataError(f"{where}: must be an object with a role and a content")
    inner = Record(message, where)
    speaks, says, roles = ("role", "content", _ROLES)
    if "from" in message and "role" not in message:
        speaks, says, roles = ("from", "value", _SPEAKERS)
    role = inner.text(speaks)
    if role not in roles:
        raise DataError(f"{where}: {speaks} is {role!r}; it must be one of {', '.join(roles)}")
    return Turn(roles[role], inner.text(says))


def encode_prompt(
    turns: Sequence[Turn], template: PromptTemplate, tokenizer: Tokenizer
) -> list[int]:
    """The tokens after which the assistant's answer to `turns` begins."""
    return [token for token, _ in _tokens(turns, template, tokenizer, prompt=True)]


def encode_conversation(
    turns: Sequence[Turn],
    template: PromptTemplate,
    tokenizer: Tokenizer,
    *,
    mask_prompt: bool = True,
) -> TokenRow:
    """A conversation as a row whose targets are the answers, each with the token that ends it.

    With `mask_prompt=False`, all tokens are targets. Only the template's markers can be special
    tokens. Every piece is encoded by itself, so that the row begins with `encode_prompt`; but a
    tokenizer's own template is one text, as in transformers. Raises DataError if the tokenizer has
    no end-of-text token.
    """
    tokens, learnt = zip(*_tokens(turns, template, tokenizer), strict=True)
    return token_row(tokens, learnt if mask_prompt else None)


def _tokens(
    turns: Sequence[Turn], template: PromptTemplate, tokenizer: Tokenizer, *, prompt: bool = False
) -> Iterator[tuple[int, bool]]:
    """Each token, and whether an answer has it; as a `prompt`, up to where the next one begins."""
    if isinstance(template, ChatTemplate):
        messages = as_messages(turns)
        learnt = template.encode_conversation
        yield from [(t, False) for t in template.encode(messages)] if prompt else learnt(messages)
        return
    end = end_of_text(tokenizer)
    pieces = template.render_prompt(turns) if prompt else template.render(turns)
    yield from ((token, False) for token in prefix_of(tokenizer))
    for piece in pieces:
        answer = piece.kind == "answer"
        for token in tokenizer.encode(piece.text, allow_special=piece.kind == "marker"):
            yield token, answer
        if answer:
            yield end, answer


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id that ends an answer and fills up a batch; raises DataError where there is none."""
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
    template: PromptTemplate,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    mask_prompt: bool = True,
    too_long: TooLong = "refuse",
) -> Rows[TokenRow, Batch]:
    """The conversations in batches of a few widths, up to `context_length`.

    A longer one is refused or, with a warning, cut; it is left out if no target then remains.
    Raises DataError for a conversation that is too long, if none remains, and as
    `encode_conversation` does.
    """
    rows, cut = [], 0
    for item in conversations:
        row = encode_conversation(item.turns, template, tokenizer, mask_prompt=mask_prompt)
        if is_too_long(item.where, len(row), context_length, too_long):
            row, cut = row.cut(context_length), cut + 1
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
