"""Figures of the notebooks in one style: opaque, readable in greyscale and at half the size."""

import io
import sys
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, QUIET, LIT, SECOND, CARD = "#20303c", "#9fb3c8", "#d1495b", "#3f78b0", "#eef2f5"
"""Text and lines; what is not spoken of; what is; a second thing; and the ground of a box."""

STAGES = ("text", "tokens", "vectors", "attention", "block", "logits", "token", "text")
"""The path of a text through a GPT, of which each notebook is a part."""

_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
_DPI = 100


def new(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> Any:
    """A figure of so many inches, and its axes: one, or an array of them."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, **options)


def show(figure: Figure, alt: str) -> None:
    """Draw the figure; a notebook shows it, with `alt` for those who do not see it."""
    png = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(png, dpi=_DPI, format="png", metadata={"Software": None})
    if sys.modules.get("IPython") is None:
        return
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        data = {"image/png": png.getvalue(), "text/plain": alt}
        display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def path_strip(current: str, values: Sequence[str]) -> None:
    """Draw the path of a text through a GPT with `current` lit, and a value below each stage."""
    figure, axes = new(11, 1.5)
    axes.set(xlim=(0, len(STAGES)), ylim=(0, 1.5))
    axes.axis("off")
    for place, (stage, value) in enumerate(zip(STAGES, values, strict=True)):
        lit = stage == current
        box(axes, place + 0.06, 0.85, 0.8, 0.5, stage, lit=lit)
        axes.text(place + 0.46, 0.62, value, ha="center", va="top", fontsize=8.5)
        if place:
            arrow(axes, (place - 0.14, 1.1), (place + 0.06, 1.1))
    strip = " > ".join(f"[{stage}]" if stage == current else stage for stage in STAGES)
    show(figure, f"The path of a text, with this notebook's part in brackets: {strip}")


def box(
    axes: Any, x: float, y: float, width: float, height: float, text: str, *, lit: bool = False
) -> None:
    """Draw a box with a text, in the colour of what is spoken of if it is `lit`."""
    shape = FancyBboxPatch(
        (x + 0.04, y + 0.04),
        width - 0.08,
        height - 0.08,
        boxstyle="round,pad=0.04",
        facecolor=LIT if lit else CARD,
        edgecolor=INK,
        linewidth=1.8 if lit else 0.8,
    )
    axes.add_patch(shape)
    axes.text(
        *(x + width / 2, y + height / 2, text),
        ha="center",
        va="center",
        fontsize=9.5,
        color="white" if lit else INK,
        weight="bold" if lit else "normal",
    )


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow from one point to another."""
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 11,
        "color": INK,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.add_patch(FancyArrowPatch(start, end, **style))


def matrix(
    axes: Any,
    values: Any,
    title: str,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    *,
    largest: float | None = None,
    digits: int = 2,
    hidden: Any = None,
) -> None:
    """Draw a matrix as a heat map with its numbers, without those where `hidden` is true."""
    values = np.asarray(values, float)
    most = np.abs(values).max() if largest is None else largest
    hidden = np.zeros(values.shape, bool) if hidden is None else np.asarray(hidden)
    shown = np.ma.masked_array(values, hidden)
    axes.imshow(shown, cmap="Blues", vmin=0, vmax=1.25 * most, aspect="equal")
    for (i, j), value in np.ndenumerate(values):
        dark = value > 0.75 * most and not hidden[i, j]
        text = "" if hidden[i, j] else f"{value:.{digits}f}"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)
    axes.set_title(title, fontsize=11)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8.5)
    axes.set_yticks(range(len(rows)), rows, fontsize=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
