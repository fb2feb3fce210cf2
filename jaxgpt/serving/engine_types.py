"""What an engine is asked for and what it gives: requests, chunks of their answers, counts."""

from dataclasses import dataclass, field
from typing import Literal

from jaxgpt.errors import ConfigError, JaxgptError
from jaxgpt.fields import check_range, check_types
from jaxgpt.generation.settings import MAX_NEW_TOKENS, MAX_SEED, SamplingConfig

MAX_TOP_LOGPROBS = 20
"""The most alternatives to a token that are given with it."""

FinishReason = Literal["stop", "length", "cancelled", "error"]
"""Why an answer ended: at an end-of-text token or a stop string; at `max_new_tokens` or the end of
the context; by `Ticket.cancel` or as the engine closed; or by a failure of its own."""


@dataclass(frozen=True)
class Request:
    """Request for one text: a prompt, and how to go on from it.

    Raises ConfigError for a value that is out of range, or not of its type; what depends on the
    model, such as the ids of the prompt, is checked by `Engine.submit`.
    """

    prompt: tuple[int, ...]
    """Tokens to go on from, one or more."""
    max_new_tokens: int
    """The most tokens to write; never more than the context has room for after the prompt."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How each token is drawn."""
    seed: int = 0
    """Decides the draws, with `sample_index`, as of `decoding.stream`."""
    sample_index: int = 0
    """Which of several answers to one prompt this is: each has draws of its own."""
    stop: tuple[str, ...] = ()
    """Strings before the first of which the text ends."""
    ignore_end_of_text: bool = False
    """Whether to write on past an end-of-text token."""
    top_logprobs: int | None = None
    """None for tokens without log-probabilities; else how many of the likeliest alternatives come
    with each."""

    def __post_init__(self):
        """Refuse what is outside its range."""
        check_types(self)
        check_range("max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        check_range("seed", self.seed, 0, MAX_SEED)
        check_range("sample_index", self.sample_index, 0, MAX_SEED)
        if self.top_logprobs is not None:
            check_range("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if not self.prompt:
            raise ConfigError("a prompt has no tokens; begin it with the end-of-text token")
        if "" in self.stop:
            raise ConfigError(
                "a stop string is empty, which would end every text at once; leave it out"
            )


@dataclass(frozen=True)
class Token:
    """Token of an answer, with how likely the model held it.

    Log-probabilities are natural (nats), of the model's own distribution over its tokens, before
    the temperature and the filters.
    """

    id: int
    logprob: float | None = None
    """None unless the request asks for log-probabilities."""
    top: tuple[tuple[int, float], ...] = ()
    """(id, log-probability) of the likeliest tokens, likeliest first; as many as were asked for."""


@dataclass(frozen=True)
class Chunk:
    """Piece of an answer: what has become certain since the last one.

    Neither the end-of-text token nor what a stop string begins with is a part of the text or of the
    tokens. Text may be held back until it is known to begin no stop string, and a token's id with
    it; either may be empty.
    """

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None = None
    """Why the answer ended, in its last chunk; None in all others."""


class Ticket:
    """Handle on a request that was submitted."""

    def __init__(self) -> None:
        self.cached_tokens = 0
        """Tokens of the prompt whose keys and values were there; certain from the first chunk."""
        self.cancelled = False
        self.failure: Exception | None = None
        """What went wrong, once the answer has ended by "error"."""

    def cancel(self) -> None:
        """End the answer soon, with a last chunk that says "cancelled"; from any thread."""
        self.cancelled = True


@dataclass(frozen=True)
class EngineStats:
    """Counts of an engine: what it is doing now, and what it has done since its start."""

    slots: int
    """Answers that can be written at once."""
    busy: int
    """Slots in which one is being written, or its prompt taken in."""
    queued: int
    """Requests that wait for a slot."""
    prompt_tokens: int
    """Tokens of all prompts that were taken in."""
    cached_tokens: int
    """Those of them that needed no computing, for an earlier text began alike."""
    new_tokens: int
    """Tokens of all answers."""
    compiles: int
    """Programs that were compiled after `start`; 0 is right."""
    finished: dict[FinishReason, int] = field(default_factory=dict)
    """Requests that ended, by why."""
    failure: str = ""
    """What ended the engine for good; empty while it serves."""


class Busy(JaxgptError):
    """As many requests wait as may; `retry_after` is a guess, in seconds, at when one may not."""

    def __init__(self, waiting: int, retry_after: float):
        super().__init__(
            f"{waiting} requests wait already; ask again in {retry_after:.0f} s, or let more wait"
        )
        self.retry_after = retry_after


class Closing(JaxgptError):
    """The engine takes no more requests, as it is closing."""

    def __init__(self) -> None:
        super().__init__("the engine is closing and takes no more requests")
