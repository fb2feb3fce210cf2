"""How often one model's answers are better than others, by the verdicts of a judge."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxgpt.assistant.judge import Verdict
from jaxgpt.errors import DataError
from jaxgpt.finetuning.instructions import conversation
from jaxgpt.finetuning.records import Record, read_records, usable

_OUTCOMES: dict[tuple[Verdict | None, ...], str] = {("A", "B"): "win", ("B", "A"): "loss"}


class Pair(NamedTuple):
    """A question and two answers to it."""

    question: str
    answer: str
    against: str


@dataclass(frozen=True)
class WinRate:
    """How often the answers won, tied and lost; `unreadable` counts pairs without a verdict."""

    wins: int
    ties: int
    losses: int
    unreadable: int

    @property
    def judged(self) -> int:
        """The number of pairs with a verdict."""
        return self.wins + self.ties + self.losses

    @property
    def rate(self) -> float:
        """The share of these pairs that were won, a tie being half a win."""
        return (self.wins + self.ties / 2) / self.judged

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval of the rate, by the formula of Wilson (1927).

        It takes each pair for a win or a loss; with many ties, which vary less, it is too wide.
        """
        z, n, rate = 1.959964, self.judged, self.rate
        middle = rate + z**2 / (2 * n)
        half = z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
        scale = 1 + z**2 / n
        return (middle - half) / scale, (middle + half) / scale


def win_rate(compare: Callable[[str, str, str], Verdict | None], pairs: Iterable[Pair]) -> WinRate:
    """How often each pair's `answer` is better than what it stands `against`.

    `compare` is a `Judge`'s. Each pair is judged in both orders, as judges prefer a place, often
    the first: a win needs both verdicts, and so does a loss (Zheng et al. 2023). Answers that are
    the same tie unjudged. Raises DataError if no pair got a verdict, and as `Judge.compare` does.
    """
    counts: Counter[str] = Counter()
    for question, answer, against in pairs:
        if answer.strip() == against.strip():
            counts["tie"] += 1
            continue
        verdicts = compare(question, answer, against), compare(question, against, answer)
        counts[_OUTCOMES.get(verdicts, "unreadable" if None in verdicts else "tie")] += 1
    result = WinRate(counts["win"], counts["tie"], counts["loss"], counts["unreadable"])
    if not result.judged:
        raise DataError(
            f"none of {result.unreadable} pairs got a verdict in one word (A, B or tie) in both "
            "orders; ask another judge"
        )
    return result


def read_pairs(answers: Sequence[str | Path], against: Sequence[str | Path] = ()) -> list[Pair]:
    """The field `answer` of the records in `answers`, each against that of one in `against`.

    Without `against`, each against the record's own output. The records are those of
    `read_conversations`. Raises DataError as that does, for a record without `answer`, and for
    files that do not have the same questions in the same order.
    """
    ours = read_records(answers)
    theirs = read_records(against) if against else ours
    if len(ours) != len(theirs):
        raise DataError(
            f"{len(ours)} answers cannot be compared with {len(theirs)}; give files that answer "
            "the same questions in the same order"
        )

    def pair(records: tuple[Record, Record]) -> Pair:
        record, other = records
        asked, same = conversation(record), conversation(other)
        if asked.prompt != same.prompt:
            raise DataError(
                f"{record.where} and {other.where} have different questions; give files that "
                "answer the same ones in the same order"
            )
        question = "\n".join(f"{turn.role}: {turn.text}" for turn in asked.prompt)
        return Pair(question, _answer(record), _answer(other) if against else same.answer)

    return [item for _, item in usable(list(zip(ours, theirs, strict=True)), pair)]


def _answer(record: Record) -> str:
    """The answer, which a model may have left empty."""
    return record.text("answer", required=record.fields.get("answer") != "")
