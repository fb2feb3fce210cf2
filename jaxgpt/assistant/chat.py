"""A conversation with a fine-tuned model: turns in, answers out, as much of it as fits."""

import json
import os
import warnings
from collections.abc import Generator
from pathlib import Path

from jaxgpt.assistant.chat_config import ChatConfig
from jaxgpt.assistant.turn_encoder import TurnEncoder
from jaxgpt.errors import ConfigError, nearest
from jaxgpt.fields import check
from jaxgpt.files import write_file
from jaxgpt.finetuning.templates import (
    OF_TOKENIZER,
    TEMPLATES,
    PromptTemplate,
    Turn,
    choose_template,
    tuned_template,
)
from jaxgpt.generation.prepared_params import prepare_params
from jaxgpt.generation.text import PreparedModel, generate_text
from jaxgpt.shell import command
from jaxgpt.training.checkpoint import LoadedModel


class Chat:
    """A session: what was said, and a model that answers by `template`.

    The n-th answer to be drawn is decided by the seed, n, and what was said before it. Raises
    DataError if the tokenizer has no end-of-text token, so that no answer would end.
    """

    def __init__(
        self, model: LoadedModel, template: PromptTemplate, config: ChatConfig | None = None
    ):
        self._encoder = TurnEncoder(template, model.tokenizer, model.config.context_length)
        params = prepare_params(model.params)
        self.model = PreparedModel(model.config, params, model.tokenizer)
        self._room = model.config.context_length
        self.template = template
        self.config = ChatConfig() if config is None else config
        self.turns: tuple[Turn, ...] = ()
        """Each message and its answer; the system prompt is in the config."""
        self.left_out = 0
        """How many of the oldest exchanges were left out of the newest prompt."""
        self._draws = 0
        self.plain_markers = self._encoder.plain_markers
        """What a message may not hold, as the model would take it for a turn of its own."""

    def reply(self, text: str) -> Generator[str, None, None]:
        """The answer to `text`, piece by piece.

        The exchange is kept once the answer is complete or, with what there is of it, once the
        generator is closed or interrupted; never with an answer that is blank. The oldest exchanges
        are left out of the prompt as far as they do not fit into the context. Raises ConfigError,
        before the first piece, for a blank text, or one that does not fit by itself.
        """
        return self._reply(self.turns, text)

    def forged(self, text: str) -> str | None:
        """The first of the template's markers that `text` holds, where they are but text."""
        return self._encoder.forged(text)

    def retry(self) -> Generator[str, None, None]:
        """Another answer to the last message, see `reply`; raises ConfigError if there is none."""
        return self._reply(self._before_last(), self.turns[-2].text)

    def undo(self) -> None:
        """Take back the last message and its answer; raises ConfigError if there is none."""
        self.turns = self._before_last()

    def reset(self) -> None:
        """Begin a new conversation, with the same settings."""
        self.turns = ()

    def change(self, name: str, text: str) -> None:
        """Change a setting, see `ChatConfig.change`; with a seed, answers count from 0 again."""
        self.config = self.config.change(name, text)
        if name == "seed":
            self._draws = 0

    def save(self, path: str | Path) -> None:
        """Write the conversation as a record of `messages`, for `read_conversations` to read.

        Raises ConfigError if nothing was said, or `path` is no .jsonl, not new, or not writable.
        """
        path = Path(os.path.expanduser(path))
        self._before_last()
        check(path.suffix == ".jsonl", f"the file is {path}; its name must end in .jsonl")
        turns = [*self._system(), *self.turns]
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        check(not os.path.lexists(path), f"{path} is there already; name another file")
        try:
            write_file(path, json.dumps({"messages": messages}) + "\n")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error.strerror})") from None
        except ValueError as error:  # a NUL byte in the name
            raise ConfigError(f"{str(path)!r} cannot be the name of a file: {error}") from None

    def _before_last(self) -> tuple[Turn, ...]:
        check(bool(self.turns), "nothing was said yet; write a message first")
        return self.turns[:-2]

    def _reply(self, before: tuple[Turn, ...], text: str) -> Generator[str, None, None]:
        check(bool(text.strip()), "the message is empty; write something")
        user = Turn("user", text)
        turns = [*before, user]
        self.left_out, prompt = self._encoder.fit(self._system(), turns, self.config.max_new_tokens)
        return self._write(before, user, prompt)

    def _write(
        self, before: tuple[Turn, ...], user: Turn, prompt: list[int]
    ) -> Generator[str, None, None]:
        config, answer = self.config, ""
        pieces = generate_text(
            self.model,
            prompt,
            # Not past the context, where the system's turn would slide out of sight.
            max_new_tokens=min(config.max_new_tokens, self._room - len(prompt)),
            sampling=config.sampling,
            seed=config.seed,
            sample_indices=[self._draws],
            stop=self._encoder.stop,
        )
        self._draws += 1
        try:
            for piece in pieces:
                answer += piece
                yield piece
        finally:
            answer = self._encoder.said(answer)
            if answer.strip():
                self.turns = (*before, user, Turn("assistant", answer))

    def _system(self) -> list[Turn]:
        return [Turn("system", self.config.system)] if self.config.system.strip() else []


def find_template(model: LoadedModel, name: str = "") -> PromptTemplate:
    """The template called `name`, or the one of tuning, or the tokenizer's, or "alpaca".

    Warns of a model that was never tuned. Raises ConfigError with the nearest name.
    """
    known = model.task.get("template", "") if name else tuned_template(model.task)
    name = name or known
    if name and name not in (*TEMPLATES, OF_TOKENIZER):
        raise ConfigError(
            f"no template is called {name}{nearest(name, TEMPLATES)}; there are "
            f"{', '.join(TEMPLATES)}"
        )
    name, template = choose_template(name, model.tokenizer)
    if known not in ("", name):
        warnings.warn(
            f"the model was tuned with template {known}, not {name}; it answers best with its own",
            stacklevel=2,
        )
    if not model.task and name != OF_TOKENIZER:
        warnings.warn(
            "the model was trained on texts alone: it goes on writing, and seldom answers; tune it "
            f"with `{command('finetune instructions')}`",
            stacklevel=2,
        )
    return template
