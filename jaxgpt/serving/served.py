"""A model as it is served: its name, its engine, and how requests become work for that."""

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from jaxgpt.assistant.turn_encoder import TurnEncoder
from jaxgpt.errors import DataError, nearest
from jaxgpt.finetuning.templates import Turn
from jaxgpt.generation.settings import MAX_SEED
from jaxgpt.generation.text import LanguageModel, prompt_tokens
from jaxgpt.serving.api_errors import TOO_LONG, ApiError
from jaxgpt.serving.bodies import AnswerSettings, ChatBody, CompletionBody
from jaxgpt.serving.engine_types import Chunk, EngineStats, Request, Ticket
from jaxgpt.tokenization.tokenizer import Tokenizer
from jaxgpt.tokenization.words import WordTokenizer

_COMPOSED = 4  # bytes of a text for each that is left of them in Unicode's normal forms


@runtime_checkable
class Writer(Protocol):
    """What a server asks of an engine."""

    def submit(self, request: Request, on_chunk: Callable[[Chunk], None]) -> Ticket:
        """Have a request's answer written, piece by piece, from another thread."""
        ...

    def stats(self) -> EngineStats:
        """Its counts."""
        ...

    def close(self, seconds: float) -> None:
        """Finish what is being written, within so many seconds, and take no more."""
        ...


@dataclass(frozen=True)
class Work:
    """What a request comes to: a request of the engine for each answer, and what to tell of it."""

    requests: tuple[Request, ...]
    told: dict[str, Any] = field(default_factory=dict)
    """What the response says of it under "jaxgpt"."""
    echoed: tuple[str, ...] = ()
    """The prompt's text for each answer, if it is to be echoed."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, each counted once however many answers it gets."""
        return sum(len(r.prompt) for r in self.requests if r.sample_index == 0)


@dataclass(frozen=True)
class ServedModel:
    """A model under a name, with the engine that writes for it."""

    name: str
    model: LanguageModel
    engine: Writer
    context_length: int
    slots: int
    encoder: TurnEncoder | None = None
    """None for a model that does not chat."""
    created: int = field(default_factory=lambda: int(time.time()))

    def describe(self) -> dict[str, Any]:
        """The model as /v1/models lists it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "jaxgpt",
            "context_length": self.context_length,
            "vocab_size": self.model.config.vocab_size,
            "num_layers": self.model.config.num_layers,
            "num_heads": self.model.config.num_heads,
            "chat": self.encoder is not None,
        }

    def check_name(self, name: str) -> None:
        """Raise ApiError (404) for the name of another model; an empty one is this one's."""
        if name not in ("", self.name):
            raise ApiError(
                f"there is no model {name[:80]!r}{nearest(name[:80], [self.name])}; this server "
                f"has {self.name!r}",
                404,
                param="model",
                code="model_not_found",
            )

    def chat(self, body: ChatBody) -> Work:
        """The work of a conversation; raises ApiError, or ConfigError for one that does not fit."""
        self.check_name(body.options.model)
        encoder = self.encoder
        if encoder is None:
            raise ApiError(
                f"{self.name!r} was never tuned to answer, so it does not chat; ask it to go on "
                "with a text at /v1/completions",
                code="chat_not_supported",
            )
        turns = [
            Turn("assistant", encoder.said(turn.text)) if turn.role == "assistant" else turn
            for turn in body.turns
        ]
        told: dict[str, Any] = {}
        said = (turn.text for turn in turns if turn.role == "user")
        if marker := next(filter(None, map(encoder.forged, said)), None):
            told["marker_in_message"] = marker
        needed = turns[-1:] if body.leave_out else [turn for turn in turns if turn.role == "user"]
        self._check_bytes((turn.text for turn in (*body.system, *needed)), "messages")
        limit = body.options.max_tokens or self.context_length
        left_out, prompt = encoder.fit(body.system, turns, limit, leave_out=body.leave_out)
        if left_out:
            told["exchanges_left_out"] = left_out
        return self._work([tuple(prompt)], body.options, told, encoder.stop)

    def complete(self, body: CompletionBody) -> Work:
        """The work of going on with prompts; raises ApiError for one that does not fit."""
        self.check_name(body.options.model)
        tokenizer = self.model.tokenizer
        for prompt in body.prompts:
            if isinstance(prompt, str):
                self._check_bytes([prompt], "prompt")
        prompts = [
            tuple(prompt_tokens(tokenizer, prompt)) if isinstance(prompt, str) else prompt
            for prompt in body.prompts
        ]
        size = min(tokenizer.vocab_size, self.model.config.vocab_size)
        for prompt in prompts:
            if bad := next((token for token in prompt if not 0 <= token < size), None):
                raise ApiError(
                    f"prompt has token {bad}; they are from 0 to {size - 1}", param="prompt"
                )
            if len(prompt) >= self.context_length:
                raise ApiError(
                    f"the prompt has {len(prompt):,} tokens, and the context room for "
                    f"{self.context_length:,} with the answer; shorten it",
                    param="prompt",
                    code=TOO_LONG,
                )
        work = self._work(prompts, body.options, {}, ())
        if not body.echo:
            return work
        texts = [p if isinstance(p, str) else tokenizer.decode(p) for p in body.prompts]
        echoed = tuple(text for text in texts for _ in range(body.options.n))
        return Work(work.requests, work.told, echoed)

    def _check_bytes(self, texts: Iterable[str], param: str) -> None:
        """Refuse, before any is encoded, texts for which the context cannot have room."""
        # A template may drop the blanks around a text.
        size = sum(len(text.strip().encode()) for text in texts)
        if self._most_bytes is not None and size > self._most_bytes:
            raise ApiError(
                f"{param} has {size:,} bytes, more than the context of {self.context_length:,} "
                "tokens can hold; shorten it",
                param=param,
                code=TOO_LONG,
            )

    @cached_property
    def _most_bytes(self) -> int | None:
        """Bytes of text beyond which the context has no room; None where a token has any number."""
        tokenizer = self.model.tokenizer
        if isinstance(tokenizer, WordTokenizer):
            return None
        longest = max(_bytes_of(tokenizer, token) for token in range(tokenizer.vocab_size))
        return _COMPOSED * longest * self.context_length

    def _work(
        self,
        prompts: list[tuple[int, ...]],
        options: AnswerSettings,
        told: dict[str, Any],
        stop: tuple[str, ...],
    ) -> Work:
        if len(prompts) * options.n > self.slots:
            raise ApiError(
                f"{len(prompts) * options.n} answers are asked for; at most {self.slots} are "
                "written at once",
                param="n" if options.n > 1 else "prompt",
            )
        seed = secrets.randbelow(MAX_SEED + 1) if options.seed is None else options.seed
        requests = tuple(
            Request(
                prompt,
                min(options.max_tokens or self.context_length, self.context_length - len(prompt)),
                options.sampling,
                seed,
                sample_index,
                (*stop, *options.stop),
                options.ignore_end_of_text,
                options.top_logprobs,
            )
            for prompt in prompts
            for sample_index in range(options.n)
        )
        return Work(requests, told | {"seed": seed})


def _bytes_of(tokenizer: Tokenizer, token: int) -> int:
    try:
        return len(tokenizer.decode_bytes([token]))
    except DataError:  # an id between others that no token has
        return 0
