"""Bodies of requests: JSON that nobody has to trust -> what is asked for, checked.

What OpenAI's interface has and this one lacks is refused where it would change the answer, and
taken and left alone where it would not. A message is never read as anything but text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxgpt.errors import ConfigError, brief
from jaxgpt.fields import check_range
from jaxgpt.files import parse_json
from jaxgpt.finetuning.templates import Role, Turn
from jaxgpt.generation.settings import MAX_NEW_TOKENS, MAX_SEED, SamplingConfig
from jaxgpt.serving.api_errors import ApiError
from jaxgpt.serving.engine_types import MAX_TOP_LOGPROBS
from jaxgpt.serving.json_fields import Fields

MOST_STOPS = 4
"""Stop strings of a request, as of OpenAI's."""
_LONGEST_STOP = 500  # characters
_STANDARD_COMPLETION = 16  # tokens, as of OpenAI's
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


@dataclass(frozen=True)
class AnswerSettings:
    """What a request says of its answers, whatever it is that they answer."""

    model: str
    """The model's name; empty where the request names none."""
    sampling: SamplingConfig
    seed: int | None
    """None for draws that differ each time."""
    n: int
    """Answers to each prompt."""
    max_tokens: int | None
    """None for as many as the context has room for."""
    stop: tuple[str, ...]
    top_logprobs: int | None
    """None for no log-probabilities; else how many alternatives."""
    ignore_end_of_text: bool
    stream: bool
    include_usage: bool
    """Whether a stream ends with the numbers of tokens."""


@dataclass(frozen=True)
class ChatBody:
    """Body of /v1/chat/completions: turns, of which the last is the user's."""

    system: tuple[Turn, ...]
    turns: tuple[Turn, ...]
    leave_out: bool
    """Whether the oldest exchanges may be left out where the context has no room for them."""
    options: AnswerSettings


@dataclass(frozen=True)
class CompletionBody:
    """Body of /v1/completions: prompts, as texts or as tokens."""

    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool
    """Whether an answer begins with its prompt."""
    options: AnswerSettings


def read_json_body(content: bytes) -> dict[str, Any]:
    """The JSON object of a body; raises ApiError for anything else."""
    try:
        values = parse_json(content.decode())
    except UnicodeDecodeError as error:
        raise ApiError(
            f"the body is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}"
        ) from None
    except ValueError as error:
        raise ApiError(f"the body is not JSON that can be used: {error}") from None
    if not isinstance(values, dict):
        raise ApiError(f"the body is a {type(values).__name__}; it must be a JSON object")
    return values


def read_chat(values: dict[str, Any]) -> ChatBody:
    """What a body of /v1/chat/completions asks for; raises ApiError, naming the field."""
    fields = Fields(values)
    turns = _turns(fields.take("messages", list[Any] | None, None))
    leave_out = fields.choice("truncation", ("auto", "disabled")) == "auto"
    wanted = fields.take("logprobs", bool, False)
    top = fields.within("top_logprobs", 0, MAX_TOP_LOGPROBS, None)
    if top is not None and not wanted:
        raise ApiError("top_logprobs goes with logprobs true", param="top_logprobs")
    limit = fields.within("max_tokens", 1, MAX_NEW_TOKENS, None)
    limit = fields.within("max_completion_tokens", 1, MAX_NEW_TOKENS, limit)
    options = _options(fields, limit, (top or 0) if wanted else None)
    first = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    return ChatBody(tuple(turns[:first]), tuple(turns[first:]), leave_out, options)


def read_completion(values: dict[str, Any]) -> CompletionBody:
    """What a body of /v1/completions asks for; raises ApiError, naming the field."""
    fields = Fields(values)
    prompts = _prompts(fields.take("prompt", Any, ""))
    echo = fields.take("echo", bool, False)
    top = fields.within("logprobs", 0, MAX_TOP_LOGPROBS, None)
    if echo and top is not None:
        raise ApiError("logprobs of an echoed prompt are not computed; drop echo", param="echo")
    limit = fields.within("max_tokens", 1, MAX_NEW_TOKENS, _STANDARD_COMPLETION)
    options = _options(fields, limit, top)
    return CompletionBody(prompts, echo, options)


