"""The page that --help prints: the options that most need, by group; --help-all has the rest."""

import re
import shutil
import textwrap
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

FLAGS = ("-h", "--help", "--help-all")
_NARROWEST, _WIDEST = 60, 100  # columns of a line that is easy to read
_COLUMN = 27  # where the text of an option begins, unless its flag is longer
_PAD = " " * _COLUMN
_TITLES = {"": "options", "config": "training", "options": "the folder"}  # by a group's last field


@dataclass
class _Option:
    """A flag, or an argument given by its place, and what it does."""

    words: str
    text: str = ""

    @property
    def name(self) -> str:
        """The field of `--batch-size INT`: batch_size."""
        return self.words.split()[0].strip("-,[]").replace("-", "_")


def page(text: str, command: str, common: Collection[str], *, everything: bool) -> str:
    """Tyro's help `text`, as printed to a wide file, laid out for a reader who runs `command`.

    Unless `everything` is wanted, each option has one clause, and those not in `common` are left
    out, if it names any.
    """
    about, groups = _read(text.splitlines())
    width = max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST))
    lines = textwrap.wrap(f"usage: {command} [OPTIONS]", width, subsequent_indent=" " * 7)
    for paragraph in about:
        lines += ["", *textwrap.wrap(paragraph, width)]
    left_out = 0
    for title, options in groups:
        shown = [one for one in options if everything or not common or one.name in common]
        left_out += len(options) - len(shown)
        if shown:
            lines += ["", title]
        for option in shown:
            lines += _rows(option, width, everything)
    if not everything:
        others = f", and shows {left_out} others" if left_out else ""
        lines += ["", f"--help-all says more of each{others}"]
    return "\n".join(lines)


def _read(lines: Iterable[str]) -> tuple[list[str], list[tuple[str, list[_Option]]]]:
    """The paragraphs that tell what a command does, and its groups of options with their titles."""
    about, groups = [""], []
    for line in list(lines)[1:]:  # without tyro's usage
        content, indent = line.strip(), len(line) - len(line.lstrip())
        if indent == 1 and content.strip("-"):
            field = content.removesuffix("options").strip().rpartition(".")[2]
            groups.append((_TITLES.get(field, field.replace("_", " ")), []))
        elif not groups:
            about += [content] if not content else []
            about[-1] = f"{about[-1]} {content}".strip()
        elif indent == 2 and content.startswith(("-", "[")) and content.strip("-"):
            words, _, text = content.partition("  ")
            groups[-1][1].append(_Option(words, text.strip()))
        elif groups[-1][1] and content:  # before the first stands its class's docstring
            last = groups[-1][1][-1]
            last.text = f"{last.text} {content}".strip()
    for _, options in groups:
        options[:] = [one for one in options if one.words.split(",")[0] not in FLAGS]
        options.sort(key=lambda one: not one.text.endswith("(required)"))
    return [paragraph for paragraph in about if paragraph], groups


def _rows(option: _Option, width: int, whole: bool) -> Iterator[str]:
    """An option's lines: its flag, its text and its default."""
    about, _, default = option.text.rpartition("(default: ")
    text, default = (about, default[:-1]) if about else (option.text, "")
    needed = text.endswith("(required)")
    text = text.removesuffix("(required)").strip()
    if not whole:
        text = re.split(r"[.;] ", re.sub(r" \([^)]*\)", "", text))[0].rstrip(".")
    if needed or default not in ("", "''", "None", "{None}", "False"):
        text = f"{text} [{'required' if needed else default}]"
    both = r"--[no-]\1" if default == "True" else r"--\1"
    words = re.sub(r"--([\w-]+), --no-\1", both, option.words)
    words = re.sub(r"\[(\w+) \[\1 \.\.\.\]\]", r"\1 ...", words).replace("{None}|", "")
    head = f"  {words}".ljust(_COLUMN - 2) + "  "
    first, *rest = textwrap.wrap(text, width - len(head)) or [""]
    yield head + first
    yield from textwrap.wrap(" ".join(rest), width, initial_indent=_PAD, subsequent_indent=_PAD)
