"""Pieces of work by turns, A B A B, timed; and how much of the machine others used meanwhile."""

import os
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAT = Path("/proc/stat")
QUOTABLE = 0.03
"""The most that other programs may use, as a share of all cores, for a figure to be quoted."""
_SHORTEST = 0.5  # seconds in which the kernel's clock, of 10 ms, tells 3% from nothing
_IDLE, _IOWAIT, _GUEST = 3, 4, 8  # columns of the line `cpu`; guests are counted under user, too
_TRIALS = 5

Work = Callable[[], Any]


@dataclass(frozen=True)
class Turns:
    """Seconds of each turn and what it gave, by name, and what else went on meanwhile."""

    seconds: dict[Any, list[float]]
    results: dict[Any, list[Any]]
    others: float | None
    """CPU time of other programs, as a share of all cores."""
    window: float
    """Seconds from the first turn's start to the last one's end."""

    def median(self, name: Hashable) -> float:
        """The median turn's seconds."""
        return statistics.median(self.seconds[name])


def take_turns(works: Mapping[Any, Work], count: int) -> Turns:
    """`count` turns of each, in turn: whatever slows the machine for a while slows all of them."""
    seconds: dict[Any, list[float]] = {name: [] for name in works}
    results: dict[Any, list[Any]] = {name: [] for name in works}
    before, start = cpu_times(), time.perf_counter()
    for _ in range(count):
        for name, work in works.items():
            began = time.perf_counter()
            result = work()
            seconds[name].append(time.perf_counter() - began)
            results[name].append(result)
    others = share_of_others(before, cpu_times())
    return Turns(seconds, results, others, time.perf_counter() - start)


def least_seconds(function: Callable[[], Any]) -> float:
    """The shortest of some trials, after one that does not count."""
    function()
    seconds = []
    for _ in range(_TRIALS):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def cpu_times() -> tuple[float, float, float] | None:
    """Seconds of all cores that were busy, that passed at all, and that were this process's.

    Those of its children that have ended are its own, too. None where /proc does not tell.
    """
    try:
        line = STAT.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    ticks = [int(field) for field in line[1 : 1 + _GUEST]]
    total = sum(ticks)
    busy, second = total - ticks[_IDLE] - ticks[_IOWAIT], os.sysconf("SC_CLK_TCK")
    return busy / second, total / second, sum(os.times()[:4])


def share_of_others(
    before: tuple[float, float, float] | None, after: tuple[float, float, float] | None
) -> float | None:
    """CPU time of other programs between two `cpu_times`, as a share of all cores, or None.

    That is all time in which a core was not idle, also taken by another machine on the same host,
    less this process's own.
    """
    if before is None or after is None:
        return None
    busy, total, own = (late - early for early, late in zip(before, after, strict=True))
    return max(0.0, busy - own) / total if total > 0 else 0.0


def verdict(share: float | None, seconds: float) -> str:
    """Whether a run of so many seconds may be quoted, in a line."""
    if share is None:
        return "not quotable: this system has no /proc that tells what other programs used"
    if share > QUOTABLE:
        return f"not quotable: other programs used {share:.0%} of the CPU"
    if seconds < _SHORTEST:
        return f"not quotable: {seconds:.2f} s are too few to see other programs; take more steps"
    return f"other programs used {share:.1%} of the CPU"
