"""Spikes of the training loss: steps far above those before them."""

import math
from collections import deque

_WINDOW = 128
_DEVIATIONS = 6


class SpikeWatch:
    """Tells of each loss whether it exceeds the mean of the last 128 by 6 standard deviations."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque()
        self._sum = self._squares = 0.0

    def __call__(self, loss: float) -> bool:
        """Take the next step's loss; False before there are 128 to compare it with."""
        spike = len(self._losses) == _WINDOW and loss > self._limit()
        self._losses.append(loss)
        self._sum, self._squares = self._sum + loss, self._squares + loss**2
        if len(self._losses) > _WINDOW:
            oldest = self._losses.popleft()
            self._sum, self._squares = self._sum - oldest, self._squares - oldest**2
        return spike

    def _limit(self) -> float:
        mean = self._sum / _WINDOW
        # The sums are rounded: losses that are all alike must not vary by it.
        variance = max(self._squares / _WINDOW - mean**2, 1e-12 * mean**2)
        return mean + _DEVIATIONS * math.sqrt(variance)
