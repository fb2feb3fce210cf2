"""What can be set in a chat, at its start or on the way. Standard library only."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_type_hints

from jaxgpt.errors import ConfigError, brief
from jaxgpt.fields import check_range, check_types
from jaxgpt.generation.settings import MAX_NEW_TOKENS, MAX_SEED, SamplingConfig


@dataclass(frozen=True)
class ChatConfig:
    """How the assistant answers."""

    system: str = ""
    """What the assistant is told before the conversation; empty leaves it to the template."""
    max_new_tokens: int = 200
    """The most tokens of an answer; up to a quarter of the context is kept free for them."""
    seed: int = 0
    """Decides every draw: a session with the same seed and the same messages is the same."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.8))
    """How a token is drawn."""

    def __post_init__(self):
        """Refuse what is outside its range."""
        check_types(self)
        check_range("max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        check_range("seed", self.seed, 0, MAX_SEED)
        try:
            self.system.encode()
        except UnicodeEncodeError:
            raise ConfigError("system is no text: it has bytes that are not UTF-8") from None

    def values(self) -> dict[str, Any]:
        """Every setting by its name, those of sampling among them."""
        own = asdict(self)
        sampling = own.pop("sampling")
        return own | sampling

    def change(self, name: str, text: str) -> "ChatConfig":
        """A copy in which the setting `name`, one of `values`, is what `text` says.

        Raises ConfigError for no number where one is needed, or one outside its range.
        """
        kinds = get_type_hints(ChatConfig) | get_type_hints(SamplingConfig)
        try:
            value = kinds[name](text)
        except ValueError:
            wanted = "a whole number" if kinds[name] is int else "a number"
            raise ConfigError(f"{name} is {brief(text)}; it must be {wanted}") from None
        if name in asdict(self):
            return replace(self, **{name: value})
        return replace(self, sampling=replace(self.sampling, **{name: value}))
