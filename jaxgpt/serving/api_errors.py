"""Errors in OpenAI's form: a status, and one JSON object that says what was wrong."""

from typing import Any

from jaxgpt.assistant.turn_encoder import TooLongError
from jaxgpt.errors import JaxgptError
from jaxgpt.serving.engine_types import Busy, Closing
from jaxgpt.terminal import one_line

_LONGEST = 2000  # characters of a message
TOO_LONG = "context_length_exceeded"
"""The code of a prompt for which the context has no room."""


class ApiError(JaxgptError):
    """Answer to a request that is refused: `status`, and the fields of OpenAI's error object."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, round(retry_after)))
        if status in (408, 413, 431):  # what else is sent is not to be read as a request
            self.headers["connection"] = "close"
        elif status == 401:
            self.headers["www-authenticate"] = "Bearer"

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        message = one_line(str(self))
        return {
            "error": {
                "message": message if len(message) <= _LONGEST else message[:_LONGEST] + "...",
                "type": _TYPES.get(self.status, _kind(self.status)),
                "param": self.param,
                "code": self.code,
            }
        }


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _kind(status: int) -> str:
    return "invalid_request_error" if status < 500 else "server_error"


def as_api_error(error: Exception) -> ApiError:
    """The answer to a request that ended in `error`; 500 for what nobody foresaw."""
    match error:
        case ApiError():
            return error
        case Busy(retry_after=seconds):
            return ApiError(str(error), 429, code="queue_full", retry_after=seconds)
        case Closing():
            return stopping()
        case TooLongError():
            return ApiError(str(error), param="messages", code=TOO_LONG)
        case JaxgptError():
            return ApiError(str(error))
        case _:
            return ApiError("the server failed at this; its log says more", 500)


def stopping() -> ApiError:
    """The answer while the server is stopping."""
    return ApiError("the server is stopping; ask again later", 503, retry_after=5)
