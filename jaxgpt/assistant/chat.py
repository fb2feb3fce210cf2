"""A conversation with a fine-tuned model: turns in, answers out, as much of it as fits."""

import json
import os
import warnings
from bisect import bisect_left
from collections.abc import Generator, Sequence
from pathlib import Path

from jaxgpt.assistant.chat_config import ChatConfig
from jaxgpt.errors import ConfigError, nearest
from jaxgpt.files import write_file
from jaxgpt.finetuning.instructions import encode_prompt, end_of_text
from jaxgpt.finetuning.templates import TEMPLATES, Template, Turn, tuned_template
from jaxgpt.finetuning.vocabulary import has_special_markers
from jaxgpt.generation.decoding_params import prepare_params
from jaxgpt.generation.text import PreparedModel, generate_text
from jaxgpt.shell import command
from jaxgpt.training.checkpoint import LoadedModel


class Chat:
    """A session: what was said, and a model that answers by `template`.

    The n-th answer to be drawn is decided by the seed, n, and what was said before it.

    Raises:
        DataError: the tokenizer has no end-of-text token, so that no answer would end.
    """

    def __init__(self, model: LoadedModel, template: Template, config: ChatConfig | None = None):
        end_of_text(model.tokenizer)
        params = prepare_params(model.params)
        self.model = PreparedModel(model.config, params, model.tokenizer)
        self.template = template
        self.config = ChatConfig() if config is None else config
        self.turns: tuple[Turn, ...] = ()
        """Each message and its answer; the system prompt is in the config."""
        self.left_out = 0
        """How many of the oldest exchanges were left out of the newest prompt."""
        self._draws = 0
        markers = [*template.before.values(), template.after]
        # A model may write the next turn's marker where it is to end; as text it may lack the
        # white space that it ends in.
        self._stop = tuple({marker.rstrip() for marker in markers if marker.strip()})
        self.plain_markers = (
            () if has_special_markers(template, model.tokenizer) else _bare(markers)
        )
        """What a message may not hold, as the model would take it for a turn of its own."""

    def reply(self, text: str) -> Generator[str, None, None]:
        """The answer to `text`, piece by piece.

        The exchange is kept once the answer is complete or, with what there is of it, once the
        generator is closed or interrupted; never with an answer that is blank. The oldest exchanges
        are left out of the prompt as far as they do not fit into the context.

        Raises:
            ConfigError: a blank text, or one that does not fit by itself, before the first piece.
        """
        return self._reply(self.turns, text)

    def forged(self, text: str) -> str | None:
        """The first of the template's markers that `text` holds, where they are but text."""
        return next((marker for marker in self.plain_markers if marker in text), None)

    def retry(self) -> Generator[str, None, None]:
        """Another answer to the last message, in the place of the one it has; see `reply`.

        Raises:
            ConfigError: there is none.
        """
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

        Raises:
            ConfigError: nothing was said; another suffix than .jsonl; a file that is there already,
                or cannot be written.
        """
        path = Path(os.path.expanduser(path))
        self._before_last()
        if path.suffix != ".jsonl":
            raise ConfigError(f"the file is {path}; its name must end in .jsonl")
        turns = [*self._system(), *self.turns]
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        if os.path.lexists(path):
            raise ConfigError(f"{path} is there already; name another file")
        try:
            write_file(path, json.dumps({"messages": messages}) + "\n")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error.strerror})") from None
        except ValueError as error:  # a NUL byte in the name
            raise ConfigError(f"{str(path)!r} cannot be the name of a file: {error}") from None

    def _before_last(self) -> tuple[Turn, ...]:
        if not self.turns:
            raise ConfigError("nothing was said yet; write a message first")
        return self.turns[:-2]

    def _reply(self, before: tuple[Turn, ...], text: str) -> Generator[str, None, None]:
        if not text.strip():
            raise ConfigError("the message is empty; write something")
        user = Turn("user", text)
        self.left_out, prompt = self._fit([*before, user])
        return self._write(before, user, prompt)

    def _write(
        self, before: tuple[Turn, ...], user: Turn, prompt: list[int]
    ) -> Generator[str, None, None]:
        config, answer = self.config, ""
        pieces = generate_text(
            self.model,
            prompt,
            # Not past the context, where the system's turn would slide out of sight.
            max_new_tokens=min(config.max_new_tokens, self._room() - len(prompt)),
            sampling=config.sampling,
            seed=config.seed,
            sample_indices=[self._draws],
            stop=self._stop,
        )
        self._draws += 1
        try:
            for piece in pieces:
                answer += piece
                yield piece
        finally:
            if answer.strip():
                self.turns = (*before, user, Turn("assistant", answer))

    def _fit(self, turns: list[Turn]) -> tuple[int, list[int]]:
        """How many of the oldest exchanges to leave out, and the tokens of the others."""
        room = self._room()
        most = room - min(self.config.max_new_tokens, room // 4)

        def encode(left_out: int) -> list[int]:
            kept = [*self._system(), *turns[2 * left_out :]]
            return encode_prompt(kept, self.template, self.model.tokenizer)

        exchanges = len(turns) // 2
        # Fewer turns are fewer tokens, so a search by halves finds the first that fit.
        fits = bisect_left(
            range(exchanges), True, key=lambda left_out: len(encode(left_out)) <= most
        )
        prompt = encode(fits)
        if len(prompt) > most:
            raise ConfigError(
                f"the message takes {len(prompt)} tokens with what the template and the system "
                f"prompt add; {most} of the context of {room} are for it, and the others for the "
                "answer; shorten it, or lower max_new_tokens"
            )
        return fits, prompt

    def _room(self) -> int:
        return self.model.config.context_length

    def _system(self) -> list[Turn]:
        return [Turn("system", self.config.system)] if self.config.system.strip() else []


def _bare(markers: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(marker.strip() for marker in markers if marker.strip()))


def find_template(model: LoadedModel, name: str = "") -> Template:
    """The template called `name`, or else the one that the model was tuned with, or "alpaca".

    Warns of a model that was never tuned. Raises ConfigError with the nearest name.
    """
    known = model.task.get("template", "") if name else tuned_template(model.task)
    name = name or known or "alpaca"
    if name not in TEMPLATES:
        raise ConfigError(
            f"no template is called {name}{nearest(name, TEMPLATES)}; there are "
            f"{', '.join(TEMPLATES)}"
        )
    if known not in ("", name):
        warnings.warn(
            f"the model was tuned with template {known}, not {name}; it answers best with its own",
            stacklevel=2,
        )
    if not model.task:
        warnings.warn(
            "the model was trained on texts alone: it goes on writing, and seldom answers; tune it "
            f"with `{command('finetune instructions')}`",
            stacklevel=2,
        )
    return TEMPLATES[name]
