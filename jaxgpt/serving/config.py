"""Settings of a server. Standard library only."""

import re
from dataclasses import dataclass

from jaxgpt.errors import ConfigError
from jaxgpt.fields import check_range, check_types

_ORIGIN = re.compile(r"https?://[^/\s,]+")


@dataclass(frozen=True)
class ServingConfig:
    """Where a server listens, how much it takes on, and for whom."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is all of this machine's."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    api_key: str = ""
    """What callers must send as `Authorization: Bearer KEY`; better in JAXGPT_API_KEY, which others
    on the machine do not see. Empty asks for none."""
    allow_origin: tuple[str, ...] = ()
    """Web pages of other origins, such as https://example.org, that may call the server; * is all.
    """
    slots: int = 8
    """Answers that are written at once."""
    queue: int = 64
    """Requests that may wait for a slot; one more is refused (429)."""
    context_length: int = 0
    """Tokens of prompt and answer together; 0 is the model's."""
    request_timeout: float = 300.0
    """Seconds for a request's answers, with their wait for a slot, after which it ends with an
    error."""
    body_timeout: float = 20.0
    """Seconds within which a request's headers, and then its body, must arrive."""
    body_limit: int = 1 << 20
    """The most bytes of a request's body."""
    drain_seconds: float = 30.0
    """When told to stop: seconds for what is being written to be finished."""

    def __post_init__(self):
        """Refuse what is outside its range."""
        check_types(self)
        check_range("port", self.port, 0, 65535)
        check_range("slots", self.slots, 1, 1024)
        check_range("queue", self.queue, 0, 100_000)
        check_range("context_length", self.context_length, 0, 1 << 24)
        check_range("request_timeout", self.request_timeout, 0.1, 86_400)
        check_range("body_timeout", self.body_timeout, 0.1, 3600)
        check_range("body_limit", self.body_limit, 1024, 1 << 30)
        check_range("drain_seconds", self.drain_seconds, 0, 3600)
        if not (self.api_key.isascii() and self.api_key.isprintable() and " " not in self.api_key):
            raise ConfigError("api_key has a character that no header can carry; mend it")
        for origin in self.allow_origin:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"allow_origin is {origin!r}; it must be * or like https://example.org, "
                    "without a path"
                )
