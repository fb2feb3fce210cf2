"""A probabilistic grammar: an ordered list of choices, whose last one is the text.

Each choice is a draw from an urn of texts. Which urn it draws from may depend on one earlier
choice, and a text may hold `{slots}` that are filled with what earlier choices drew. Choices that
depend on one earlier choice at most form a forest, so probabilities follow from one pass over them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import log2
from typing import Any

from jaxgpt.errors import ConfigError

Urn = Mapping[str, int]  # alternative -> weight


@dataclass(frozen=True)
class Choice:
    """A draw from `urns[what the choice named given drew]`, or from `urns[""]` if none is given."""

    urns: Mapping[str, Urn]
    given: str = ""


@dataclass(frozen=True)
class Span:
    """Piece of a text, its characters from `start` up to `end`, that one choice wrote."""

    start: int
    end: int
    choice: str
    bits: float
    """What it tells a reader of all before it, be it of this choice or of others."""


def words(line: str) -> Urn:
    """Read "red 3, dark blue" as an urn: three balls say red, one says dark blue.

    Raises ConfigError if an alternative is empty or stands there twice.
    """
    urn: dict[str, int] = {}
    for entry in line.split(","):
        text, weight = entry.split(), 1
        if len(text) > 1 and text[-1].isdecimal():
            weight = int(text.pop())
        alternative = " ".join(text)
        if not alternative or alternative in urn:
            raise ConfigError(f"{alternative!r} is empty or stands twice in {line!r}; name it once")
        urn[alternative] = weight
    return urn


def one_of(urn: str | Urn) -> Choice:
    """A choice that depends on nothing; the urn is a dict or a line for `words`."""
    return Choice({"": words(urn) if isinstance(urn, str) else urn})


def by(given: str, **urns: str | Urn) -> Choice:
    """A choice whose urn is named by what the earlier choice `given` drew."""
    read = {label: words(urn) if isinstance(urn, str) else urn for label, urn in urns.items()}
    return Choice(read, given)


def slots(text: str) -> list[str]:
    """The names in braces, in order: `slots("{she} saw {hero}") == ["she", "hero"]`."""
    return re.findall(r"{(\w+)}", text)


@dataclass(frozen=True)
class Parse:
    """What a text says of a grammar's choices, or where it leaves the grammar's language."""

    facts: Mapping[str, str] | None
    """Choice -> what it drew, as far as the text says; None if the grammar cannot write it."""
    end: int
    """How many of its characters can be read: all, or those before what does not fit."""
    expected: frozenset[str]
    """The choices of which one would have to go on there, or else end; empty if all fits."""


class Grammar:
    """Named choices in the order they are made; the text is what the last one draws.

    Raises ConfigError for no choices, a weight below 1, a slot or `given` that names no earlier
    choice, an urn that is missing or empty, or one picked by a text that has slots of its own.
    """

    def __init__(self, choices: Mapping[str, Choice]):
        _check(choices)
        self.choices = dict(choices)
        self._steps = [
            (name, choice.given, {label: _balls(urn) for label, urn in choice.urns.items()})
            for name, choice in self.choices.items()
        ]

    def draw(self, numbers: Sequence[int]) -> tuple[dict[str, str], float]:
        """Make every choice, each with one uniform integer in [0, 2**64).

        Returns what each choice drew, and the bits: -log2 of the probability of all of it. The
        remainder favours the first balls of an urn by less than 2**-50, below float rounding.
        """
        facts: dict[str, str] = {}
        bits = 0.0
        for number, (name, given, urns) in zip(numbers, self._steps, strict=True):
            balls = urns[facts[given] if given else ""]
            text, has_slots, surprise = balls[number % len(balls)]
            facts[name] = text.format_map(facts) if has_slots else text
            bits += surprise
        return facts, bits

    def parse(self, text: str, *, remember: bool = True) -> Parse:
        """The choices that write `text`, by trying all and going back where one does not fit.

        Without `remember`, each sentence may contradict those before it: a slot is read anew
        wherever it stands, and from any urn of its choice.
        """
        end, expected = 0, set[str]()

        def miss(name: str, at: int) -> None:
            nonlocal end
            if at > end:
                expected.clear()
            end = max(end, at)
            if at == end:
                expected.add(name)

        def read(owner: str, pieces: list[str], at: int, facts: dict[str, str]) -> Iterator[Any]:
            if not pieces:
                yield at, facts
                return
            name = pieces[0][1:-1] if pieces[0][0] == "{" else ""
            if name and not (remember and name in facts):
                for after, known in draw(name, at, facts):
                    yield from read(owner, pieces[1:], after, known | {name: text[at:after]})
                return
            wanted = facts[name] if name else pieces[0]
            if text.startswith(wanted, at):
                yield from read(owner, pieces[1:], at + len(wanted), facts)
            else:
                miss(name or owner, at)

        def draw(name: str, at: int, facts: dict[str, str]) -> Iterator[Any]:
            choice, known = self.choices[name], facts
            labels = [facts[choice.given]] if remember and choice.given in facts else choice.urns
            for label in labels:
                if choice.given:
                    known = facts | {choice.given: label}
                for alternative in choice.urns[label]:
                    yield from read(name, re.findall(r"{\w+}|[^{]+", alternative), at, known)

        last = next(reversed(self.choices))
        for after, facts in draw(last, 0, {}):
            if after == len(text):
                return Parse(facts, after, frozenset())
            miss(last, after)
        return Parse(None, end, frozenset(expected))

    def spans(self, facts: Mapping[str, str]) -> list[Span]:
        """Spans of the text of `facts`, which `draw` made: every character once, in order.

        A choice writes the letters around its slots, and each slot's own choice what stands there,
        as often as it stands there. Bits fall on the letter or slot in which what was drawn parts
        from the other alternatives; those of a choice that writes nothing, on the first span of one
        that is given it. Together they are those of `draw`, less what the text leaves open.
        """
        spans: list[Span] = []
        told: set[str] = set()

        def write(name: str, bits: float) -> float:
            """Add the spans of a choice; takes bits that are not told yet, and gives those left."""
            urn, drawn = self._drawn(name, facts)
            alike = {_tokens(text): urn[text] for text in ([drawn] if name in told else urn)}
            told.add(name)
            given, begins = self.choices[name].given, True
            while given and given not in told:
                others, hidden = self._drawn(given, facts)
                bits += log2(sum(others.values()) / others[hidden])
                told.add(given)
                given = self.choices[given].given
            for place, token in enumerate(_tokens(drawn)):
                before = sum(alike.values())
                alike = {key: n for key, n in alike.items() if key[place : place + 1] == (token,)}
                bits += log2(before / sum(alike.values()))
                if len(token) > 1:
                    bits, begins = write(token[1:-1], bits), True
                    continue
                end = spans[-1].end if spans else 0
                joined = Span(end, end, name, 0.0) if begins else spans.pop()
                spans.append(replace(joined, end=end + 1, bits=joined.bits + bits))
                bits, begins = 0.0, False
            return bits + log2(sum(alike.values()) / urn[drawn])

        left = write(next(reversed(self.choices)), 0.0)
        if spans:
            spans[-1] = replace(spans[-1], bits=spans[-1].bits + left)
        return spans

    def _drawn(self, name: str, facts: Mapping[str, str]) -> tuple[Urn, str]:
        """The urn that a choice drew from, and which of its alternatives that was."""
        choice = self.choices[name]
        urn = choice.urns[facts[choice.given] if choice.given else ""]
        return urn, next(text for text in urn if text.format_map(facts) == facts[name])

    def entropy(self) -> float:
        """Expected bits of one draw of the whole grammar, exact up to float rounding.

        By the chain rule it is the sum of the choices' entropies, each averaged over what it is
        given (Shannon, 1948, section 6). It is the entropy of the text if no two draws agree in it.
        """
        bits = 0.0
        chances: dict[str, dict[str, float]] = {"": {"": 1.0}}
        for name, choice in self.choices.items():
            chances[name] = dict.fromkeys((text for urn in choice.urns.values() for text in urn), 0)
            for label, chance in chances[choice.given].items():
                urn = choice.urns.get(label, {})
                for text, weight in urn.items():
                    share = weight / sum(urn.values())
                    bits -= chance * share * log2(share)
                    chances[name][text] += chance * share
        return bits


@lru_cache(maxsize=4096)
def _tokens(text: str) -> tuple[str, ...]:
    """Letters and `{slots}`, in order."""
    return tuple(re.findall(r"{\w+}|.", text, re.DOTALL))


def _balls(urn: Urn) -> list[tuple[str, bool, float]]:
    """As many balls per text as its weight says: (text, whether it has slots, bits)."""
    total = sum(urn.values())
    return [
        (text, "{" in text, log2(total / weight))
        for text, weight in urn.items()
        for _ in range(weight)
    ]


def _check(choices: Mapping[str, Choice]) -> None:
    """Refuse what could not be drawn; each choice is checked against the ones before it."""
    if not choices:
        raise ConfigError("a grammar has no choices; the last one is its text")
    drawn: dict[str, set[str]] = {"": {""}}
    for name, choice in choices.items():
        if choice.given not in drawn:
            raise ConfigError(f"choice {name!r} is given {choice.given!r}, which is no earlier one")
        for label in drawn[choice.given]:
            if "{" in label:
                raise ConfigError(f"choice {name!r} is given {label!r}; only plain texts pick urns")
            if not choice.urns.get(label):
                raise ConfigError(f"choice {name!r} has nothing to draw for {label!r}")
        for text, weight in (pair for urn in choice.urns.values() for pair in urn.items()):
            if weight < 1:
                raise ConfigError(f"choice {name!r} has a weight of {weight}; weights start at 1")
            if re.search(r"[{}]", re.sub(r"{\w+}", "", text)):
                raise ConfigError(f"choice {name!r} has a brace too many or too few in {text!r}")
            for slot in slots(text):
                if slot not in drawn:
                    raise ConfigError(
                        f"choice {name!r} has the slot {slot!r}, which is no earlier one"
                    )
        drawn[name] = {text for urn in choice.urns.values() for text in urn}
