"""Figures as pictures: of a run, and of runs, models and programs beside each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from jaxgpt.training.overfitting import Records
from jaxgpt.training.picture import (
    BARS,
    COLORS,
    INK,
    LIMIT,
    as_counts,
    as_percentages,
    fit_scale,
    picture,
)

Curves = Mapping[str, Float[np.ndarray, " steps"]]
"""Values by step, by name."""

_SHADES = ("#d3dae1", "#b3bec9", "#8f9dac", "#6b7b8c", INK, COLORS["chosen"])
_MOST_NAMES = 48  # that can be read below an axis
_PARTS = 15  # of a curve: a mean is taken over one before each point, and one after
_ONE_BATCH = "loss"  # the record that is of the batch of its step alone


class Panel(NamedTuple):
    """Axes of a run's curves: what lies upwards, and labels (of COLORS) by the records' names."""

    ylabel: str
    curves: Mapping[str, str]
    scale: Literal["linear", "log", "share"] = "linear"
    """A share goes from 0 to 100%."""
    limit: tuple[str, float] | None = None
    """A line to hold the curves against, and what it is."""
    above: float = 0.0
    """What is taken off each value."""


LOSSES = {"loss": "training", "validation_loss": "validation"}


def plot_losses(
    records: Records, path: Path, title: str = "", entropy: float | None = None
) -> None:
    """Draw training and validation loss (nats per token) over the steps, as a PNG at `path`.

    `entropy`, in nats per token, is that of the text where it is known: then there is a second
    panel of how far the losses are above it.
    """
    if entropy is None:
        return plot_curves(records, [Panel("loss (nats per token)", LOSSES)], path, title)
    loss = Panel("loss (nats per token)", LOSSES, limit=("entropy of the text", entropy))
    excess = Panel("loss above the entropy\n(nats per token)", LOSSES, "log", above=entropy)
    return plot_curves(records, [loss, excess], path, title, heights=(3.2, 3.0))


def plot_curves(
    records: Records,
    panels: Sequence[Panel],
    path: Path,
    title: str = "",
    heights: tuple[float, float] = (3.4, 2.6),
) -> None:
    """Draw the curves of each panel over the steps of the records, as a PNG at `path`.

    `heights`, in inches, are that of the first panel and that of each other.
    """
    first, other = heights
    with picture(path, title, [first, *[other] * (len(panels) - 1)]) as rows:
        for axes, panel in zip(rows, panels, strict=True):
            _draw_panel(axes, records, panel)
        rows[-1].set_xlabel("step")


def _draw_panel(axes: Any, records: Records, panel: Panel) -> None:
    """Draw what was measured with a mark each time, and of single batches a mean over the near."""
    axes.set_ylabel(panel.ylabel)
    as_counts(axes.xaxis)
    shown = []
    for name, label in panel.curves.items():
        found = [(item["step"], item[name]) for item in records if name in item]
        points = [(step, _drawable(value) - panel.above) for step, value in found]
        if not points:
            continue
        color, (steps, values) = COLORS[label], map(np.array, zip(*points, strict=True))
        marks: dict[str, Any] = {"marker": "o", "markersize": 4}
        if name == _ONE_BATCH:
            marks, batches = {}, values
            values = running_mean(batches)
            if not np.array_equal(values, batches, equal_nan=True):
                axes.plot(steps, batches, color=color, alpha=0.3, linewidth=0.8)
                label += " (running mean)"
            if panel.scale == "linear":
                shown.extend(batches)
        last = f"{values[-1]:.3f}" if abs(values[-1]) < 1e6 else f"{values[-1]:.3g}"
        axes.plot(steps, values, color=color, label=f"{label}, last {last}", **marks)
        shown.extend(values)
    if panel.limit is not None:
        words, value = panel.limit
        axes.axhline(value, color=LIMIT, linestyle="--", label=f"{words}: {value:.3f}")
        shown.append(value)
    if panel.scale == "share":
        as_percentages(axes.yaxis)
    else:
        fit_scale(axes, shown, log=panel.scale == "log")


def _drawable(value: float | int) -> float:
    """The value, or NaN, which leaves a gap in a curve, for one that no axis has room for."""
    return float(value) if abs(value) < 1e30 else np.nan


def running_mean(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The mean of each value and those near it, as many before as after, while there are.

    At the beginning, where a loss falls fast, fewer are near.
    """
    reaches = (min(len(values) // _PARTS, place // 3) for place in range(len(values)))
    return np.array(
        [values[place - reach : place + reach + 1].mean() for place, reach in enumerate(reaches)]
    )


def plot_confusion(
    confusion: Integer[np.ndarray, "C C"], names: Sequence[str], path: Path, title: str = ""
) -> None:
    """Draw how many texts of each class (row) were taken for each class, as a PNG at `path`."""
    side = min(3.0 + 0.5 * len(names), 12.0)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with picture(path, title, [side], width=round(side) + 2) as (axes,):
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(confusion if len(names) <= 30 else []):
            color = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=color)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        bar = axes.figure.colorbar(image, label="share of the true class", shrink=0.8)
        as_percentages(bar.ax.yaxis)
        bar.ax.set_ylim(0, 1)


def plot_reliability(
    counts: Integer[np.ndarray, " bins"],
    confidence: Float[np.ndarray, " bins"],
    accuracy: Float[np.ndarray, " bins"],
    path: Path,
    title: str = "",
) -> None:
    """Draw how often a model is right against how sure it is, as a PNG at `path`.

    Each bin has its number of texts, their mean probability and their accuracy; on the diagonal,
    the model is as often right as it says.
    """
    some, places = counts > 0, (np.arange(len(counts)) + 0.5) / len(counts)
    with picture(path, title, [3.6, 2.0]) as (above, below):
        above.plot([0, 1], [0, 1], color=LIMIT, linestyle="--", label="as often right as it says")
        above.plot(confidence[some], accuracy[some], color=INK, marker="o", label="this model")
        above.set(ylabel="how often it is right")
        as_percentages(above.yaxis)
        bars = below.bar(places, counts, width=0.8 / len(counts), color=BARS)
        below.bar_label(bars, [f"{count:,}" if count else "" for count in counts], fontsize=8)
        below.set(xlabel="probability that it gives to the class it chooses", ylabel="texts")
        below.margins(y=0.2)
        as_counts(below.yaxis)
        for axes in (above, below):
            as_percentages(axes.xaxis)


def plot_trajectories(losses: Curves, differences: Curves, path: Path, title: str = "") -> None:
    """Draw losses (nats per token) over the steps above, and differences of losses below, as a PNG.

    The first of the losses is drawn broad below the others; there are up to four differences.
    """
    with picture(path, title, [3.6, 3.0]) as (above, below):
        above.set(ylabel="loss (nats per token)")
        for number, (name, values) in enumerate(losses.items()):
            width = 1.5 if number else 7
            steps = range(1, len(values) + 1)
            above.plot(steps, values, label=name, color=COLORS[name], linewidth=width)
        below.set(xlabel="step", ylabel="difference\n(millionths of a nat)")
        colors = (INK, "#a5682a", "#8d99a6", "#9a86c8")
        for (name, values), color in zip(differences.items(), colors, strict=False):
            steps = range(1, len(values) + 1)
            below.plot(steps, 1e6 * values, ".", label=name, color=color, markersize=4)


def plot_differences(
    names: Sequence[str],
    relative: Sequence[float],
    bounds: Sequence[float],
    path: Path,
    title: str = "",
) -> None:
    """Draw how far two models' activations are apart, first to last, as a PNG at `path`.

    `relative` are shares of each activation's largest element and `bounds` those that rounding
    explains; the first beyond its bound is marked.
    """
    places = range(len(names))
    least = min(bounds) / 100  # where no difference, which has no logarithm, is drawn
    heights = [min(max(value, least), 1e3) for value in relative]
    with picture(path, title, [5.0]) as (axes,):
        axes.set(ylabel="difference, as a share of the largest element", yscale="log")
        axes.plot(places, bounds, color=LIMIT, linestyle="--", label="explained by rounding")
        axes.plot(places, heights, color=BARS, marker="o", markersize=4, label="difference")
        first = next((i for i in places if not relative[i] <= bounds[i]), None)
        if first is not None:
            label = f"first beyond: {names[first]}"
            axes.plot([first], [heights[first]], "o", color=INK, markersize=8, label=label)
        shown = places[:: -(-len(names) // _MOST_NAMES)]
        axes.set_xticks(shown, [names[i] for i in shown], rotation=90, fontsize=7)


def plot_bars(values: Mapping[str, float], what: str, path: Path) -> None:
    """Draw one bar for each name, the first on top, as a PNG at `path`; `what` says the unit."""
    with picture(path, what, [1.0 + 0.45 * len(values)]) as (axes,):
        _draw_bars(axes, values)


def plot_bar_panels(panels: Mapping[str, Mapping[str, float]], path: Path, title: str = "") -> None:
    """Draw the bars of several things, one above the other, as a PNG at `path`."""
    heights = [0.8 + 0.35 * len(values) for values in panels.values()]
    with picture(path, title, heights) as rows:
        for axes, (what, values) in zip(rows, panels.items(), strict=True):
            _draw_bars(axes, values)
            axes.set_title(what, loc="left", fontsize=9)


def _draw_bars(axes: Any, values: Mapping[str, float]) -> None:
    places = range(len(values))
    bars = axes.barh(places, list(values.values()), color=BARS)
    figures = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values.values()]
    axes.bar_label(bars, figures, padding=4)
    axes.set_yticks(places, list(values))
    axes.invert_yaxis()
    axes.margins(x=0.12)


def plot_stages(
    stages: Sequence[str], shares: Mapping[str, Sequence[float]], path: Path, title: str = ""
) -> None:
    """Draw each share at each stage as bars side by side, as a PNG at `path`."""
    with picture(path, title, [4.0]) as (axes,):
        width = 0.8 / len(shares)
        for number, (name, values) in enumerate(shares.items()):
            places = [stage + (number + 0.5) * width - 0.4 for stage in range(len(stages))]
            bars = axes.bar(places, values, width, label=name, color=_SHADES[number % len(_SHADES)])
            axes.bar_label(bars, [f"{value:.0%}" for value in values], fontsize=7)
        axes.set(ylabel="share of answers that are right")
        as_percentages(axes.yaxis)
        axes.set_xticks(range(len(stages)), stages)
