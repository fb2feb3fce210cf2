"""What a person sees of a run while it goes on, and what a machine reads: metrics.jsonl."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOBase
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxgpt.terminal import escape, say, showable

METRICS = "metrics.jsonl"


class Reporter:
    """Shows progress on `stream`, a bar on a terminal and lines elsewhere, and records metrics.

    When a run resumes at `first_step`, the records of later steps are dropped from
    `run/metrics.jsonl`: those steps will be taken, and recorded, again.
    """

    def __init__(
        self,
        run: Path,
        steps: int,
        first_step: int,
        stream: TextIOBase | None = None,
        unit: str = "tokens",
    ):
        self._path, self._steps, self._shown = run / METRICS, steps, first_step
        self._unit = unit  # of what the targets of a step count
        self._stream: Any = sys.stderr if stream is None else stream  # None where it is closed
        self._bar = None
        if self._stream is not None and self._stream.isatty():
            self._bar = tqdm(total=steps, initial=first_step, file=self._stream, unit="step")
        self.records = [item for item in read_metrics(run) if item["step"] <= first_step]
        self.empty_batches = sum("empty_batches" in item for item in self.records)
        _replace(self._path, "".join(json.dumps(item) + "\n" for item in self.records))
        self._began: float | None = None
        self._paused = self._targets = self._steps_taken = 0.0

    def train(self, step: int, metrics: dict[str, float], targets: int, *, record: bool) -> None:
        """Show a step's `loss`, `learning_rate` and `grad_norm`; `record` also writes them down.

        The first call starts the clock: the step before it spent its time compiling.
        """
        if self._began is None:
            self._began, self._paused = time.monotonic(), 0.0
        else:
            self._targets += targets
            self._steps_taken += 1
        speed = self.targets_per_second
        summary = f"loss {metrics['loss']:.4f}  lr {metrics['learning_rate']:.2e}"
        summary += f"  {speed:,.0f} {self._unit}/s" if speed else ""
        if self._bar is not None:
            self._show(self._bar.set_postfix_str, summary, refresh=False)
            self._show(self._bar.update, step - self._shown)
        elif record:
            self.say(f"step {step:>{len(str(self._steps))}}/{self._steps}  {summary}{self._left()}")
        self._shown = step
        if record:
            self.record({"step": step, **metrics, f"{self._unit}_per_second": round(speed, 1)})

    def empty_step(self, step: int) -> None:
        """Count a step whose batch had no target and changed nothing; say so at the first."""
        self.empty_batches += 1
        if self.empty_batches == 1:
            self.say(
                f"warning: the batch of step {step} has no target, so nothing is learnt from it; "
                f"such batches are counted as empty_batches in {self._path.name}"
            )
        self.record({"step": step, "empty_batches": self.empty_batches})

    @property
    def targets_per_second(self) -> float:
        """Training targets per second since the clock started, pauses not counted; 0 before."""
        return self._targets / self._working() if self._targets else 0.0

    def _working(self) -> float:
        return max(time.monotonic() - (self._began or 0.0) - self._paused, 1e-9)

    def _left(self) -> str:
        if not self._steps_taken:
            return ""
        seconds = (self._steps - self._shown) * self._working() / self._steps_taken
        minutes, seconds = divmod(round(seconds), 60)
        return f"  {minutes}:{seconds:02d} left"

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Stop the clock while something other than training is done."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def record(self, item: dict[str, Any]) -> None:
        """Append one record to the metrics; a disk that refuses it is a warning, not the end."""
        self.records.append(item)
        try:
            with open(self._path, "a") as file:
                file.write(json.dumps(item) + "\n")
        except OSError as error:
            self.say(f"warning: {self._path} could not be written: {error}")

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
            self._bar = self._stream = None

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._show(self._bar.close)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run so far; a line that was cut off by a kill, or damaged, ends them."""
    records = []
    if (run / METRICS).is_file():
        for line in (run / METRICS).read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
                int(record["step"])
            except (ValueError, KeyError, TypeError):
                break
            records.append(record)
    return records


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text)
    os.replace(draft, path)
