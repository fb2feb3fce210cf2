"""Lists of messages -> turns: OpenAI's `role` and `content`, or ShareGPT's `from` and `value`."""

from typing import Any

from jaxgpt.errors import DataError
from jaxgpt.finetuning.records import EmptyRecordError, Record
from jaxgpt.finetuning.templates import Role, Turn

LISTS = ("messages", "conversations")
"""The fields that hold a whole conversation."""

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_SPEAKERS: dict[str, Role] = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", **_ROLES}


def list_name(record: Record) -> str | None:
    """Which of `LISTS` a record has, if any."""
    return next((name for name in LISTS if name in record.fields), None)


def read_messages(record: Record, name: str) -> tuple[Turn, ...]:
    """The turns in the field `name`: a list of messages, or a single one.

    Raises:
        EmptyRecordError: no message, or one without a text.
        DataError: anything but messages; a role that is not known.
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


def end_of_conversation(turns: tuple[Turn, ...], where: str) -> tuple[tuple[Turn, ...], Turn]:
    """The turns before the last answer, and that answer.

    Raises:
        EmptyRecordError: the last turn is not the assistant's, or is the only one.
    """
    *before, last = turns
    if last.role != "assistant":
        raise EmptyRecordError(where, "the last message must be the assistant's, to be learnt")
    if not before:
        raise EmptyRecordError(where, "the assistant's message has none before it, to answer")
    return tuple(before), last
