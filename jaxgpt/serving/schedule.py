"""Schedule of the slots: who enters, who is written, and who has ended, one dispatch at a time."""

import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress

from jaxgpt.serving.answer import Job, tokens_of
from jaxgpt.serving.batch import Batch
from jaxgpt.serving.engine_types import Chunk, EngineStats, FinishReason, Token
from jaxgpt.serving.prefixes import Slot, place
from jaxgpt.serving.programs import ENDED, FAILED, Written

_PROMPTS_SHARE = 2.0
"""Seconds for a prompt that waits, to each second in which the others are written."""


class Schedule:
    """The slots of a batch and those who wait for one.

    `step` is called by one thread; others may add to what is `waiting`, and read. With `share`,
    prompts that begin alike are computed once.
    """

    def __init__(self, batch: Batch, *, share: bool):
        self.waiting: deque[Job] = deque()
        self.seconds = 1.0
        """How long a request lately took, from its submission on."""
        self._batch, self._share = batch, share
        self._slots = [Slot(index) for index in range(batch.slots)]
        self._entering: Slot | None = None
        self._token_seconds = 0.0  # that a token of all answers lately took
        self._finished: Counter[FinishReason] = Counter()
        self._prompt_tokens = self._cached_tokens = self._new_tokens = self._begun = 0

    @property
    def busy(self) -> int:
        """Slots that are taken."""
        return sum(slot.job is not None for slot in self._slots)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything, be it only to keep a text for its next turn."""
        return bool(self.waiting or self.busy or self._unkept())

    def stats(self, compiles: int) -> EngineStats:
        """Counts until now."""
        return EngineStats(
            slots=len(self._slots),
            busy=self.busy,
            queued=len(self.waiting),
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            new_tokens=self._new_tokens,
            compiles=compiles,
            finished=dict(self._finished),
        )

    def step(self, *, late: bool) -> None:
        """Do what is next: some chunks of one prompt, then some tokens of all answers.

        Where it is `late`, end all. What fails ends the answers that it was for; raises where the
        device has no new arrays after that.
        """
        try:
            self._cancel(late)
            self._begin()
            self._take_in()
            if self._writing():
                self._write()
            elif self._entering is None and not self.waiting:
                self._keep()
        except Exception as error:  # of a program; the arrays that it was given are used up
            for slot in self._slots:
                self._fail(slot, error)
            self._batch.reset()

    def refuse(self, error: Exception) -> None:
        """End by an error all that wait, as nothing can be written any more."""
        while self.waiting:
            job = self.waiting.popleft()
            job.ticket.failure = error
            self._tell_end(job, "error")

    def _writing(self) -> list[tuple[Slot, Job]]:
        found = [(slot, slot.job) for slot in self._slots if slot is not self._entering]
        return [(slot, job) for slot, job in found if job is not None]

    def _cancel(self, late: bool) -> None:
        for slot in self._slots:
            if slot.job is not None and (late or slot.job.ticket.cancelled):
                self._end(slot, slot.job, "cancelled")
        # A copy, as others add to it meanwhile.
        for job in [job for job in list(self.waiting) if late or job.ticket.cancelled]:
            self.waiting.remove(job)
            self._tell_end(job, "cancelled")

    def _begin(self) -> None:
        """Give the first that wait a slot, until one has a prompt to be taken in."""
        while self.waiting and self._entering is None and self.busy < len(self._slots):
            job = self.waiting[0]
            prompt, chunk = job.request.prompt, self._batch.chunk
            slot, source, count = place(self._slots, prompt, chunk, share=self._share)
            self.waiting.popleft()
            # Where the copy fails, it is this slot's.
            slot.job, slot.tokens, slot.taken_in = job, list(prompt), count
            self._begun += 1
            slot.begun = self._begun
            if source is not slot:
                self._batch.copy(slot.index, None if source is None else source.index)
            job.ticket.cached_tokens = count
            self._prompt_tokens += len(prompt)
            self._cached_tokens += count
            self._entering = slot
            self._enter_if_taken_in(slot, job)

    def _take_in(self) -> None:
        """Compute some of the prompt of whoever enters, for a time that the others can spare."""
        end = time.monotonic() + _PROMPTS_SHARE * self._token_seconds
        while self._entering is not None and self._entering.job is not None:
            slot, job = self._entering, self._entering.job
            self._take_chunk(slot, len(job.request.prompt) - 1)
            self._enter_if_taken_in(slot, job)
            if time.monotonic() > end:
                return

    def _take_chunk(self, slot: Slot, end: int) -> None:
        """Compute the next chunk of a slot's text, up to `end`."""
        start = slot.taken_in // self._batch.chunk * self._batch.chunk
        end = min(start + self._batch.chunk, end)
        self._batch.take_in(slot.index, slot.tokens[start:end], start)
        slot.taken_in = end

    def _enter_if_taken_in(self, slot: Slot, job: Job) -> None:
        """Let a slot write from the next dispatch on, which takes the prompt's last token in."""
        if slot.taken_in == len(job.request.prompt) - 1:
            self._batch.enter(slot.index, job.request, job.limit)
            self._entering = None

    def _write(self) -> None:
        """Write some tokens of all answers: one, where somebody waits for the first or may come."""
        slots, begun = self._writing(), time.monotonic()
        first = any(len(slot.tokens) == len(job.request.prompt) for slot, job in slots)
        steps = 1 if first or len(slots) < len(self._slots) else self._batch.steps
        written = self._batch.decode(steps)
        self._token_seconds = (time.monotonic() - begun) / steps
        for slot, job in slots:
            try:
                self._show(slot, job, written)
            except Exception as error:  # of this answer alone
                self._fail(slot, error)

    def _show(self, slot: Slot, job: Job, written: Written) -> None:
        codes = written.tokens[slot.index]
        new = codes[codes >= 0].tolist()
        slot.tokens += new
        self._new_tokens += len(new)
        text, tokens = job.answer.write(tokens_of(job.request, written, slot.index, new))
        if FAILED in codes:
            raise FloatingPointError("the model's logits are not finite")
        if job.answer.stopped or ENDED in codes:
            self._end(slot, job, "stop", text, tokens)
        elif len(slot.tokens) == len(job.request.prompt) + job.limit:
            self._end(slot, job, "length", text, tokens)
        elif text or tokens:
            job.on_chunk(Chunk(text, tuple(tokens)))

    def _end(
        self,
        slot: Slot,
        job: Job,
        reason: FinishReason,
        text: str = "",
        tokens: Sequence[Token] = (),
    ) -> None:
        """Free a slot, and tell the caller."""
        self._batch.leave(slot.index)
        slot.job = None
        if slot is self._entering:
            self._entering = None
        self.seconds += 0.2 * (time.monotonic() - job.since - self.seconds)
        self._tell_end(job, reason, text, tokens)

    def _tell_end(
        self, job: Job, reason: FinishReason, text: str = "", tokens: Sequence[Token] = ()
    ) -> None:
        self._finished[reason] += 1
        with suppress(Exception):  # the answer has ended, whatever the caller makes of it
            job.on_chunk(job.answer.finish(text, tokens, reason))

    def _fail(self, slot: Slot, error: Exception) -> None:
        """End a slot's answer by an error; none of its keys and values is used again."""
        slot.taken_in, slot.tokens = 0, []
        if slot.job is not None:
            slot.job.ticket.failure = error
            self._end(slot, slot.job, "error")

    def _unkept(self) -> Slot | None:
        """The free slot used last of those whose answer was not taken in by chunks yet."""
        chunk = self._batch.chunk
        found = [
            slot
            for slot in self._slots
            if slot.job is None and slot.taken_in // chunk < len(slot.tokens) // chunk
        ]
        return max(found, key=lambda slot: slot.begun) if self._share and found else None

    def _keep(self) -> None:
        """Take in a chunk of an answer, while nobody waits, so that the next turn goes on there."""
        slot = self._unkept()
        if slot is not None:
            chunk = self._batch.chunk
            self._take_chunk(slot, len(slot.tokens) // chunk * chunk)
