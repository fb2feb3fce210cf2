"""The page of `python -m jaxgpt`: what there is, and where it is documented."""

import ast
import re
import sys

import jaxgpt
from jaxgpt.shell import CHECKOUT, script
from jaxgpt.terminal import note, say


def page() -> str:
    """The version, a line for each script, and where to read on."""
    summary = str(jaxgpt.__doc__).splitlines()[0].rstrip(".")
    lines = [f"jaxgpt {jaxgpt.__version__}: {summary.partition(': ')[2]}", ""]
    for path in sorted((CHECKOUT / "scripts").glob("*.py")):
        text = path.read_text()
        if "cli.run(main)" in text:  # not what they share
            about = re.split(r"[;:.]", str(ast.get_docstring(ast.parse(text))))[0]
            lines.append(f"  {path.name:<26}{about}")
    return "\n".join(
        [
            *lines,
            "",
            f"Each runs as `{script('train.py')}` does, and --help shows its options.",
            "In Python, help(jaxgpt) is the table of contents; all else is in",
            f"{CHECKOUT / 'README.md'}",
        ]
    )


if __name__ == "__main__":
    say(page())
    if sys.argv[1:] not in ([], ["-h"], ["--help"]):
        note(f"error: jaxgpt takes no arguments; run a script, such as `{script('train.py')}`")
        raise SystemExit(2)
