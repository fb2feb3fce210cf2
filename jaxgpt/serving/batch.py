"""Batch of slots: the arrays on the device, what each slot is to write, and the programs' calls."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxgpt.generation.prepared_params import DecodingParams, prepare_params
from jaxgpt.generation.sampling import SamplingRows
from jaxgpt.generation.text import LanguageModel
from jaxgpt.model.attention import attention_in_force
from jaxgpt.model.gpt import init_cache
from jaxgpt.serving import programs
from jaxgpt.serving.engine_types import Request
from jaxgpt.serving.programs import Rows, Written
from jaxgpt.tokenization.tokenizer import ends_of


class Batch:
    """B slots of a model, each with room for `length` tokens; for one thread at a time.

    A dispatch writes up to `steps` tokens in each slot, and takes in up to `chunk` of a prompt.
    """

    def __init__(self, model: LanguageModel, slots: int, length: int, steps: int, chunk: int):
        self.slots, self.length, self.steps, self.chunk = slots, length, steps, chunk
        self.vocab_size = min(model.tokenizer.vocab_size, model.config.vocab_size)
        # Of each layer by themselves, but as they were: transposed, which serves one row best, they
        # would be copied by each dispatch of many.
        params = prepare_params(model.params).for_rows(model.config, slots)
        self._params = jax.jit(DecodingParams.as_params)(params)
        self._config, self._attention = model.config, attention_in_force()
        self._ends = np.array(ends_of(model.tokenizer) or [-1], "int32")  # -1, which no token is
        self.reset()

    def reset(self) -> None:
        """Forget all texts; needed after a program failed, which has used the cache up."""
        dtype = self._params["embed"]["tokens"].dtype
        self._cache = init_cache(self._config, self.slots, self.length, dtype)
        self._seen = jax.device_put(np.zeros((self.slots, self.vocab_size), bool))
        self._rows = _idle_rows(self.slots)

    def warm_up(self) -> None:
        """Compile every program that there is, and run it; the slots are empty before and after."""
        for _ in range(2):  # the second time on what the programs themselves have made
            self.copy(0, 0)
            self.take_in(0, [0], 0)
            self._mark(0, [0])
            self.decode(1)
        self.reset()

    def copy(self, slot: int, source: int | None) -> None:
        """Give a slot the keys and values of another, or those of no text."""
        numbers = np.int32(slot), np.int32(-1 if source is None else source)
        settings: Any = {"config": self._config, "length": self.length}
        self._cache = programs.begin(self._cache, *numbers, **settings)

    def take_in(self, slot: int, tokens: Sequence[int], start: int) -> None:
        """Compute a slot's keys and values of up to `chunk` tokens from `start` on, and wait."""
        padded = np.zeros(self.chunk, "int32")
        padded[: len(tokens)] = tokens
        self._cache = programs.take_in(
            self._params,
            self._cache,
            np.int32(slot),
            padded,
            np.int32(start),
            np.int32(len(tokens)),
            config=self._config,
            attention=self._attention,
        )
        jax.block_until_ready(self._cache)

    def enter(self, slot: int, request: Request, limit: int) -> None:
        """Let a slot write up to `limit` tokens, once it holds all but the last of the prompt."""
        self._mark(slot, request.prompt)
        rows, sampling = self._rows, request.sampling
        rows.newest[slot], rows.length[slot] = request.prompt[-1], len(request.prompt)
        rows.made[slot], rows.limit[slot], rows.writing[slot] = 0, limit, True
        rows.seed[slot], rows.sample_index[slot] = request.seed, request.sample_index
        rows.ignore_end[slot] = request.ignore_end_of_text
        rows.logprobs[slot] = request.top_logprobs is not None
        for name, numbers in rows.sampling._asdict().items():
            numbers[slot] = getattr(sampling, name)

    def leave(self, slot: int) -> None:
        """Let a slot write no more."""
        for array, idle in zip(
            jax.tree.leaves(self._rows), jax.tree.leaves(_idle_rows(1)), strict=True
        ):
            array[slot] = idle[0]

    def decode(self, steps: int) -> Written:
        """Up to `steps` new tokens of each slot that writes; whoever is at its end must `leave`."""
        written, self._cache, self._seen = programs.decode(
            self._params,
            self._cache,
            self._seen,
            self._rows,
            np.int32(steps),
            self._ends,
            config=self._config,
            attention=self._attention,
            most=self.steps,
        )
        written = Written(*map(np.asarray, written))
        rows, count = self._rows, (written.tokens >= 0).sum(axis=1)
        newest = written.tokens[np.arange(len(count)), np.maximum(count - 1, 0)]
        np.copyto(rows.newest, newest, where=count > 0)
        np.add(rows.length, count, out=rows.length, casting="unsafe")
        np.add(rows.made, count, out=rows.made, casting="unsafe")
        return written

    def _mark(self, slot: int, tokens: Sequence[int]) -> None:
        padded = np.full(self.length, self.vocab_size, "int32")
        padded[: len(tokens)] = tokens
        self._seen = programs.mark(self._seen, np.int32(slot), padded)


def _idle_rows(count: int) -> Rows:
    whole, flag, natural = (np.zeros(count, kind) for kind in ("int32", "bool", "uint32"))
    off = np.ones(count, "float32")
    sampling = SamplingRows(off, np.zeros_like(off), whole, off, np.zeros_like(off))
    rows = Rows(whole, whole, whole, whole, flag, natural, natural, flag, flag, sampling)
    return jax.tree.map(np.copy, rows)
