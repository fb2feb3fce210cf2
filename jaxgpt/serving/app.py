"""Endpoints of a server: OpenAI's, its health and metrics, and the page."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from jaxgpt.errors import JaxgptError
from jaxgpt.serving.answering import Answers, gone, unless, while_there
from jaxgpt.serving.api_errors import ApiError, as_api_error
from jaxgpt.serving.bodies import AnswerSettings, read_chat, read_completion, read_json_body
from jaxgpt.serving.config import ServingConfig
from jaxgpt.serving.forms import ChatForm, CompletionForm
from jaxgpt.serving.guard import Guard, to_json
from jaxgpt.serving.inside import InsideBody, inside, read_inside
from jaxgpt.serving.metrics import CONTENT_TYPE, Metrics
from jaxgpt.serving.page import page_headers, read_page
from jaxgpt.serving.served import ServedModel, Work

Result = TypeVar("Result")
_LEFT_OUT = "x-jaxgpt-exchanges-left-out"
_JSON = "application/json"
_LOOKS = 8  # looks inside that wait or are computed
_DISCARDED = 16  # times the most bytes are read and dropped, so that the caller reads the refusal


def make_app(served: ServedModel, config: ServingConfig, *, loopback: bool = True) -> Guard:
    """The application that serves a model; `loopback` says that only this machine reaches it."""
    server = _Server(served, config)
    routes = {
        "/": (server.page, "GET"),
        "/health": (server.health, "GET"),
        "/metrics": (server.metrics_page, "GET"),
        "/v1/models": (server.models, "GET"),
        "/v1/models/{name:path}": (server.one_model, "GET"),
        "/v1/chat/completions": (server.chat, "POST"),
        "/v1/completions": (server.complete, "POST"),
        "/v1/inside": (server.inside, "POST"),
    }
    app = Starlette(
        routes=[Route(path, to, methods=[method]) for path, (to, method) in routes.items()],
        exception_handlers={
            HTTPException: _no_such,
            ConnectionError: _left,
            JaxgptError: _refused,
            Exception: _refused,  # and the guard says in the log what it was
        },
    )
    app.router.redirect_slashes = False
    return Guard(app, config, server.metrics, routes, loopback=loopback)


async def _no_such(request: Request, error: Exception) -> Response:
    """The answer for an unknown path, or another method than a path has."""
    assert isinstance(error, HTTPException)
    refusal = ApiError(
        f"{request.method} {request.url.path[:80]}: {error.detail}", error.status_code
    )
    refusal.headers |= dict(error.headers or {})
    return _json(refusal.body(), error.status_code, refusal.headers)


async def _refused(request: Request, error: Exception) -> Response:
    refusal = as_api_error(error)
    return _json(refusal.body(), refusal.status, refusal.headers)


async def _left(request: Request, error: Exception) -> Any:
    """No answer, for who is not there any more."""


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, media_type=_JSON)


class _Server:
    """What the endpoints share."""

    def __init__(self, served: ServedModel, config: ServingConfig):
        self._served = served
        self._config = config
        self.metrics = Metrics(served.engine.stats)
        # One at a time, as the attention of a look takes the square of its tokens in memory; and a
        # look whose caller left keeps the thread until it is done.
        self._looker = ThreadPoolExecutor(1)
        self._looks = 0

    async def page(self, request: Request) -> Response:
        """The page to talk to the model."""
        html = read_page()
        return Response(html, headers=page_headers(html), media_type="text/html")

    async def health(self, request: Request) -> Response:
        """That the server is well, and how busy; 503 once nothing can be written any more."""
        stats = self._served.engine.stats()
        counts = {"slots": stats.slots, "busy": stats.busy, "queued": stats.queued}
        found = {"status": "failed" if stats.failure else "ok", "model": self._served.name}
        return _json(found | counts, 503 if stats.failure else 200)

    async def metrics_page(self, request: Request) -> Response:
        """The metrics."""
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def models(self, request: Request) -> Response:
        """The list of models, which has one."""
        return _json({"object": "list", "data": [self._served.describe()]})

    async def one_model(self, request: Request) -> Response:
        """A model by its name."""
        self._served.check_name(request.path_params["name"])
        return _json(self._served.describe())

    async def chat(self, request: Request) -> Response:
        """Answers to a conversation."""
        body = await self._read(request, read_chat)
        work = await asyncio.to_thread(self._served.chat, body)
        return await self._answer(request, work, ChatForm, body.options)

    async def complete(self, request: Request) -> Response:
        """Texts that go on from prompts."""
        body = await self._read(request, read_completion)
        work = await asyncio.to_thread(self._served.complete, body)
        return await self._answer(
            request, work, partial(CompletionForm, echoed=work.echoed), body.options
        )

    async def inside(self, request: Request) -> Response:
        """A look inside an answer."""
        body = await self._read(request, read_inside)
        if self._looks >= _LOOKS:
            raise ApiError(
                f"{self._looks} looks inside are asked for already, the most at once; ask again "
                "later",
                429,
                code="queue_full",
                retry_after=2.0,
            )
        seconds = self._config.request_timeout
        self._looks += 1
        try:
            async with asyncio.timeout(seconds):
                content = await while_there(request.receive, self._look(body))
                return Response(content, media_type=_JSON)
        except TimeoutError:
            raise ApiError(
                f"the look inside was not done within {seconds:g} seconds; ask again later",
                504,
                code="request_timeout",
            ) from None
        finally:
            self._looks -= 1

    async def _look(self, body: InsideBody) -> bytes:
        def look() -> bytes:
            return to_json(inside(self._served, body))

        return await asyncio.get_running_loop().run_in_executor(self._looker, look)

    async def _answer(
        self,
        request: Request,
        work: Work,
        form_of: Callable[..., ChatForm | CompletionForm],
        options: AnswerSettings,
    ) -> Response:
        form = form_of(
            self._served.name,
            self._served.model.tokenizer,
            with_logprobs=options.top_logprobs is not None,
            include_usage=options.include_usage,
            own=work.told,
        )
        answers = Answers(self._served.engine, work, self._config.request_timeout)
        left_out = work.told.get("exchanges_left_out")
        headers = {_LEFT_OUT: str(left_out)} if left_out else {}
        if options.stream:
            events = answers.events(form, include_usage=options.include_usage)
            return _EventStream(events, headers, self.metrics.first_token)
        return _json(await while_there(request.receive, answers.whole(form)), headers=headers)

    async def _read(self, request: Request, read: Callable[[dict[str, Any]], Result]) -> Result:
        """What the body of a request asks for; raises ApiError."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON:
            raise ApiError(
                f"the content type is {kind[:80] or 'not given'!r}; it must be {_JSON}",
                415,
            )
        if request.headers.get("content-encoding", "identity") != "identity":
            raise ApiError("bodies are read as they are; drop the Content-Encoding", 415)
        try:
            async with asyncio.timeout(self._config.body_timeout):
                content = await self._content(request)
        except TimeoutError:
            raise ApiError(
                f"the body did not arrive within {self._config.body_timeout:g} seconds", 408
            ) from None
        except ClientDisconnect:
            raise ConnectionError("the caller is gone") from None
        return await asyncio.to_thread(lambda: read(read_json_body(content)))

    async def _content(self, request: Request) -> bytes:
        limit, size, parts = self._config.body_limit, 0, []
        async for part in request.stream():
            size += len(part)
            if size <= limit:
                parts.append(part)
            elif size > _DISCARDED * limit:
                break
        if size > limit:
            raise ApiError(f"the body has more than {limit:,} bytes, the most that is read", 413)
        return b"".join(parts)


class _EventStream(Response):
    """Response of server-sent events, which ends with its caller."""

    def __init__(
        self,
        events: AsyncGenerator[dict[str, Any], None],
        headers: dict[str, str],
        first: Callable[[float], None],
    ):
        self._events = events
        self._first = first
        self._began = time.monotonic()
        self.status_code = 200
        self.media_type = "text/event-stream"
        self.background = None
        self.body = b""
        self.init_headers(headers | {"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; what is raised before the first is not yet answered."""
        with suppress(ConnectionError):
            await unless(gone(receive), self._send(send))

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            started = False
            async for event in events:
                if not started:
                    self._first(time.monotonic() - self._began)
                    start = {"type": "http.response.start", "status": 200}
                    await send(start | {"headers": self.raw_headers})
                    started = True
                await send(_part(to_json(event)))
            await send(_part(b"[DONE]"))
            await send({"type": "http.response.body", "body": b""})


def _part(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True}
