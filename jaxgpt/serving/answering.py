"""Work of a request -> its answers: chunks of an engine's thread, taken up by the event loop."""

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from jaxgpt.errors import JaxgptError
from jaxgpt.serving.api_errors import ApiError, as_api_error, stopping
from jaxgpt.serving.engine_types import Chunk, Ticket
from jaxgpt.serving.forms import ChatForm, CompletionForm, Written, usage_of
from jaxgpt.serving.served import Work, Writer
from jaxgpt.terminal import note

Result = TypeVar("Result")
Form = ChatForm | CompletionForm


class Answers:
    """Answers of one request, from an engine, within `seconds` in all."""

    def __init__(self, engine: Writer, work: Work, seconds: float):
        self._engine = engine
        self._work = work
        self._seconds = seconds
        self._tickets: list[Ticket] = []
        self._new_tokens = 0

    async def chunks(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        """Each chunk as it comes, with the number of its answer.

        All answers end with the generator, however that ends. Raises Busy, Closing, ApiError (504)
        where time is up, (503) where the server stops, (500) where the engine failed at one.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[int, Chunk]] = asyncio.Queue()
        ends = time.monotonic() + self._seconds

        def take(index: int, chunk: Chunk) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, (index, chunk))

        try:
            for index, request in enumerate(self._work.requests):
                self._tickets.append(self._engine.submit(request, partial(take, index)))
            unfinished = len(self._tickets)
            while unfinished:
                index, chunk = await self._next(pieces, ends)
                self._new_tokens += len(chunk.tokens)
                if chunk.finish_reason == "cancelled":
                    raise stopping()
                if chunk.finish_reason == "error":
                    note(f"an answer failed: {self._tickets[index].failure!r}")
                    raise ApiError(
                        "the model failed at this answer; the server's log says more", 500
                    )
                unfinished -= chunk.finish_reason is not None
                yield index, chunk
        finally:
            for ticket in self._tickets:
                ticket.cancel()

    async def _next(
        self, pieces: asyncio.Queue[tuple[int, Chunk]], ends: float
    ) -> tuple[int, Chunk]:
        try:
            async with asyncio.timeout(ends - time.monotonic()):
                return await pieces.get()
        except TimeoutError:
            raise ApiError(
                f"the answer was not done within {self._seconds:g} seconds; ask for fewer tokens",
                504,
                code="request_timeout",
            ) from None

    def usage(self) -> dict[str, Any]:
        """The numbers of tokens, complete once the chunks are."""
        pairs = zip(self._work.requests, self._tickets, strict=True)
        cached = sum(ticket.cached_tokens for request, ticket in pairs if not request.sample_index)
        return usage_of(self._work.prompt_tokens, cached, self._new_tokens)

    async def whole(self, form: Form) -> dict[str, Any]:
        """The response that has them all; raises as `chunks`."""
        written = [Written() for _ in self._work.requests]
        async with aclosing(self.chunks()) as chunks:
            async for index, chunk in chunks:
                written[index].add(chunk)
        return form.whole(written, self.usage())

    async def events(
        self, form: Form, *, include_usage: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a stream; what goes wrong behind the first is an event too.

        The first comes with the first chunk, and what is raised before it is as of `chunks`.
        """
        started = False
        try:
            async with aclosing(self.chunks()) as chunks:
                async for index, chunk in chunks:
                    if not started:
                        for event in form.start(len(self._work.requests)):
                            yield event
                        started = True
                    for event in form.event(index, chunk):
                        yield event
            if include_usage:
                yield form.usage_event(self.usage())
        except Exception as error:
            if not started:
                raise
            if not isinstance(error, JaxgptError):
                note(traceback.format_exc())
            yield as_api_error(error).body()


async def unless(gone: Awaitable[Any], work: Awaitable[Result]) -> Result | None:
    """The result of `work`; or None, with the work cancelled, once `gone` is done before it."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(gone)
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


async def while_there(receive: Callable[[], Awaitable[Any]], work: Awaitable[Result]) -> Result:
    """The result of `work`; once the caller has left, it is cancelled and ConnectionError raised.

    The request's body has been received.
    """
    result = await unless(gone(receive), work)
    if result is None:
        raise ConnectionError("the caller is gone")
    return result


async def gone(receive: Callable[[], Awaitable[Any]]) -> None:
    """Wait until the caller has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
