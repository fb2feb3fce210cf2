"""Guard before a server's endpoints: who may call, what is answered to failures, the log.

Plain ASGI, with no library.
"""

import asyncio
import hmac
import json
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from ipaddress import ip_address
from typing import Any

from jaxgpt.serving.api_errors import ApiError, as_api_error, stopping
from jaxgpt.serving.config import ServingConfig
from jaxgpt.serving.metrics import Metrics
from jaxgpt.terminal import note, one_line

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADER_BYTES = 16 << 10
"""The most bytes of a request's first line and headers."""
_SEND_SECONDS = 60.0  # for a caller to take what is sent
_AT_ONCE = 4096  # requests that are read or answered
_LONGEST_PATH = 200  # characters of it in the log
_KEYLESS = ("/", "/health")  # what is there without a key


def to_json(value: Any) -> bytes:
    """A value as JSON in ASCII, so that no reader takes a character in it for a line's end."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


class Guard:
    """ASGI application that lets `app` answer what may be asked; `paths` are those it knows.

    On `loopback` a request must name this machine itself.
    """

    def __init__(
        self,
        app: App,
        config: ServingConfig,
        metrics: Metrics,
        paths: Collection[str],
        *,
        loopback: bool,
    ):
        self._app = app
        self._config = config
        self._metrics = metrics
        self._paths = frozenset(paths)
        self._loopback = loopback
        self._open = 0
        self.closing = False
        """Whether nothing new is to be taken on, as the server is stopping."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, in the log and the metrics, too."""
        if scope["type"] != "http":
            return
        began, status = time.monotonic(), 0
        origin = _header(scope, b"origin")

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *self._headers(origin)]
            try:
                async with asyncio.timeout(_SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                raise ConnectionError("the caller does not take what is sent") from None

        self._open += 1
        try:
            if preflight := self._check(scope, origin):
                await _respond(guarded, 204, b"", preflight)
            else:
                await self._app(scope, receive, guarded)
        except ApiError as error:
            if not status:
                headers = [(name.encode(), text.encode()) for name, text in error.headers.items()]
                headers.append((b"content-type", b"application/json"))
                await _respond(guarded, error.status, to_json(error.body()), headers)
        except ConnectionError:
            pass
        except Exception as error:  # a failing request never takes the server down
            note(traceback.format_exc())
            if not status:
                await _respond(
                    guarded,
                    500,
                    to_json(as_api_error(error).body()),
                    [(b"content-type", b"application/json")],
                )
        finally:
            self._open -= 1
            self._report(scope, status, time.monotonic() - began)

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        known = scope["path"] if scope["path"] in self._paths else "other"
        self._metrics.responded(known, status, seconds)
        path = one_line(f"{scope['method']} {scope['path'][:_LONGEST_PATH]}")
        note(f"{(scope.get('client') or ['?'])[0]} {path} {status or 'gone'} {seconds:.2f} s")

    def _check(self, scope: Scope, origin: str) -> list[tuple[bytes, bytes]]:
        """Raise ApiError for what may not be asked; the headers of an answer to a preflight."""
        if self._open > _AT_ONCE:
            raise ApiError(
                f"{_AT_ONCE:,} requests are being answered, the most at once; ask again later",
                503,
                retry_after=5.0,
            )
        sizes = (len(name) + len(value) for name, value in scope["headers"])
        if len(scope["raw_path"]) + len(scope["query_string"]) + sum(sizes) > HEADER_BYTES:
            raise headers_too_long()
        host = _header(scope, b"host")
        # A page whose name was made to mean this machine (DNS rebinding) has its own name here.
        is_own = self._is_own(host)
        if self._loopback and not is_own:
            raise ApiError(
                f"the Host header is {host[:80]!r}; this server answers to 127.0.0.1 and localhost",
                403,
            )
        same = origin in (f"http://{host}", f"https://{host}")
        trusted = same and (is_own or bool(self._config.api_key))  # such a page has no key
        if origin and not trusted and not self._allows(origin):
            raise ApiError(
                f"pages of {origin[:80]!r} may not call this server; it allows others by "
                "--allow-origin",
                403,
            )
        asked = _header(scope, b"access-control-request-headers")
        if scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method"):
            # The CORS preflight of a request from an allowed origin; it carries no key.
            return [
                (b"access-control-allow-methods", b"GET, POST"),
                (b"access-control-allow-headers", asked.encode()),
                (b"access-control-max-age", b"600"),
            ]
        self._check_key(scope)
        if self.closing and scope["path"] != "/metrics":
            raise stopping()
        return []

    def _check_key(self, scope: Scope) -> None:
        key = self._config.api_key
        if not key or scope["path"] in _KEYLESS:
            return
        kind, _, given = _header(scope, b"authorization").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), key.encode())
        if not (same and kind.lower() == "bearer"):
            raise ApiError(
                "the API key is wrong or missing; send it as `Authorization: Bearer KEY`",
                401,
                code="invalid_api_key",
            )

    def _allows(self, origin: str) -> bool:
        return bool({"*", origin} & set(self._config.allow_origin))

    def _is_own(self, host: str) -> bool:
        """Whether a Host is an address, or a name that no stranger can give to this machine."""
        name = _without_port(host)
        if name in ("localhost", self._config.host.lower()):
            return True
        try:
            return bool(ip_address(name.removeprefix("[").removesuffix("]")))
        except ValueError:
            return False

    def _headers(self, origin: str) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
        if origin and self._allows(origin):
            headers += [
                (b"access-control-allow-origin", origin.encode()),
                (b"access-control-expose-headers", b"x-jaxgpt-exchanges-left-out, retry-after"),
                (b"vary", b"origin"),
            ]
        return headers


def headers_too_long() -> ApiError:
    """The answer to more than `HEADER_BYTES`."""
    return ApiError(
        f"the headers have more than {HEADER_BYTES:,} bytes, the most that is read", 431
    )


def _header(scope: Scope, name: bytes) -> str:
    """The value of a header; empty where there is none."""
    found = (value for key, value in scope["headers"] if key.lower() == name)
    return next(found, b"").decode("latin-1")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


async def _respond(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    length = [(b"content-length", str(len(body)).encode())] if status != 204 else []
    await send({"type": "http.response.start", "status": status, "headers": headers + length})
    await send({"type": "http.response.body", "body": body})
