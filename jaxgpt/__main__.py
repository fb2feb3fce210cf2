"""The command `jaxgpt`: a page of what there is, or one of the commands."""

import ast
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import jaxgpt
from jaxgpt.shell import CHECKOUT, COMMANDS, OTHER_NAMES, command
from jaxgpt.terminal import escape, note, say


def page() -> str:
    """The version, a line for each command, and where to read on."""
    summary = str(jaxgpt.__doc__).splitlines()[0].rstrip(".")
    lines = [f"jaxgpt {jaxgpt.__version__}: {summary.partition(': ')[2]}", ""]
    for name, module in COMMANDS.items():
        text = Path(__file__).with_name("commands").joinpath(f"{module}.py").read_text()
        about = re.split(r"[;:.]", str(ast.get_docstring(ast.parse(text))))[0]
        lines.append(f"  {name:<24}{about}")
    about = f"Each runs as `{command('train')}` does, and --help shows its options"
    lines += ["", f"{about}; in Python, help(jaxgpt) is the table of contents."]
    if (CHECKOUT / "README.md").is_file():
        lines.append(f"All else is in {CHECKOUT / 'README.md'}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first words of `argv` name; an unknown one leaves with 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv in ([], ["-h"], ["--help"], ["finetune", "--help"]):
        say(page())
        return
    argv[0] = OTHER_NAMES.get(argv[0], argv[0])
    for length in (2, 1):
        name = " ".join(argv[:length])
        if name in COMMANDS:
            _run(name, argv[length:])
            return
    from jaxgpt.errors import nearest  # not at the top: --help does not wait for it

    if argv[0] == "finetune":
        kinds = ", ".join(name for name in COMMANDS if name.startswith("finetune "))
        why = f"finetune takes one of its kinds: {kinds}"
    else:
        near = nearest(argv[0], (name.split()[0] for name in COMMANDS))
        why = f"jaxgpt has no command {argv[0]}{near}; --help shows them"
    note(f"error: {escape(why)}")
    raise SystemExit(2)


def _run(name: str, argv: list[str]) -> None:
    try:
        from jaxgpt.commands.cli import run

        function = import_module(f"jaxgpt.commands.{COMMANDS[name]}").main
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run(function, argv)


if __name__ == "__main__":
    main()
