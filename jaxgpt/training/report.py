"""What a person sees of a run while it goes on."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import TextIOBase
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxgpt.terminal import escape, is_muted, say, showable
from jaxgpt.training.metrics import METRICS, MetricsFile

_COMPILING = "compiling"
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Reporter:
    """Shows progress on `stream`, a bar on a terminal and lines elsewhere, and records metrics.

    The run goes on after `first_step`; its records are those of `MetricsFile`, or of this process
    alone where there is no folder `run`.
    """

    def __init__(
        self,
        run: Path | None,
        steps: int,
        first_step: int,
        stream: TextIOBase | None = None,
        unit: str = "tokens",
    ):
        self._steps, self._shown = steps, first_step
        self._spike = 0  # the last step whose loss was one
        self._unit = unit  # of what the targets of a step count
        self._stream: Any = sys.stderr if stream is None else stream  # None where it is closed
        if is_muted():
            self._stream = None
        self._bar = None
        if self._stream is not None and self._stream.isatty():
            self._show(self._begin_bar)
        self._metrics = None if run is None else MetricsFile(run, first_step)
        self._refused = False
        if self._metrics and self._metrics.complaint:
            self.say(f"warning: {self._metrics.complaint}")
        self.records = self._metrics.records if self._metrics else []
        self.empty_batches = sum("empty_batches" in item for item in self.records)
        self._began: float | None = None
        self._paused = self._targets = self._steps_taken = 0.0

    def _begin_bar(self) -> None:
        steps, shown = self._steps, self._shown
        self._bar = tqdm(total=steps, initial=shown, file=self._stream, bar_format=_BAR)

    def compiling(self) -> None:
        """Say so, in place of a bar that stands still, until the first step is shown."""
        if self._bar is None:
            self.say(_COMPILING)
        else:
            self._bar.bar_format = _COMPILING
            self._show(self._bar.refresh)

    def train(self, step: int, metrics: dict[str, float], targets: int, *, record: bool) -> None:
        """Show a step's `loss` and, if given, `learning_rate`; `record` also writes all down.

        The first call starts the clock, as its step spent its time compiling: speed and time left
        are shown from the second on.
        """
        if self._began is None:
            self._began, self._paused = time.monotonic(), 0.0
        else:
            self._targets += targets
            self._steps_taken += 1
        speed = self.targets_per_second
        summary = f"loss {metrics['loss']:.4f}"
        summary += f"  lr {metrics['learning_rate']:.2e}" if "learning_rate" in metrics else ""
        summary += f"  {speed:,.0f} {self._unit}/s{self._left(step)}" if speed else ""
        if self._bar is not None:
            self._bar.bar_format = _BAR
            self._show(self._bar.set_postfix_str, summary, refresh=False)
            self._show(self._bar.update, step - self._shown)
        elif record:
            self.say(f"step {step:>{len(str(self._steps))}}/{self._steps}  {summary}")
        self._shown = step
        if record:
            self.record({"step": step, **metrics, f"{self._unit}_per_second": round(speed, 1)})

    def empty_step(self, step: int) -> None:
        """Count a step whose batch had no target and changed nothing; say so at the first."""
        self.empty_batches += 1
        if self.empty_batches == 1:
            self.say(
                f"warning: the batch of step {step} has no target, so nothing is learnt from it; "
                f"such batches are counted as empty_batches in {METRICS}"
            )
        self.record({"step": step, "empty_batches": self.empty_batches})

    def skipped_step(self, step: int, what: str) -> None:
        """Say and record that a step was left out because its numbers were not finite."""
        self.say(f"warning: {what}. The step was skipped and has changed nothing")
        self.record({"step": step, "skipped_batch": step - 1})

    def spike(self, step: int, loss: float) -> None:
        """Record a loss far above those before it; say so where the step before had none."""
        if self._spike != step - 1:
            self.say(
                f"warning: loss {loss:.4f} at step {step} is far above those of the last 128 steps "
                "(by 6 standard deviations); if it does not come down, lower --learning-rate or "
                "set --gradient-clip"
            )
        self._spike = step
        self.record({"step": step, "loss_spike": loss})

    @property
    def targets_per_second(self) -> float:
        """Training targets per second since the clock started, pauses not counted; 0 before."""
        return self._targets / self._working() if self._targets else 0.0

    def _working(self) -> float:
        return max(time.monotonic() - (self._began or 0.0) - self._paused, 1e-9)

    def _left(self, step: int) -> str:
        left = timedelta(seconds=round((self._steps - step) * self._working() / self._steps_taken))
        return f"  {str(left).removeprefix('0:')} left"

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Stop the clock while something other than training is done."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def record(self, item: dict[str, Any]) -> None:
        """Append one record to the metrics; a disk that refuses it is a warning, not the end."""
        if self._metrics is None:
            self.records.append(item)
            return
        try:
            self._metrics.append(item)
            self._refused = False
        except OSError as error:
            if not self._refused:
                self.say(f"warning: {METRICS} cannot be written, and is tried again: {error}")
            self._refused = True

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._show(tqdm.write, showable(escape(text), self._stream), file=self._stream)
        elif self._stream is not None:
            self._show(say, text, stream=self._stream)

    def _show(self, write: Callable, *what: Any, **how: Any) -> None:
        try:
            write(*what, **how)
        except (OSError, ValueError):  # the terminal or pipe is closed; the run goes on without
            if self._bar is not None:
                self._bar.disable = True  # or it would write once more when it is collected
            self._bar = self._stream = None

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._show(self._bar.close)
