"""Answers in OpenAI's forms: whole ones, and the events of streams.

What is jaxgpt's own stands under the key "jaxgpt" beside OpenAI's, and as `token_id` in
log-probabilities.
"""

import secrets
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxgpt.generation.text import TextWriter
from jaxgpt.serving.engine_types import Chunk, FinishReason, Token
from jaxgpt.tokenization.tokenizer import Tokenizer

_LEAST = -9999.0  # OpenAI's for what is next to impossible; JSON has no infinity


@dataclass
class Written:
    """One answer so far."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, chunk: Chunk) -> None:
        """Append what a chunk brings."""
        self.text += chunk.text
        self.tokens += chunk.tokens
        self.finish_reason = chunk.finish_reason


class _Form(ABC):
    """What the forms of both endpoints share: `kind` is OpenAI's name of the whole object."""

    kind = ""
    prefix = ""

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        *,
        with_logprobs: bool,
        include_usage: bool = False,
        own: dict[str, Any] | None = None,
    ):
        self._tokenizer = tokenizer
        self._with_logprobs = with_logprobs
        self._include_usage = include_usage
        self._own = {"jaxgpt": own} if own else {}
        self._head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "object": self.kind,
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, answers: Sequence[Written], usage: dict[str, Any]) -> dict[str, Any]:
        """The answers at once."""
        choices = [
            self._whole_choice(index, answer)
            | {
                "logprobs": self._logprobs(answer.tokens, index),
                "finish_reason": answer.finish_reason,
            }
            for index, answer in enumerate(answers)
        ]
        return self._head | {"choices": choices, "usage": usage} | self._own

    @abstractmethod
    def start(self, count: int) -> list[dict[str, Any]]:
        """The events before the first chunk of `count` answers."""

    @abstractmethod
    def event(self, index: int, chunk: Chunk) -> list[dict[str, Any]]:
        """The events of a chunk of answer `index`."""

    def usage_event(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The last event, for who asked for it."""
        return self._part([]) | {"usage": usage}

    def _part(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"choices": choices} | ({"usage": None} if self._include_usage else {})

    @abstractmethod
    def _whole_choice(self, index: int, answer: Written) -> dict[str, Any]: ...

    @abstractmethod
    def _logprobs(self, tokens: Sequence[Token], index: int) -> dict[str, Any] | None: ...


class ChatForm(_Form):
    """Form of /v1/chat/completions."""

    kind = "chat.completion"
    prefix = "chatcmpl"

    def start(self, count: int) -> list[dict[str, Any]]:
        """For each answer, who says it."""
        self._head["object"] = "chat.completion.chunk"
        delta = {"role": "assistant", "content": ""}
        return [self._one(index, delta, None, None) | self._own for index in range(count)]

    def event(self, index: int, chunk: Chunk) -> list[dict[str, Any]]:
        """What is new in the answer, and then why it ended."""
        events = []
        if chunk.text or (chunk.tokens and self._with_logprobs):
            logprobs = self._logprobs(chunk.tokens, index)
            events.append(self._one(index, {"content": chunk.text}, logprobs, None))
        if chunk.finish_reason:
            events.append(self._one(index, {}, None, chunk.finish_reason))
        return events

    def _one(
        self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, end: str | None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": end}
        return self._part([choice])

    def _whole_choice(self, index: int, answer: Written) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {"index": index, "message": message}

    def _logprobs(self, tokens: Sequence[Token], index: int) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        content = [
            self._entry(token.id, token.logprob)
            | {"top_logprobs": [self._entry(*pair) for pair in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        text, octets = spelt(self._tokenizer, token), list(self._tokenizer.decode_bytes([token]))
        known = _finite(logprob)
        return {"token": text, "logprob": known, "bytes": octets, "token_id": token}


class CompletionForm(_Form):
    """Form of /v1/completions; `echoed` are the texts that answers begin with, if they do."""

    kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, *given: Any, echoed: Sequence[str] = (), **options: Any):
        super().__init__(*given, **options)
        self._echoed = echoed
        self._offsets: defaultdict[int, int] = defaultdict(int)
        self._writers = defaultdict(lambda: TextWriter(self._tokenizer))

    def start(self, count: int) -> list[dict[str, Any]]:
        """The prompts, if they are to be echoed."""
        return [self._one(i, text, None, None) for i, text in enumerate(self._echoed)]

    def event(self, index: int, chunk: Chunk) -> list[dict[str, Any]]:
        """What is new in the answer, and why it ended."""
        if not (chunk.text or chunk.finish_reason or (chunk.tokens and self._with_logprobs)):
            return []
        logprobs = self._logprobs(chunk.tokens, index)
        return [self._one(index, chunk.text, logprobs, chunk.finish_reason)]

    def _one(
        self, index: int, text: str, logprobs: dict[str, Any] | None, end: str | None
    ) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": end}
        own, self._own = self._own, {}  # once, and beside a choice, which clients look for
        return self._part([choice]) | own

    def _whole_choice(self, index: int, answer: Written) -> dict[str, Any]:
        before = self._echoed[index] if self._echoed else ""
        return {"index": index, "text": before + answer.text}

    def _logprobs(self, tokens: Sequence[Token], index: int) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        offsets = []  # characters of the text before, without those that are not whole yet
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(self._writers[index].write([token.id]))
        return {
            "tokens": [spelt(self._tokenizer, token.id) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [
                {spelt(self._tokenizer, other): _finite(logprob) for other, logprob in token.top}
                for token in tokens
            ],
            "text_offset": offsets,
            "token_ids": [token.id for token in tokens],
        }


def spelt(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; bytes that are no UTF-8 by themselves as `\\xe2`."""
    return tokenizer.decode_bytes([token]).decode(errors="backslashreplace")


def usage_of(prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The numbers of tokens: of prompts, of those the ones not computed anew, of answers."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def _finite(logprob: float | None) -> float | None:
    """A log-probability that JSON can hold; NaN is no number that is above the least."""
    return logprob if logprob is None or logprob > _LEAST else _LEAST
