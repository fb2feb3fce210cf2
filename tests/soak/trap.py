"""What befalls a process from within: a signal amid its work on files, numbers that fail it.

The work is known by the audit events that Python raises for each thing done to a file, so that
nothing of the package is replaced to be killed in its midst.
"""

import os
import re
import signal
import sys
import threading
from dataclasses import dataclass, replace
from random import Random
from typing import Any

_MOMENTS = {  # what it begins with, how often it comes at most, what else is done to files in it
    "start": (None, 1, 0),
    "data": (("os.mkdir", r"/\.tokens\.\w+\.partial$"), 1, 40),
    "step": (("open", r"/metrics\.jsonl$"), 12, 0),
    "save": (("os.mkdir", r"/checkpoints/\.\d{8}\.\d+\.tmp$"), 5, 150),
    "prune": (("shutil.rmtree", r"/checkpoints/\d{8}$"), 3, 60),
    "end": (("os.rename", r"/checkpoints/{last}$"), 1, 60),
}
MOMENTS = tuple(_MOMENTS)
_LONGEST = {"start": 3.0, "step": 0.2}  # seconds before the signal; elsewhere 0.02, or none
_GENTLE = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@dataclass(frozen=True)
class Trap:
    """A signal to the process itself: the moment, which time it comes, and how far into it."""

    number: int
    moment: str
    turn: int
    further: int
    wait: float
    last: str
    """The name of the run's last checkpoint."""

    @property
    def mark(self) -> str:
        """What it says on stderr when it springs."""
        return f"-- {signal.Signals(self.number).name}"

    def __str__(self) -> str:
        place = f"{self.moment} {self.turn}, {self.further} further, {self.wait * 1000:.0f} ms"
        return f"{signal.Signals(self.number).name} in {place}"

    def set(self) -> None:
        """Wait for the moment in this process."""
        begins, _, _ = _MOMENTS[self.moment]
        if begins is None:
            self._spring()
            return
        first, pattern = begins[0], re.compile(begins[1].replace("{last}", self.last))
        turns, further = self.turn, self.further

        def heed(event: str, given: tuple[Any, ...]) -> None:
            nonlocal turns, further
            if not event.startswith(("os.", "open", "shutil.")):
                return
            if turns:
                turns -= event == first and any(pattern.search(str(name)) for name in given)
                if turns:
                    return
            further -= 1  # first, for a signal is such an event too
            if further == -1:
                self._spring()

        sys.addaudithook(heed)

    def _spring(self) -> None:
        if not self.wait:
            self._send()
            return
        timer = threading.Timer(self.wait, self._send)
        timer.daemon = True
        timer.start()

    def _send(self) -> None:
        os.write(2, f"{self.mark}\n".encode())
        os.kill(os.getpid(), self.number)


def draw_trap(kind: str, moment: str, last: str, rng: Random) -> Trap:
    """A trap with SIGKILL if `kind` is kill, else with one of the signals that end a run."""
    number = signal.SIGKILL if kind == "kill" else rng.choice(_GENTLE)
    _, turns, further = _MOMENTS[moment]
    wait = rng.random() * _LONGEST.get(moment, rng.choice((0, 0.02)))
    turn = 1 + int(rng.random() ** 2 * turns)
    return Trap(number, moment, turn, rng.randrange(further + 1), wait, last)


@dataclass(frozen=True)
class Spoiler:
    """One number of the parameters, or of the optimizer's means, that is not finite at a step."""

    part: str
    step: int
    seed: int

    def set(self) -> None:
        """Let the step that this process compiles get such a state."""
        import jax
        import numpy as np

        from jaxgpt.training import run

        compile_step, rng = run.compile_step, Random(self.seed)

        def spoilt(tree: Any) -> Any:
            leaves, structure = jax.tree.flatten(tree)
            at = rng.choice([n for n, leaf in enumerate(leaves) if leaf.ndim])
            values = np.array(leaves[at])
            values.flat[rng.randrange(values.size)] = rng.choice([np.nan, np.inf, -np.inf])
            leaves[at] = jax.device_put(values, leaves[at].sharding)
            return jax.tree.unflatten(structure, leaves)

        def compile_spoilt(*given: Any) -> Any:
            step_fn = compile_step(*given)

            def step(state: Any, batch: Any, number: Any, *rest: Any) -> Any:
                if number == self.step:
                    state = replace(state, **{self.part: spoilt(getattr(state, self.part))})
                return step_fn(state, batch, number, *rest)

            return step

        run.compile_step = compile_spoilt
