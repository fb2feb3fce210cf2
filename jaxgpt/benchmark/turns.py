"""Several pieces of work by turns, A B A B, timed one after another."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxgpt.benchmark.busy import Bystanders

Work = Callable[[], Any]


@dataclass(frozen=True)
class Turns:
    """Seconds of each turn and what it gave, by name, and what else went on meanwhile."""

    seconds: dict[str, list[float]]
    results: dict[str, list[Any]]
    others: float | None
    """CPU time of other programs, as a share of all cores."""
    window: float
    """Seconds from the first turn's start to the last one's end."""

    def median(self, name: str) -> float:
        """The median turn's seconds."""
        return statistics.median(self.seconds[name])


def take_turns(works: Mapping[str, Work], count: int) -> Turns:
    """`count` turns of each, in turn: whatever slows the machine for a while slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    results: dict[str, list[Any]] = {name: [] for name in works}
    bystanders, start = Bystanders(), time.perf_counter()
    for _ in range(count):
        for name, work in works.items():
            began = time.perf_counter()
            result = work()
            seconds[name].append(time.perf_counter() - began)
            results[name].append(result)
    return Turns(seconds, results, bystanders.share(), time.perf_counter() - start)
