"""Commands as a shell takes them, for messages that say what to run next; no other library."""

import os
import shlex
import shutil
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
_NAMES = (
    *("train", "generate", "chat", "serve", "evaluate", "finetune classifier"),
    *("finetune instructions", "finetune preferences", "classify", "assistant", "prepare"),
    *("tokenizer", "convert", "compare", "plan", "sweep", "launch", "checkpoints", "benchmark"),
    *("verify", "trajectories", "completion"),
)
_OTHERWISE = {"prepare": "prepare_data", "tokenizer": "train_tokenizer"}
COMMANDS = {name: _OTHERWISE.get(name, name.replace(" ", "_")) for name in _NAMES}
"""Commands and their modules in jaxgpt/commands, which are also the names of the scripts."""
OTHER_NAMES = {"bench": "benchmark"}
"""Other spellings of commands."""
LAUNCHED_BY = "JAXGPT_LAUNCHED_BY"
"""Where `jaxgpt launch` tells its processes its own command line."""


def python(*words: str | Path) -> str:
    """A command line of the Python that runs this, each word quoted where a shell needs it."""
    return _line(*_python(), *words)


def install(package: str) -> str:
    """The command line that installs a package for the Python that runs this."""
    return python("-m", "pip", "install", package)


def install_extra(name: str) -> str:
    """The command line that installs the packages of an extra of jaxgpt, such as `parquet`."""
    if (CHECKOUT / "pyproject.toml").is_file():
        return python("-m", "pip", "install", "-e", f"{_from_here(CHECKOUT)}[{name}]")
    return install(f"jaxgpt[{name}]")


def command(name: str, *words: str | Path) -> str:
    """The command line of a command of jaxgpt, in the form in which this process was started.

    `command("chat", "--checkpoint", run)` is `jaxgpt chat --checkpoint RUN`, or
    `.venv/bin/python scripts/chat.py --checkpoint RUN` where a script of a checkout was started.
    """
    script = f"{COMMANDS[name]}.py"
    beside, ours = Path(sys.argv[0]).parent / script, CHECKOUT / "scripts" / script
    if program := _program():
        return _line(*program, *name.split(), *words)
    if beside.is_file() or ours.is_file():
        return python(_from_here(beside if beside.is_file() else ours), *words)
    installed = Path(sys.executable).with_name("jaxgpt")
    program = [_as_found(installed)] if installed.is_file() else [*_python(), "-m", "jaxgpt"]
    return _line(*program, *name.split(), *words)


def this_command() -> str:
    """The command line of this process, or of what launched it, to be run again."""
    if launched := os.environ.get(LAUNCHED_BY):
        return launched
    return _line(*(_program() or [*_python(), sys.argv[0]]), *sys.argv[1:])


def _program() -> list[str]:
    """The words that started the command jaxgpt; none where this is another program."""
    started = Path(sys.argv[0])
    if started.name == "jaxgpt":
        return [_as_found(started)]
    if started.parts[-2:] == ("jaxgpt", "__main__.py"):
        return [*_python(), "-m", "jaxgpt"]
    return []


def _as_found(path: Path) -> str:
    """A program's bare name where that finds it, else its path."""
    found = shutil.which(path.name)
    bare = found and os.path.realpath(found) == os.path.realpath(path)
    return path.name if bare else _from_here(path)


def _python() -> list[str]:
    return [_from_here(sys.executable or "python3")]


def _line(*words: str | Path) -> str:
    return " ".join(_quoted(_word(word)) for word in words)


def _from_here(path: str | Path) -> str:
    """A path below the current folder as seen from there; else absolute."""
    whole, here = os.path.abspath(path), os.getcwd()
    if whole == here:
        return "."
    if not whole.startswith(os.path.join(here, "")):
        return whole
    inner = os.path.relpath(whole, here)
    return inner if os.sep in inner else os.path.join(".", inner)  # a bare name is sought in PATH


def _word(word: str | Path) -> str:
    """A path that begins with a dash is no flag."""
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def _quoted(word: str) -> str:
    """A word as a shell reads it: on one line, and with nothing that a terminal would not show."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_spelt, word)) + "'"


def _spelt(character: str) -> str:
    code = ord(character)
    if character in "\\'":
        return "\\" + character
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is no UTF-8
        code -= 0xDC00
    return {10: "\\n", 9: "\\t"}.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
