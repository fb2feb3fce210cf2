"""The pages of README.md and docs/: their order, blocks, commands and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Page:
    """A page's name and text."""

    name: str
    text: str

    def blocks(self, language: str) -> list[str]:
        """The blocks of a language, where "" is a shell's."""
        found = re.findall(r"^```(\w*)\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)
        return [text for named, text in found if named == language]

    @property
    def prose(self) -> str:
        """The text without its blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    @property
    def links(self) -> list[str]:
        """Where its links and pictures lead."""
        return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", self.prose))

    @property
    def anchors(self) -> set[str]:
        """What a link to it may have behind `#`: its headings, as a code host spells them."""
        titles = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@dataclass(frozen=True)
class Command:
    """A command of a page, and what is typed at its prompts."""

    line: str
    typed: str = ""


def pages(root: Path) -> list[Page]:
    """README.md, and the pages of the site in its own order."""
    site = re.findall(r"^ +- .*: (\S+\.md)$", (root / "mkdocs.yml").read_text(), re.MULTILINE)
    names = ["README.md", *(f"docs/{name}" for name in site)]
    return [Page(name, (root / name).read_text()) for name in names]


def commands(page: Page) -> Iterator[Command]:
    """The commands of all blocks that name no language: of a transcript, the lines behind `$`."""
    for block in page.blocks(""):
        lines, typed = re.sub(r"\\\n *", "", block).splitlines(), ""
        if lines[0].startswith("jaxgpt/"):  # the tree of the code
            continue
        if lines[0].startswith("$ "):
            typed = "".join(line[5:] + "\n" for line in lines if line.startswith("you> "))
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in lines:
            if not line.startswith(("make ", "python ", "curl ")):
                raise SystemExit(f"{page.name}: what is to be done with this line? {line}")
            yield Command(line.partition("  #")[0].strip(), typed)
