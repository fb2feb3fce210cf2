"""Which of two answers is better, as judged by a language model behind a URL (LLM as a judge)."""

import http.client
import ipaddress
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Literal
from urllib.error import HTTPError

from jaxgpt.errors import ConfigError, DataError
from jaxgpt.fields import check_range, check_types

_SYSTEM = (
    "You compare two answers to a question. The better one is correct, does what was asked, and "
    "says no more than that. Neither the order of the answers nor their length counts. Reply with "
    "one word: A, B, or tie."
)
_LONGEST_REPLY = 1 << 20  # bytes
_FIRST_WAIT = 1.0  # seconds
_STANDARD_KEY = "OPENAI_API_KEY"

Verdict = Literal["A", "B", "tie"]
_VERDICTS: dict[str, Verdict] = {"a": "A", "b": "B", "tie": "tie"}


@dataclass(frozen=True)
class Judge:
    """A model behind an OpenAI-compatible API, asked at temperature 0."""

    url: str
    """Where the API is, such as http://localhost:8000/v1; /chat/completions is added."""
    model: str
    """The model's name there."""
    key_variable: str = ""
    """The environment variable with the API key, which is sent wherever url says. By default
    OPENAI_API_KEY, which is sent over https or within this machine only."""
    timeout: float = 60.0
    """The longest silence of the server, in seconds."""
    retries: int = 5
    """Times to ask again where the server is busy (429), failing (5xx) or silent: after a second,
    and then after twice as long each time."""

    def __post_init__(self):
        """Refuse what no server could be asked with."""
        check_types(self)
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url is {self.url!r}; it must begin with http:// or https://")
        try:
            urllib.parse.urlsplit(self.url)
        except ValueError as error:
            raise ConfigError(f"url is {self.url!r}, which is none: {error}") from None
        check_range("timeout", self.timeout, 0.001, 3600)
        check_range("retries", self.retries, 0, 10)

    def compare(self, question: str, first: str, second: str) -> Verdict | None:
        """Which answer is better, A (the first) or B; None if the reply is no such word.

        Raises DataError for a server that cannot be reached, refuses, or does not speak this API;
        ConfigError for an API key that cannot be sent.
        """
        text = f"Question:\n{question}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}"
        messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}]
        body = {"model": self.model, "messages": messages, "temperature": 0}
        reply = self._post(json.dumps(body).encode())
        try:
            content = json.loads(reply)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise DataError(
                f"{self._endpoint}: the reply is not that of an OpenAI-compatible server, JSON "
                "with choices[0].message.content; check the URL"
            ) from None
        return _VERDICTS.get(content.strip().lower()) if isinstance(content, str) else None

    @property
    def _endpoint(self) -> str:
        return self.url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"

    def _post(self, body: bytes) -> bytes:
        key, tries = self._key(), 0
        headers = {"Content-Type": "application/json", "User-Agent": "jaxgpt"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        opener = urllib.request.build_opener(_NoRedirects)
        while True:
            try:
                request = urllib.request.Request(self._endpoint, body, headers)
                with opener.open(request, timeout=self.timeout) as response:
                    return response.read(_LONGEST_REPLY)
            except (OSError, http.client.HTTPException, ValueError) as error:
                if tries == self.retries or not _may_pass(error):
                    raise DataError(f"{self._endpoint}: {self._explain(error, key)}") from None
                if isinstance(error, HTTPError):
                    error.close()
            time.sleep(_FIRST_WAIT * 2**tries)
            tries += 1

    def _key(self) -> str:
        name = self._variable
        key = os.environ.get(name, "").strip()
        if not (key.isascii() and key.isprintable()):  # urllib's complaint would print it
            raise ConfigError(f"{name} holds a character that no API key has; mend it")
        if key and not self.key_variable and not _is_private(self.url):
            raise ConfigError(
                f"{name} is set, but to {self.url} it would be sent in clear; take an https url, "
                f"unset {name}, or allow it by --key-variable {name}"
            )
        return key

    @property
    def _variable(self) -> str:
        return self.key_variable or _STANDARD_KEY

    def _explain(self, error: Exception, key: str) -> str:
        if not isinstance(error, HTTPError):
            reason = getattr(error, "reason", error)
            return f"cannot be reached ({reason}); check the URL, or whether the server runs"
        with error:
            if error.code in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
                return f"the API key is refused ({error.code}); set {self._variable} to another"
            tries = f" after {self.retries + 1} tries" if _may_pass(error) else ""
            said = error.read(1000).decode(errors="replace")
        said = " ".join((said.replace(key, "***") if key else said).split())[:200]
        return f"status {error.code}{tries}; check the URL and the model {self.model!r}: {said}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another place; it becomes an HTTPError instead."""

    def redirect_request(self, *_):
        """Follow none; called by urllib."""


def _is_private(url: str) -> bool:
    """Whether nobody can read on the way what is sent to `url`."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:  # a name
        return False


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, HTTPError):
        return error.code == http.HTTPStatus.TOO_MANY_REQUESTS or error.code >= 500
    reason = getattr(error, "reason", error)
    return isinstance(reason, TimeoutError | ConnectionResetError | http.client.IncompleteRead)
