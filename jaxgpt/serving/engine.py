"""Engine: answers for many callers at once, a few tokens of each at a time, in a thread of its own.

The batch has a fixed number of slots. A request takes a free one: its prompt is taken in by chunks,
between which the others go on being written; then it is written with them, and leaves as it ends.
No shape depends on who is served, so that nothing is compiled after the start, and an answer does
not depend on the others.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import jax

from jaxgpt.errors import ConfigError
from jaxgpt.fields import check, check_range
from jaxgpt.generation.text import LanguageModel
from jaxgpt.serving.answer import Answer, Job
from jaxgpt.serving.batch import Batch
from jaxgpt.serving.engine_types import Busy, Chunk, Closing, EngineStats, Request, Ticket
from jaxgpt.serving.prefixes import can_share
from jaxgpt.serving.schedule import Schedule

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Engine:
    """Writer of many answers at once, by one model.

    A batch of `slots` answers is written, and up to `queue` requests wait for a slot. Where all are
    taken, `tokens_per_dispatch` tokens of each are written at a time, else one, so that whoever
    comes need not wait. A prompt is taken in by chunks of `prefill_chunk` tokens.
    `context_length` is the most tokens of prompt and answer, for which each slot has a cache; 0 is
    the model's. Raises ConfigError for a number outside its range.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        slots: int = 8,
        queue: int = 64,
        context_length: int = 0,
        tokens_per_dispatch: int = 4,
        prefill_chunk: int = 64,
    ):
        check_range("slots", slots, 1, 1024)
        check_range("queue", queue, 0, 100_000)
        check_range("tokens_per_dispatch", tokens_per_dispatch, 1, 64)
        check_range("prefill_chunk", prefill_chunk, 1, 8192)
        if context_length:
            check_range("context_length", context_length, 2, model.config.context_length)
        self.context_length = context_length or model.config.context_length
        chunk = min(prefill_chunk, self.context_length)
        self._tokenizer, self._queue = model.tokenizer, queue
        self._batch = Batch(model, slots, self.context_length, tokens_per_dispatch, chunk)
        share = can_share(model.config, self.context_length)
        self._schedule = Schedule(self._batch, share=share)
        self._thread: threading.Thread | None = None
        self._wake = threading.Condition()
        self._deadline: float | None = None  # once it is closing
        self._compiles = 0
        self._failure = ""

    def start(self) -> None:
        """Compile all there is to compile, and begin to serve; once."""
        check(self._thread is None, "the engine was started before")
        warm: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(warm,), name="jaxgpt-engine", daemon=True
        )
        self._thread.start()
        warm.result()

    def submit(self, request: Request, on_chunk: Callable[[Chunk], None]) -> Ticket:
        """Ask for an answer, whose pieces `on_chunk` is given, in order, in the engine's thread.

        The last one has a `finish_reason`. All answers wait while `on_chunk` runs; if it raises,
        its own ends. From any thread. Raises ConfigError for a prompt that does not fit the model
        or leaves no room for an answer, Busy where as many requests wait as may, and Closing after
        `close`.
        """
        for token in (min(request.prompt), max(request.prompt)):
            check_range("a token of the prompt", token, 0, self._batch.vocab_size - 1)
        length, room = len(request.prompt), self.context_length - len(request.prompt)
        if room < 1:
            raise ConfigError(
                f"the prompt has {length} tokens; the context of {self.context_length} is for it "
                "and the answer, so shorten it"
            )
        job = Job(
            request,
            on_chunk,
            Ticket(),
            Answer(request, self._tokenizer),
            limit=min(request.max_new_tokens, room),
            since=time.monotonic(),
        )
        with self._wake:
            if self._deadline is not None:
                raise Closing
            schedule, waiting = self._schedule, len(self._schedule.waiting)
            if waiting >= self._queue + self._batch.slots - schedule.busy:
                turns = waiting / self._batch.slots + 1
                raise Busy(waiting, max(1.0, schedule.seconds * turns))
            schedule.waiting.append(job)
            self._wake.notify_all()
        return job.ticket

    def stats(self) -> EngineStats:
        """Counts until now; from any thread."""
        return replace(self._schedule.stats(self._compiles), failure=self._failure)

    def close(self, seconds: int | float) -> None:
        """Take no more requests, and return once all have ended: after `seconds`, by cancelling.

        From any thread but the engine's own.
        """
        with self._wake:
            if self._deadline is None:
                self._deadline = time.monotonic() + seconds
            self._wake.notify_all()
        if self._thread is None:
            self._schedule.step(late=True)
        else:
            self._thread.join()

    def _serve(self, warm: Future[None]) -> None:
        """Serve until all is done after `close`, or until the device fails for good."""
        try:  # in this thread, for whose settings of JAX the programs are compiled
            self._batch.warm_up()
        except BaseException as error:
            return warm.set_exception(error)
        jax.monitoring.register_event_duration_secs_listener(self._count_compiles)
        warm.set_result(None)
        try:
            while self._wait_for_work():
                late = self._deadline is not None and time.monotonic() > self._deadline
                self._schedule.step(late=late)
        except Exception as error:
            with self._wake:
                self._failure = repr(error)
                self._deadline = time.monotonic()
            self._schedule.refuse(error)
        jax.monitoring.unregister_event_duration_listener(self._count_compiles)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False once there never will be."""
        schedule = self._schedule
        with self._wake:
            while not schedule.has_work and self._deadline is None:
                self._wake.wait()
            return bool(schedule.waiting or schedule.busy or self._deadline is None)

    def _count_compiles(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        del duration_secs, kwargs
        own = self._thread is not None and threading.get_ident() == self._thread.ident
        self._compiles += event == _COMPILED and own
