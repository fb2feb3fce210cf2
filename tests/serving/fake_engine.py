"""An engine that computes nothing: each answer is a text that it was given, token by token."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from jaxgpt.serving.engine_types import Busy, Chunk, Closing, EngineStats, Ticket, Token


class FakeEngine:
    """Engine with slots and a queue, whose answers are `text`, a token each `seconds`."""

    def __init__(self, tokenizer, *, slots=4, queue=4, text="Finn ran to sea.", seconds=0.0):
        self.tokenizer = tokenizer
        self.slots, self.queue = slots, queue
        self.text, self.seconds = text, seconds
        self.requests = []
        self.fails = False
        self.finished = Counter()
        self.closing = threading.Event()
        self._pool = ThreadPoolExecutor(slots)
        self._lock = threading.Lock()
        self._busy = self._waiting = 0

    def submit(self, request, on_chunk):
        if self.closing.is_set():
            raise Closing
        with self._lock:
            if self._busy + self._waiting >= self.slots + self.queue:
                raise Busy(self._waiting, 7.0)
            self._waiting += 1
            self.requests.append(request)
        ticket = Ticket()
        ticket.cached_tokens = 2
        self._pool.submit(self._work, request, ticket, on_chunk)
        return ticket

    def _work(self, request, ticket, on_chunk):
        with self._lock:
            self._waiting, self._busy = self._waiting - 1, self._busy + 1
        try:
            why = self._write(request, ticket, on_chunk)
        finally:
            with self._lock:
                self._busy -= 1
                self.finished[why] += 1
        on_chunk(Chunk("", (), why))

    def _write(self, request, ticket, on_chunk):
        ids = self.tokenizer.encode(self.text)
        for place, token in enumerate(ids):
            if place == request.max_new_tokens:
                return "length"
            if ticket.cancelled or self.closing.is_set():
                return "cancelled"
            if self.fails and place == 2:
                ticket.failure = FloatingPointError("its logits are not finite")
                return "error"
            time.sleep(self.seconds)
            piece = self.tokenizer.decode([token])
            if any(text in piece for text in request.stop):
                return "stop"
            top = tuple((other, -float(other)) for other in range(request.top_logprobs or 0))
            logprob = None if request.top_logprobs is None else -0.5
            on_chunk(Chunk(piece, (Token(token, logprob, top),)))
        return "stop"

    def stats(self):
        with self._lock:
            return EngineStats(self.slots, self._busy, self._waiting, 1, 2, 3, 0, {**self.finished})

    def close(self, seconds):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and self.stats().busy:
            time.sleep(0.01)
        self.closing.set()
        self._pool.shutdown()
