"""Stopping a run from outside without losing a step."""

import os
import signal
from types import FrameType

from jaxgpt.terminal import note


class StopSignal:
    """While entered, notes Ctrl-C, SIGTERM and SIGUSR1 instead of dying of them.

    The loop asks `number` after each step, saves, and leaves. A second signal ends the process at
    once, with exit code 128 + n. SIGHUP is ignored, so that a closed terminal does not end a run.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self):
        self.number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in self._SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        name = signal.Signals(number).name
        note(f"\n{name}: finishing this step, then saving")