def _options(fields: Fields, max_tokens: int | None, top_logprobs: int | None) -> AnswerSettings:
    """The options; whatever `fields` still has then is unknown."""
    stream = fields.take("stream", bool, False)
    given = fields.take("stream_options", dict[str, Any] | None, None)
    if given is not None and not stream:
        raise ApiError("stream_options goes with stream true", param="stream_options")
    inner = Fields(given or {}, "stream_options")
    include_usage = inner.take("include_usage", bool, False)
    inner.take("include_obfuscation", bool, False)
    inner.finish()
    stop = fields.take("stop", Any, ())
    options = AnswerSettings(
        model=fields.take("model", str, ""),
        sampling=_sampling(fields),
        seed=fields.within("seed", 0, MAX_SEED, None),
        n=fields.within("n", 1, 128, 1),
        max_tokens=max_tokens,
        stop=_stops((stop,) if isinstance(stop, str) else stop),
        top_logprobs=top_logprobs,
        ignore_end_of_text=fields.take("ignore_end_of_text", bool, False),
        stream=stream,
        include_usage=include_usage,
    )
    fields.finish()
    return options


def _sampling(fields: Fields) -> SamplingConfig:
    numbers = {
        "temperature": fields.take("temperature", float, 1.0),
        "top_p": fields.take("top_p", float, 1.0),
        "top_k": fields.take("top_k", int, 0),
        "min_p": fields.take("min_p", float, 0.0),
        "repetition_penalty": fields.take("repetition_penalty", float, 1.0),
    }
    try:
        check_range("temperature", numbers["temperature"], 0, 2)
        return SamplingConfig(**numbers)
    except ConfigError as error:
        raise ApiError(str(error), param=str(error).split()[0]) from None


def _stops(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not all(isinstance(text, str) for text in given):
        raise ApiError(f"stop is {brief(given)}; it must be a text or some", param="stop")
    if len(given) > MOST_STOPS:
        raise ApiError(f"stop has {len(given)} texts; at most {MOST_STOPS} are", param="stop")
    for text in given:
        if not 1 <= len(text) <= _LONGEST_STOP:
            raise ApiError(
                f"a text of stop has {len(text):,} characters; it must have from 1 to "
                f"{_LONGEST_STOP}",
                param="stop",
            )
    return tuple(given)


def _prompts(given: Any) -> tuple[str | tuple[int, ...], ...]:
    items = given if isinstance(given, list) else [given]
    if items and all(type(item) is int for item in items):
        items = [items]
    prompts: list[str | tuple[int, ...]] = []
    for item in items:
        if isinstance(item, str):
            prompts.append(item)
        elif isinstance(item, list) and item and all(type(token) is int for token in item):
            prompts.append(tuple(item))
        else:
            raise ApiError(
                f"prompt has {brief(item)}; it must be a text, a list of tokens, or a list of "
                "these",
                param="prompt",
            )
    if not prompts:
        raise ApiError("prompt is an empty list; give a text", param="prompt")
    return tuple(prompts)


def _turns(given: Sequence[Any] | None) -> list[Turn]:
    if not given:
        raise ApiError(
            "messages is missing or empty; it must be a list of objects, each with a role and a "
            "content",
            param="messages",
        )
    turns = [_turn(item, f"messages[{i}]") for i, item in enumerate(given)]
    if turns[-1].role != "user":
        raise ApiError(
            f"the last message is of {given[-1]['role']}; the user's is what is answered",
            param="messages",
        )
    return turns


def _turn(item: Any, where: str) -> Turn:
    if not isinstance(item, dict):
        raise ApiError(f"{where} is {brief(item)}; it must be an object", param=where)
    fields = Fields(item, where)
    role = fields.choice("role", tuple(_ROLES), required=True)
    content = _content(fields.take("content", Any, None), f"{where}.content")
    fields.take("name", str, "")
    fields.finish()
    return Turn(_ROLES[role], content)


def _content(given: Any, where: str) -> str:
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not given:
        raise ApiError(f"{where} is {brief(given)}; it must be a text", param=where)
    for number, part in enumerate(given):
        if not (isinstance(part, dict) and part.get("type") == "text"):
            kind = part.get("type") if isinstance(part, dict) else part
            raise ApiError(f"{where}[{number}] is {brief(kind)}; parts must be text", param=where)
        if not isinstance(part.get("text"), str):
            raise ApiError(f"{where}[{number}] has no text", param=where)
    return "".join(part["text"] for part in given)
