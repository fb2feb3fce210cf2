"""The look of every picture: one size, one place for a legend, one meaning for a colour."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxgpt.files import draft_of
from jaxgpt.terminal import one_line

COLORS = {
    "training": "#3f78b0",
    "validation": "#d1495b",
    "chosen": "#2a9d8f",
    "rejected": "#e08e1b",
    "jaxgpt": "#20303c",
    "PyTorch": "#c3b1e1",
}
"""What a curve is, and its colour in whatever picture it stands."""
INK, LIMIT, BARS = "#20303c", "#3c6e47", "#9fb3c8"
"""Of what stands for itself, of a line that something else is held against, and of counts."""

_LOG_FROM = 8  # times the smallest value: below, a linear axis shows both ends
_MOST_TITLE = 90  # characters of a title's line that the width has room for
_MOST_LEGEND = 95  # and of all that stands in one line of a legend


@contextmanager
def picture(path: Path, title: str, heights: Sequence[float], *, width: int = 8) -> Iterator[Any]:
    """Axes one above the other, of these heights in inches, drawn as a PNG to `path` in the end.

    Text is drawn as it is, whatever it contains; what the font has no sign for is a box.
    """
    import matplotlib as mpl  # slow to import, rarely needed
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure = Figure(figsize=(width, sum(heights)), layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(len(heights), height_ratios=heights, squeeze=False)[:, 0]
        yield rows
        for axes in rows:
            _finish(axes)
        figure.suptitle(_shortened(title), x=0.01, ha="left", fontsize=11, color=INK)
        with draft_of(path) as draft:
            figure.savefig(draft, dpi=120, format="png")


def _finish(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.label.set_multialignment("center")
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    if not axes.images:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    if handles:  # above the axes, where no curve can run
        axes.legend(
            handles,
            labels,
            frameon=False,
            fontsize=9,
            ncols=len(labels) if len("".join(labels)) <= _MOST_LEGEND else 2,
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            borderaxespad=0.2,
            columnspacing=1.4,
        )


def _shortened(title: str) -> str:
    lines = [one_line(line) for line in title.splitlines()]
    return "\n".join(
        line if len(line) <= _MOST_TITLE else f"{line[: _MOST_TITLE - 3]}..." for line in lines
    )


def fit_scale(axes: Any, values: Sequence[float], *, log: bool = False) -> None:
    """Let the y axis show `values`, with plain numbers for ticks.

    With `log` it is their logarithm, if the largest is so many times the smallest that the ends
    would not be told apart otherwise.
    """
    from matplotlib import ticker

    values = [value for value in values if math.isfinite(value)]
    if not values:
        return
    low, high = min(values), max(values)
    if log and 0 < low * _LOG_FROM < high:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.25, high * 1.25)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.set_ylabel(f"{axes.get_ylabel()}, log scale")
    else:
        room = 0.06 * (high - low) or 0.06 * abs(high) or 0.06
        axes.set_ylim(low - room, high + room)


def as_counts(axis: Any) -> None:
    """An axis of whole numbers."""
    from matplotlib import ticker

    axis.set_major_locator(ticker.MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter("{x:,.0f}")


def as_percentages(axis: Any) -> None:
    """An axis of shares from 0 to 1, in percent."""
    from matplotlib import ticker

    axis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
    axis.axes.set(**{f"{axis.axis_name}lim": (0, 1.04)})
