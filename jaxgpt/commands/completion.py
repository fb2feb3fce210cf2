"""Complete commands and their flags in a shell.

Prints a script for bash, zsh or fish, which holds all of them and starts no Python. For bash:
`jaxgpt completion bash >> ~/.bashrc`, for zsh the same with ~/.zshrc, behind compinit, and for fish
`jaxgpt completion fish > ~/.config/fish/completions/jaxgpt.fish`.
"""

import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Literal

from jaxgpt.commands import checkpoints, cli, evaluate
from jaxgpt.presets import PRESETS
from jaxgpt.shell import COMMANDS
from jaxgpt.terminal import say

_BASH = """_jaxgpt() {
    local word=${COMP_WORDS[COMP_CWORD]} line="${COMP_WORDS[*]:1:COMP_CWORD-1} " next="" flags=""
BODY
    [[ $word == -* ]] && next=$flags
    COMPREPLY=($(compgen -W "$next" -- "$word"))
}
complete -o default -F _jaxgpt jaxgpt"""
_ZSH = """_jaxgpt() {
    local line="${(j: :)words[2,CURRENT-1]} " next="" flags=""
BODY
    [[ $PREFIX == -* ]] && next=$flags
    if [[ -n $next ]]; then compadd -- ${=next}; else _files; fi
}
compdef _jaxgpt jaxgpt"""
_FISH = """function __jaxgpt
    set -l words (commandline -opc)
    set -e words[1]
    set -l line "$words "
    set -l next
    set -l flags
BODY
    string match -q -- "-*" (commandline -ct); and set next $flags
    printf "%s\\n" $next
end
complete -c jaxgpt -a "(__jaxgpt)\""""


# Commands whose first word says what to do.
_WORDS = {"evaluate": evaluate, "checkpoints": checkpoints}


@dataclass(frozen=True)
class Arguments:
    """The shell."""

    shell: cli.Positional[Literal["bash", "zsh", "fish"]]
    """Whose script to print."""


def main(argv: list[str]) -> None:
    """Parse, print."""
    shell = cli.parse(Arguments, "completion", argv, "bash|zsh|fish", description=__doc__).shell
    say(script(shell))


def script(shell: Literal["bash", "zsh", "fish"]) -> str:
    """What the shell runs when a command line of `jaxgpt` is to be completed."""
    template = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    case = _fish_case if shell == "fish" else _case
    body = [case("flags", _flags(), "*"), case("next", _next_words(), "")]
    return template.replace("BODY", "\n".join(body))


def _next_words() -> dict[str, list[str]]:
    """By the words of a command line, those that may come next."""
    words = {"": list(dict.fromkeys(name.split()[0] for name in COMMANDS))}
    words |= {"finetune": [name.split()[1] for name in COMMANDS if name.startswith("finetune ")]}
    return words | {
        **{name: list(module.COMMANDS) for name, module in _WORDS.items()},
        **{name: list(PRESETS) for name in ("train", "plan", "sweep")},
        "completion": ["bash", "zsh", "fish"],
    }


@cache
def _flags() -> dict[str, list[str]]:
    """The flags of each command, by the words that it begins with; the longest first."""
    mains = {name: import_module(f"jaxgpt.commands.{COMMANDS[name]}").main for name in COMMANDS}
    found = {
        f"{name} {word}": _flags_of(module.main, [word])
        for name, module in _WORDS.items()
        for word in module.COMMANDS
    }
    return found | {name: _flags_of(main, []) for name, main in mains.items()}


def _flags_of(main: Callable[[list[str]], None], words: list[str]) -> list[str]:
    page = io.StringIO()
    with redirect_stdout(page), suppress(SystemExit):
        main([*words, "--help-all"])
    heads = re.findall(r"^  (--\S+)", page.getvalue(), re.MULTILINE)
    both = [head.replace("[no-]", part) for head in heads for part in ("", "no-")]
    return [*dict.fromkeys(both), "--help", "--help-all"]


def _case(name: str, words: dict[str, list[str]], more: str) -> str:
    rows = [f'        "{line} "{more}) {name}="{" ".join(of)}" ;;' for line, of in words.items()]
    return "\n".join(["    case $line in", *rows, "    esac"])


def _fish_case(name: str, words: dict[str, list[str]], more: str) -> str:
    rows = [
        f'        case "{line} {more}"\n            set {name} {" ".join(of)}'
        for line, of in words.items()
    ]
    return "\n".join(["    switch $line", *rows, "    end"])
