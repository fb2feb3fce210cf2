"""A server that listens: its socket, its connections, and how it is told to stop."""

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from jaxgpt.errors import ConfigError
from jaxgpt.serving.api_errors import ApiError
from jaxgpt.serving.config import ServingConfig
from jaxgpt.serving.guard import HEADER_BYTES, Guard, headers_too_long, to_json
from jaxgpt.terminal import note

_IDLE_SECONDS = 15  # for which a connection is kept for another request
_FLUSH_SECONDS = 2  # for what is written to reach its callers
_SWITCH_SECONDS = 2e-4  # that a thread keeps the interpreter; Python's 5 ms is a token's time


def bind(config: ServingConfig) -> socket.socket:
    """A socket at the host and port, not yet listening.

    Raises ConfigError if they cannot be had.
    """
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"host {config.host} with port {config.port} cannot be listened at: {why}; name "
            "others by --host and --port"
        ) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """Where a browser of this machine reaches a bound socket."""
    name, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, str(name))
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach a bound socket."""
    return ip_address(bound.getsockname()[0]).is_loopback


def listen(
    app: Guard,
    config: ServingConfig,
    bound: socket.socket,
    close: Callable[[float], None],
    ready: Callable[[Callable[[], None]], None],
) -> None:
    """Serve until SIGTERM or SIGINT, and return once all has been put away.

    At the first signal new requests are refused (503) and `close` is called, from another thread,
    with the seconds in which to finish what is being written. A second one ends it at once, by
    SystemExit. `ready` is called as soon as callers are answered, with a function that stops the
    server as a signal does, from any thread; outside of the main thread there are no signals.
    """
    settings = uvicorn.Config(
        app,
        http=_protocol(config.body_timeout),
        loop="asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",  # the guard writes the log
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_FLUSH_SECONDS,
    )
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        asyncio.run(_serve(_Server(settings), app, config, bound, close, ready))
    finally:
        sys.setswitchinterval(before)


async def _serve(
    server: "_Server",
    app: Guard,
    config: ServingConfig,
    bound: socket.socket,
    close: Callable[[float], None],
    ready: Callable[[Callable[[], None]], None],
) -> None:
    loop, exit_code = asyncio.get_running_loop(), 0

    def leave() -> None:
        server.should_exit = True

    def drain() -> None:
        close(config.drain_seconds)
        with contextlib.suppress(RuntimeError):  # it was left at once
            loop.call_soon_threadsafe(leave)

    def stop(number: int) -> None:
        nonlocal exit_code
        if app.closing:
            note("stopped at once")
            exit_code = 128 + number
            server.should_exit = server.force_exit = True
            return
        app.closing = True
        note(f"stopping; what is being written has {config.drain_seconds:g} seconds")
        # None of the loop's own threads, for which a second signal would wait.
        threading.Thread(target=drain, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread
            loop.add_signal_handler(number, stop, number)

    def stop_from_afar() -> None:
        loop.call_soon_threadsafe(stop, signal.SIGTERM)

    loop.call_later(0, ready, stop_from_afar)
    await server.serve(sockets=[bound])
    if exit_code:
        raise SystemExit(exit_code)


class _Server(uvicorn.Server):
    """Uvicorn's server, which leaves signals to its caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _protocol(header_seconds: float) -> type[H11Protocol]:
    """The class of connections on which a request's headers must arrive within some seconds."""

    class Connection(H11Protocol):
        """Connection whose complaints are JSON, and that is not kept for half a request."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._heard()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_answering():
                self._heard()
            else:
                self._wait_for_headers()

        def send_400_response(self, msg: str) -> None:
            """What is no HTTP is refused; headers beyond the most bytes by 431."""
            hint = getattr(sys.exc_info()[1], "error_status_hint", 400)
            if hint == 431:
                self._refuse(headers_too_long())
            else:
                self._refuse(ApiError("this is no request of HTTP"))

        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _wait_for_headers(self) -> None:
            if self._late is None:
                self._late = self.loop.call_later(header_seconds, self._timed_out)

        def _heard(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _timed_out(self) -> None:
            self._late = None
            if not self._is_answering():
                seconds = f"{header_seconds:g} seconds"
                self._refuse(ApiError(f"the headers did not arrive within {seconds}", 408))

        def _refuse(self, error: ApiError) -> None:
            if self._is_answering():  # its body turned out to be no HTTP
                started = self.cycle.response_started
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            else:
                started = False
            if not (started or self.transport.is_closing()):
                body = to_json(error.body())
                self.transport.write(
                    b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\nconnection: close"
                    b"\r\ncontent-length: %d\r\n\r\n%s" % (error.status, len(body), body)
                )
            self.transport.close()

    return Connection
