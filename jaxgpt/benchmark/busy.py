"""How much of the machine other programs used while something was measured."""

import os
from collections.abc import Callable
from pathlib import Path

STAT = Path("/proc/stat")
QUOTABLE = 0.03
"""The most that other programs may use, as a share of all cores, for a figure to be quoted."""
_SHORTEST = 0.5  # seconds in which the kernel's clock, of 10 ms, tells 3% from nothing
_IDLE, _IOWAIT, _GUEST = 3, 4, 8  # columns of the line `cpu`; guests are counted under user, too


class Bystanders:
    """A window of time, from its making to `share`, and what other programs did in it."""

    def __init__(self, stat: Path = STAT, own: Callable[[], float] | None = None):
        self._stat, self._own = stat, own or own_seconds
        self._before = self._read()

    def share(self) -> float | None:
        """CPU time of other programs, as a share of all cores; None where /proc does not tell.

        That is all time in which a core was not idle, also taken by another machine on the same
        host, less that of this process and of its children that have ended.
        """
        before, after = self._before, self._read()
        if before is None or after is None:
            return None
        busy, total, own = (late - early for early, late in zip(before, after, strict=True))
        return max(0.0, busy - own) / total if total > 0 else 0.0

    def _read(self) -> tuple[float, float, float] | None:
        """Seconds of all cores that were busy, that passed at all, and that were this process's."""
        try:
            line = self._stat.read_text().splitlines()[0].split()
        except (OSError, IndexError):
            return None
        ticks = [int(field) for field in line[1 : 1 + _GUEST]]
        total = sum(ticks)
        busy = total - ticks[_IDLE] - ticks[_IOWAIT]
        second = os.sysconf("SC_CLK_TCK")
        return busy / second, total / second, self._own()


def own_seconds() -> float:
    """CPU seconds of this process, and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def verdict(share: float | None, seconds: float) -> str:
    """Whether a run of so many seconds may be quoted, in a line."""
    if share is None:
        return "not quotable: this system has no /proc that tells what other programs used"
    if share > QUOTABLE:
        return f"not quotable: other programs used {share:.0%} of the CPU"
    if seconds < _SHORTEST:
        return f"not quotable: {seconds:.2f} s are too few to see other programs; take more steps"
    return f"other programs used {share:.1%} of the CPU"
