"""Chat with a fine-tuned model; piped, each line is a message, and only answers are printed.

A message that is refused has an empty line for its answer, and the reason on standard error.
"""

import io
import re
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jaxgpt.assistant.chat_config import ChatConfig
from jaxgpt.commands import cli
from jaxgpt.commands.line_editor import line_editor
from jaxgpt.errors import ConfigError, JaxgptError, nearest
from jaxgpt.generation.settings import WeightDtype
from jaxgpt.terminal import escape_pieces, note, one_line, put

if TYPE_CHECKING:
    from jaxgpt.assistant.chat import Chat

SETTINGS = {"/" + name.replace("_", "-"): name for name in ChatConfig().values()}
COMMANDS = {
    "/help": "this list",
    "/settings": "every setting and its value",
    "/history": "what was said so far",
    "/retry": "draw the last answer again",
    "/undo": "take back the last message and its answer",
    "/reset": "begin a new conversation with the same settings",
    "/save FILE": "write the conversation to a .jsonl file, to tune a model with",
    "/quit": "leave, as Ctrl-D does",
}
NAMES = [*SETTINGS, *(command.split()[0] for command in COMMANDS)]


@dataclass(frozen=True)
class Arguments:
    """The model, and how it answers."""

    model: cli.ModelSource
    template: str = ""
    """alpaca, phi, chat, or tokenizer for its chat template; empty takes the one that the model was
    tuned with, else the tokenizer's, else alpaca."""
    chat: ChatConfig = field(default_factory=ChatConfig)
    """What commands can change on the way."""
    weight_dtype: WeightDtype = "stored"
    """Keep weights in so few bits, which an answer is written faster with, less exactly."""
    history: bool = True
    """Keep what is typed at a terminal for the next session, in the cache folder, readable by you
    alone."""


def main(argv: list[str]) -> None:
    """Load, then answer until the input ends."""
    arguments = cli.parse(Arguments, "chat", argv, "--checkpoint RUN", description=__doc__)

    from jaxgpt.assistant.chat import Chat, find_template

    model = arguments.model.load(arguments.weight_dtype)
    chat = Chat(model, find_template(model, arguments.template), arguments.chat)
    del model  # the chat has its parameters in another layout
    if isinstance(sys.stdin, io.TextIOWrapper):
        # So that the tokenizer refuses bad bytes, in one line, and the session goes on.
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    if sys.stdin.isatty() and sys.stdout.isatty():
        note(f"a context of {chat.model.config.context_length} tokens; /help shows the commands")
        if chat.plain_markers:
            marks = ", ".join(chat.plain_markers)
            note(f"(this model cannot tell {marks} in a message from a turn of its own)")
        with line_editor(completions(), history=arguments.history):
            talk(chat, typed, interactive=True)
    elif code := talk(chat, input, interactive=False):
        raise SystemExit(code)


def completions() -> list[str]:
    """The commands as Tab completes them: with a space where a value follows."""
    names = [f"{name} " for name in SETTINGS]
    return [*names, *(re.sub(r" .*", " ", command) for command in COMMANDS)]


def typed() -> str:
    """What is typed; a line that ends with a backslash goes on in the next."""
    text = input("you> ")
    while text.endswith("\\"):
        text = text[:-1] + "\n" + input("...> ")
    return text


def talk(chat: "Chat", read: Callable[[], str], *, interactive: bool) -> int:
    """Answer or obey each line until there is no more; the exit code of the last error, or 0."""
    code, line = 0, ""
    while True:
        try:
            line = read()
            if line.strip() == "/quit":
                return code
            if line.startswith("/"):
                obey(chat, line, interactive)
            elif line.strip():
                if found := chat.forged(line):
                    note(f"(the message holds {found!r}, which the model takes for a new turn)")
                show(chat, chat.reply(line.strip()), interactive)
        except EOFError:
            if interactive:
                note("")  # leaves the line of the prompt
            return code
        except KeyboardInterrupt:
            if not interactive:
                raise
            note("\n(Ctrl-D or /quit leaves)")
        except JaxgptError as error:
            code = error.exit_code
            if not interactive and is_answered(line):
                put("\n")  # so that a program that wrote n lines can read n
            note(f"error: {one_line(str(error))}")


def is_answered(line: str) -> bool:
    """Whether a line is to be followed by an answer, which is one line at least."""
    name, *_ = line.split() or ("",)
    return name == "/retry" or name not in NAMES


def obey(chat: "Chat", line: str, interactive: bool) -> None:
    """Carry out a command; raises ConfigError with the nearest name if there is no such one."""
    name, _, value = line.strip().partition(" ")
    value = value.strip()
    match name:
        case "/help":
            note(help_text())
        case "/settings":
            note("\n".join(f"{key:20}{given!r}" for key, given in chat.config.values().items()))
        case "/history":
            note("\n".join(f"{turn.role}> {turn.text}" for turn in chat.turns) or "(empty)")
        case "/retry":
            show(chat, chat.retry(), interactive)
        case "/undo":
            chat.undo()
            note(f"(exchanges left: {len(chat.turns) // 2})")
        case "/reset":
            chat.reset()
            note("(a new conversation)")
        case "/save":
            chat.save(value)
            note(f"(written to {value})")
        case _ if name in SETTINGS:
            chat.change(SETTINGS[name], value)
            note(f"({SETTINGS[name]} is {chat.config.values()[SETTINGS[name]]!r})")
        case _:
            raise ConfigError(
                f"there is no command {name}{nearest(name, NAMES)}; /help shows them, and a "
                "message may begin with a space before the slash"
            )


def help_text() -> str:
    """The commands, a line each."""
    lines = [f"{command:20}{does}" for command, does in COMMANDS.items()]
    lines.append(f"{'/SETTING VALUE':20}change a setting: {' '.join(SETTINGS)}")
    lines.append("A line that ends with a backslash goes on in the next. Ctrl-C stops an answer.")
    return "\n".join(lines)


def show(chat: "Chat", pieces: Generator[str, None, None], interactive: bool) -> None:
    """Print an answer as it comes; Ctrl-C on a terminal ends it there."""
    before = chat.turns
    if chat.left_out:
        note(
            f"(the context of {chat.model.config.context_length} tokens is full; left out: the "
            f"oldest {chat.left_out} of {len(before) // 2} exchanges)"
        )
    with closing(pieces), noted_interrupts() as pressed:
        for piece in escape_pieces(pieces) if interactive else pieces:
            put(piece)
            if pressed:
                break
    if pressed and not interactive:
        raise KeyboardInterrupt
    put("\n")
    if chat.turns is before:
        note("(nothing was written, so the conversation is as it was)")
    elif pressed:
        note("(stopped; what was written is kept as the answer)")


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Note Ctrl-C in the list; an exception would be lost in JAX's callback of the collector."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
