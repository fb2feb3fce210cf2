"""Progress on stderr of what reads, downloads and learns: a bar, or a line now and then."""

import sys
import time

from tqdm import tqdm

from jaxgpt.terminal import escape, note, showable


class Progress:
    """Progress on stderr, in bytes, merges or steps: a bar on a terminal, else lines."""

    _QUIET = 5.0  # seconds between lines

    def __init__(self) -> None:
        self._label, self._bar, self._due = "", None, time.monotonic() + self._QUIET

    def __call__(self, label: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes, merges or steps of what `label` names are through."""
        counts = label == "learning merges" or label.startswith("steps of ")
        if sys.stderr.isatty():
            if self._bar is None or self._label != label:
                self._label = label
                self._bar = tqdm(
                    desc=showable(escape(label), sys.stderr),
                    total=total,
                    unit="" if counts else "B",
                    unit_scale=True,
                    leave=False,
                )
            self._bar.update(done - self._bar.n)
            if done == total:
                self._bar.close()
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + self._QUIET
            scale, unit = (1, "") if counts else (1e6, " MB")
            of = "" if total is None else f" of {total / scale:,.0f}"
            note(f"{label}: {done / scale:,.0f}{of}{unit}")
