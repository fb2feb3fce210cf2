"""Fields of a JSON object in a request, each taken once, with its name in every complaint."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.errors import ConfigError, brief, nearest
from jaxgpt.fields import check_range, typed
from jaxgpt.serving.api_errors import ApiError

HARMLESS = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("prompt_cache_retention", "parallel_tool_calls", "refusal", "annotations"),
)
"""What OpenAI's requests may hold that does not change what is written: taken and left alone."""
LACKING: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_call_id": (),
    "tool_calls": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""What they may hold that is not built here, and its values that ask for nothing."""


class Fields:
    """Fields of an object that are left to be taken; null counts as not given."""

    def __init__(self, values: Mapping[str, Any], where: str = ""):
        self._left = {name: value for name, value in values.items() if value is not None}
        self._where = f"{where}." if where else ""
        self._known: list[str] = []

    def take(self, name: str, hint: Any, default: Any) -> Any:
        """The value of a field as the type `hint`, or `default`; raises ApiError for another."""
        self._known.append(name)
        if name not in self._left:
            return default
        value = self._left.pop(name)
        try:
            return value if hint is Any else typed(name, value, hint)
        except ConfigError as error:
            raise self._refusal(name, str(error)) from None

    def within(self, name: str, least: int, most: int, default: Any) -> Any:
        """The whole number of a field, in its range, or `default`."""
        value = self.take(name, int, None)
        if value is None:
            return default
        try:
            check_range(name, value, least, most)
        except ConfigError as error:
            raise self._refusal(name, str(error)) from None
        return value

    def choice(self, name: str, among: Sequence[str], *, required: bool = False) -> str:
        """The value of a field, one of `among`; the first of them where it is not given."""
        value = self.take(name, Any, None if required else among[0])
        if not isinstance(value, str) or value not in among:
            said = f"{name} is {brief(value)}; it must be one of {', '.join(among)}"
            raise self._refusal(name, said)
        return value

    def finish(self) -> None:
        """Raise ApiError for a field that nobody took, unless it changes nothing."""
        for name, value in self._left.items():
            if name in HARMLESS or any(value == nothing for nothing in LACKING.get(name, ())):
                continue
            if name in LACKING:
                nothing = " or ".join(map(repr, LACKING[name]))
                allowed = f"leave it out{', or say ' + nothing if nothing else ''}"
                raise self._refusal(name, f"{name} is not built here; {allowed}")
            close = nearest(name, self._known)
            raise self._refusal(name[:80], f"there is no field {brief(name)}{close}; leave it out")

    def _refusal(self, name: str, message: str) -> ApiError:
        return ApiError(self._where + message, param=self._where + name)
