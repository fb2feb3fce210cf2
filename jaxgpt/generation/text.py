"""Strings in, strings out: what is written can be shown at once and never has to be taken back."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.fields import typed
from jaxgpt.generation.decoding import stream
from jaxgpt.generation.prepared_params import DecodingParams
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.model.layers import Params
from jaxgpt.tokenization.tokenizer import Tokenizer, ends_of, prefix_of

Truncate = Literal["none", "left"]
"""What becomes of a prompt that is too long: an error, or its end."""


@runtime_checkable
class LanguageModel(Protocol):
    """What it takes to write: a `LoadedModel`, or anything else with these three."""

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        ...

    @property
    def params(self) -> Params | DecodingParams:
        """Its parameters, as trained or from `prepare_params`."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer it was trained with."""
        ...


@dataclass(frozen=True)
class PreparedModel:
    """A language model whose parameters were prepared once, to write many texts."""

    config: ModelConfig
    params: DecodingParams
    tokenizer: Tokenizer


def generate_text(
    model: LanguageModel, prompt: str | Sequence[int], **options: Any
) -> Iterator[str]:
    """The text that follows `prompt`, piece by piece; `options` and errors: `stream_texts`."""
    for (piece,) in stream_texts(model, [prompt], **options):
        yield piece


def stream_texts(
    model: LanguageModel,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    sample_indices: Sequence[int] | None = None,
    stop: Sequence[str] = (),
    truncate: Truncate = "none",
    ignore_end_of_text: bool = False,
) -> Iterator[list[str]]:
    """The text that follows each prompt, a piece for each at a time, some of them empty.

    A text ends after `max_new_tokens`, before the first string of `stop` that is written, and,
    unless `ignore_end_of_text`, at the end-of-text token. A prompt is a text, or tokens where some
    are special. An empty text starts from the end-of-text token, or from a newline where the
    tokenizer has none. `truncate="left"` drops the start of a prompt that the context has no room
    for. `seed`, `sample_indices`, ConfigError: see `decoding.stream`; a stop string is not empty.
    """
    typed("truncate", truncate, Truncate)
    if "" in stop:
        raise ConfigError(
            "a stop string is empty, which would end every text at once; leave it out"
        )
    tokenizer, room = model.tokenizer, model.config.context_length
    tokens = [
        prompt_tokens(tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
        for prompt in prompts
    ]
    writers = [TextWriter(tokenizer, stop) for _ in prompts]
    done = np.zeros(len(prompts), dtype=bool)
    chunks = stream(
        model.config,
        model.params,
        [_cut_left(tokenizer, prompt, room) for prompt in tokens] if truncate == "left" else tokens,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=seed,
        sample_indices=sample_indices,
        end_of_text=() if ignore_end_of_text else ends_of(tokenizer),
        vocab_size=min(tokenizer.vocab_size, model.config.vocab_size),
        done=done,
    )
    for chunk in chunks:
        yield [writer.write(new) for writer, new in zip(writers, chunk, strict=True)]
        done |= [writer.stopped for writer in writers]
    yield [writer.finish() for writer in writers]


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of `prompt`, never none: the end-of-text token, or a newline, stands for nothing.

    The model's token for the beginning of a text stands first, where it has one.
    """
    tokens = [*prefix_of(tokenizer), *tokenizer.encode(prompt)]
    if not tokens and tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    return tokens or tokenizer.encode("\n")


def _cut_left(tokenizer: Tokenizer, tokens: list[int], room: int) -> list[int]:
    """The last `room` of a prompt's tokens; what begins every text of the model stays."""
    prefix = list(prefix_of(tokenizer))
    if len(tokens) <= room or tokens[: len(prefix)] != prefix or len(prefix) >= room:
        return tokens[-room:]
    return prefix + tokens[len(prefix) - room :]


class TextWriter:
    """One text, from tokens to pieces that can be shown.

    What might still turn out otherwise is held back: the bytes of half a character, and what may be
    the beginning of a stop string. The pieces joined are the same however the tokens are chunked.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def write(self, tokens: Sequence[int]) -> str:
        """The text that is certain now; bytes that are no UTF-8 become U+FFFD."""
        return self._release(self._decoder.decode(self._tokenizer.decode_bytes(tokens)))

    @property
    def holding(self) -> bool:
        """Whether some of what was written is held back."""
        return bool(self._held or self._decoder.getstate()[0])

    def finish(self) -> str:
        """What was held back until the end."""
        text = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        # The stop string that is complete first counts, so that chunks make no difference.
        found = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        self.stopped = bool(found)
        end = min(found)[1] if found else len(self._held) - self._stop_begun()
        text, self._held = self._held[:end], "" if found else self._held[end:]
        return text

    def _stop_begun(self) -> int:
        """The length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stop):
                return size
        return 0
