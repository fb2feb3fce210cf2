"""Hold worked examples of public notebooks against what those print.

Exits with 1 if one is missed. Nothing of PyTorch is needed: its random numbers are made here.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from jaxgpt.commands import cli
from jaxgpt.data.sources import read_documents
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.finetuning.records import read_records
from jaxgpt.terminal import say

if TYPE_CHECKING:
    from jaxgpt.worked.examples import Outcome

_NAME, _WIDTH = 39, 28  # characters for an id and for a value


@dataclass(frozen=True)
class Arguments:
    """The texts, and which examples."""

    text: str = ""
    """The short story that a third of the examples are about: a plain text file of "The Verdict" by
    Edith Wharton (1908)."""
    records: str = ""
    """The 1,100 instructions that two examples are about: a .json file with the fields instruction,
    input, output, chosen and rejected."""
    only: tuple[str, ...] = ()
    """Beginnings of ids, such as ch03 or ch05.loss; all examples if none is given."""


def main(argv: list[str]) -> None:
    """Run the examples and print each beside its expected value, by chapter."""
    usage = "[--text FILE] [--records FILE]"
    arguments = cli.parse(Arguments, "verify", argv, usage, description=__doc__)
    texts = (item.text for item in read_documents([arguments.text])) if arguments.text else None
    story = None if texts is None else "".join(texts)
    records = read_records([arguments.records]) if arguments.records else None

    from jaxgpt.worked.examples import CHAPTERS, Given, load_facts, run_examples
    from jaxgpt.worked.text import check_story

    if story is not None:
        check_story(story)

    facts = [fact for fact in load_facts() if fact["id"].startswith(arguments.only or "")]
    if not facts:
        chapters = ", ".join(CHAPTERS)
        raise ConfigError(f"no example's id begins with {arguments.only[0]}; there are {chapters}")
    outcomes: list[Outcome] = []
    found = run_examples(Given(story, records), facts)
    for chapter, members in groupby(found, lambda outcome: outcome.id.split(".")[0]):
        title = f"\n{CHAPTERS[chapter][0]:{_NAME + 10}}"
        say(f"{title}{'expected':{_WIDTH + 2}}{'jaxgpt':{_WIDTH + 2}}agree")
        for outcome in members:
            say(line(outcome))
            outcomes.append(outcome)
    conclude(outcomes)


def line(outcome: "Outcome") -> str:
    """One example: its verdict, its id, the expected and the computed value, the tolerance."""
    if outcome.verdict not in ("ok", "miss"):
        return f"  {outcome.verdict}: {outcome.id}"
    text = f"  {outcome.verdict:4}  {outcome.id:{_NAME}}  {brief(outcome.expected):{_WIDTH}}"
    text += f"  {brief(outcome.computed):{_WIDTH}}  {outcome.tolerance}"
    return f"{text}\n        {outcome.reason}" if outcome.reason else text


def brief(value: Any) -> str:
    """As many of the numbers in `value` as there is room for."""
    leaves = list(flatten(value))
    text = " ".join(leaves)
    if len(text) <= _WIDTH:
        return text
    count = f" … {len(leaves)}" if len(leaves) > 1 else "…"
    return text[: _WIDTH - len(count)] + count


def flatten(value: Any) -> Iterator[str]:
    """The innermost values as words, in order."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from flatten(item)
    else:
        yield f"{value:.5g}" if isinstance(value, float) else str(value).replace("\n", "\\n")


def conclude(outcomes: list["Outcome"]) -> None:
    """Print the counts; leave with 1 for a miss, with 3 for what could not be run."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    say("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if counts["needs the story"]:
        say("the story is given with --text FILE")
    if counts["needs the records"]:
        say("the records are given with --records FILE")
    if counts["miss"]:
        raise SystemExit(1)
    for outcome in outcomes:
        if outcome.verdict == "not run":
            raise DataError(f"{outcome.id} could not be run: {outcome.reason}")
