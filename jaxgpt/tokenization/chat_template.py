"""The chat template that a tokenizer brings: conversations as its model's makers write them.

Which of a text's characters are the template's and which were said is known throughout: only the
template's become control tokens, whatever a message holds.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from jaxgpt.errors import CheckpointError, DataError, JaxgptError, brief
from jaxgpt.files import parse_json
from jaxgpt.tokenization.added_tokens import CHAT_TEMPLATE, CONFIG, MAP, ROLES, content_of
from jaxgpt.tokenization.json_tokenizer import SECRET, JsonTokenizer
from jaxgpt.tokenization.sandbox import Program, RefusedError

Messages = Sequence[Mapping[str, str]]
"""Each with its `role`, user, assistant or system, and its `content`."""

_BREAK = f"{SECRET}|"
_OTHER = "\U0010fffd"
# The control token that ends what was said, where one does.
_ENDED = re.compile(rf"(\s*{SECRET}\d+\.)?")


def find_chat_template(tokenizer: Any) -> "ChatTemplate | None":
    """The chat template that came with a tokenizer's files, if one did.

    Raises:
        CheckpointError: it is broken, or there are several and none is called default.
    """
    files = getattr(tokenizer, "files", {})
    config, names = (_mapping_in(files, name) for name in (CONFIG, MAP))
    found = config.get("chat_template")
    if CHAT_TEMPLATE in files:
        found = files[CHAT_TEMPLATE].decode(errors="replace")
    elif isinstance(found, list):
        items = [item for item in found if isinstance(item, dict)]
        named = [item for item in items if item.get("name") == "default"]
        if not named:
            names = brief([item.get("name") for item in items])
            raise CheckpointError(f"none of the chat templates {names} is called default")
        found = named[-1].get("template")
    if found is None:
        return None
    if not isinstance(found, str):
        raise CheckpointError(f"chat_template in {CONFIG} is {found!r:.60}; it must be a text")
    spelt = {role: content_of((names | config).get(role)) for role in ROLES}
    return ChatTemplate(found, tokenizer, {role: text for role, text in spelt.items() if text})


def _mapping_in(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        values = parse_json(files.get(name, b"{}").decode())
    except ValueError as error:
        raise CheckpointError(f"the tokenizer's {name} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"the tokenizer's {name} is {values!r:.60}; it must be a mapping")
    return values


class ChatTemplate:
    """A chat template (Jinja) with its tokenizer; the ids are those of `apply_chat_template`.

    Within it, each control token is spelt so that no message can spell it: in its own texts and in
    `variables`, such as `bos_token`, before it is compiled. Those are the tokenizer's special
    tokens, and of other added ones those that it writes, such as `</think>`; these the assistant
    may say too.

    Raises:
        CheckpointError: a template that is broken, or that does what none needs to.
    """

    special_tokens: Sequence[str] = ()
    """Those that are to be added to the vocabulary: it has them all."""

    def __init__(self, source: str, tokenizer: JsonTokenizer, variables: Mapping[str, str]):
        self._tokenizer = tokenizer
        program: Program = _guarded(Program, source)
        written = "\0".join([*program.texts, *variables.values()])
        special = tokenizer.special_tokens
        added = [token["content"] for token in tokenizer.description["added_tokens"]]
        sayable = {x for x in added if x in written and x.strip()} - special.keys()
        self._hidden = tokenizer.hidden([*special, *sayable])
        self._sayable = {name: self._hidden[name] for name in sayable & self._hidden.keys()}
        own = {name: hidden for name, hidden in self._hidden.items() if name in written}
        self._variables = {name: _respelt(text, own) for name, text in variables.items()}
        self._program = _guarded(program.compile, lambda text: _respelt(text, own))

    @cached_property
    def _encode(self) -> Callable[[str], list[int]]:
        return self._tokenizer.encoder(self._hidden)

    def encode(self, messages: Messages) -> list[int]:
        """The ids after which the assistant's answer to `messages` begins."""
        return self._encode(self._render(messages, prompt=True))

    def encode_conversation(self, messages: Messages) -> list[tuple[int, bool]]:
        """Each id of a conversation, and whether the assistant says it, or ends its turn by it.

        Raises:
            DataError: the template writes the messages before an answer otherwise once it is there.
        """
        text = self._render(messages)
        ids = self._encode(text)
        learnt = [False] * len(ids)
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:number], prompt=True)
            if not text.startswith((before, self._render(messages[:number]))):
                raise DataError(
                    f"the chat template writes message {number} otherwise once it is answered, so "
                    "which tokens are the answer's is not known; name another by --template"
                )
            longer = [*messages]
            longer[number] = {**message, "content": message["content"] + _OTHER}
            end = _shared(text, self._render(longer))
            end += len(_ENDED.match(text, end)[0])  # pyright: ignore[reportOptionalSubscript]
            start, stop = (_shared(ids, self._encode(part)) for part in (before, text[:end]))
            learnt[start:stop] = [True] * (stop - start)
        return list(zip(ids, learnt, strict=True))

    @cached_property
    def stops(self) -> tuple[str, ...]:
        """What a model writes after an answer, if it is no end of a text to it."""
        ends = self._spelt(self._between("user", "assistant")[-1])
        found = [*ends, self._between("user", "assistant", "user")[2].strip()]
        return tuple(name for name in found if name)[:1]

    @cached_property
    def plain_markers(self) -> tuple[str, ...]:
        """What a message may not hold, as it would forge a turn: what has no control token."""
        pieces = self._between("user", "assistant", "user")
        plain = [piece.strip() for piece in pieces if not self._spelt(piece)]
        return tuple(dict.fromkeys(filter(None, plain)))

    def said(self, written: str) -> str:
        """What an answer comes to: the text behind the last special token in it, or all."""
        return _any(self._tokenizer.special_tokens).split(written)[-1]

    def _between(self, *roles: str) -> list[str]:
        """What the template writes before, between and after messages."""
        words = [f"{SECRET}word{i}" for i in range(len(roles))]
        pairs = zip(roles, words, strict=True)
        text = self._render([{"role": role, "content": word} for role, word in pairs])
        return re.split("|".join(words), text)

    def _spelt(self, text: str) -> list[str]:
        """The control tokens in a text, in their order."""
        found = [name for name, hidden in self._hidden.items() if hidden in text]
        return sorted(found, key=lambda name: text.index(self._hidden[name]))

    def _render(self, messages: Messages, *, prompt: bool = False) -> str:
        """The conversation as text, in which all control tokens are hidden ones."""
        text = self._write(messages, prompt, self._joined)
        for name in self._joined:
            text = text.replace(name, self._hidden[name])
        return text.replace(_BREAK, "")

    @cached_property
    def _joined(self) -> list[str]:
        """The control tokens that the template joins of parts, such as `<|`, a role and `|>`."""
        for roles in (("system", "user", "assistant", "user"), ("user", "assistant", "user")):
            try:
                text = self._write([{"role": role, "content": "x"} for role in roles], False)
            except JaxgptError:  # what it refuses is said where it is asked for
                continue
            return [name for name in self._hidden if name in text]
        return []

    def _write(self, messages: Messages, prompt: bool, joined: Sequence[str] = ()) -> str:
        shown = []
        for role, content in ((message["role"], message["content"]) for message in messages):
            content = _respelt(content, self._sayable if role == "assistant" else {})
            for first in {name[0] for name in joined}:  # so that none begins in what was said
                content = content.replace(first, first + _BREAK)
            shown.append({"role": role, "content": content})
        given = {"tools": None, "documents": None, "add_generation_prompt": prompt}
        return _guarded(self._program, messages=shown, **self._variables, **given)


def _respelt(text: str, names: Mapping[str, str]) -> str:
    return _any(names).sub(lambda found: names[found[0]], text)


def _any(names: Iterable[str]) -> re.Pattern[str]:
    """A pattern of any of the names, the longest where several fit."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")


def _guarded(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except RefusedError as error:
        raise DataError(f"the chat template refuses the messages: {brief(str(error))}") from None
    except Exception as error:  # whatever a template asks for that cannot be
        said = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"the chat template cannot be used: {brief(said)}") from None


def _shared(first: Sequence[Any], second: Sequence[Any]) -> int:
    """The number of ids, or characters, that both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(first), len(second)))
