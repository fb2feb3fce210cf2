"""Figures as pictures: of a run, and of runs, models and programs beside each other."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from jaxgpt.files import draft_of

Curves = Mapping[str, Float[np.ndarray, " steps"]]
"""Values by step, by name."""

_MOST_NAMES = 48  # that can be read below an axis


class Panel(NamedTuple):
    """Axes of a run's curves: what lies upwards, and the records' names to draw, with labels."""

    ylabel: str
    curves: Mapping[str, str]
    top: float | None = None
    bottom: float | None = 0


LOSSES = {"loss": "training", "validation_loss": "validation"}
_CURVE_STYLES = (
    {"color": "#9db8d2", "linewidth": 1},
    {"color": "#d1495b", "marker": "o", "markersize": 4},
    {"color": "#20303c", "marker": "o", "markersize": 3, "linewidth": 1},
)


def plot_losses(records: list[dict[str, Any]], path: Path, floor: float | None = None) -> None:
    """Draw training and validation loss (nats per token) over the steps, as a PNG at `path`.

    `floor`, in nats per token, is the entropy of the text where it is known.
    """
    plot_curves(records, [Panel("loss (nats per token)", LOSSES)], path, floor)


def plot_curves(
    records: list[dict[str, Any]],
    panels: Sequence[Panel],
    path: Path,
    floor: float | None = None,
) -> None:
    """Draw up to three curves in each panel over the steps of the records, as a PNG at `path`.

    `floor` is a line across the first panel: the entropy of the text.
    """
    with _picture(path, heights=[4.5, *[3.0] * (len(panels) - 1)]) as rows:
        for axes, panel in zip(rows, panels, strict=True):
            axes.set(ylabel=panel.ylabel)
            for (name, label), style in zip(panel.curves.items(), _CURVE_STYLES, strict=False):
                points = [(item["step"], _drawable(item[name])) for item in records if name in item]
                if points:
                    last = points[-1][1]
                    shown = f"{last:.3f}" if abs(last) < 1e6 else f"{last:.3g}"
                    axes.plot(*zip(*points, strict=True), label=f"{label}, last {shown}", **style)
            axes.set_ylim(bottom=panel.bottom, top=panel.top)
        rows[-1].set(xlabel="step")
        if floor is not None:
            rows[0].axhline(
                floor, color="#3c6e47", linestyle="--", label=f"entropy of the text {floor:.3f}"
            )


def _drawable(value: float | int) -> float:
    """The value, or NaN, which leaves a gap in a curve, for one that no axis has room for."""
    return float(value) if abs(value) < 1e30 else np.nan


def plot_confusion(confusion: Integer[np.ndarray, "C C"], names: Sequence[str], path: Path) -> None:
    """Draw how many texts of each class (row) were taken for each class, as a PNG at `path`."""
    side = min(3.0 + 0.5 * len(names), 12.0)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with _picture(path, heights=[side], width=round(side) + 1) as (axes,):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        names = [name.replace("$", r"\$") for name in names]  # which would begin a formula
        for (row, column), count in np.ndenumerate(confusion if len(names) <= 30 else []):
            color = "white" if shares[row, column] > 0.5 else "#20303c"
            axes.text(column, row, f"{count}", ha="center", va="center", color=color)
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)


def plot_reliability(
    counts: Integer[np.ndarray, " bins"],
    confidence: Float[np.ndarray, " bins"],
    accuracy: Float[np.ndarray, " bins"],
    path: Path,
) -> None:
    """Draw how often a model is right against how sure it is, as a PNG at `path`.

    Each bin has its number of texts, their mean probability and their accuracy; on the diagonal,
    the model is as often right as it says.
    """
    some = counts > 0
    with _picture(path, heights=[4.5, 1.5], width=6) as (above, below):
        above.plot([0, 1], [0, 1], color="#3c6e47", linestyle="--", label="as sure as right")
        above.plot(
            confidence[some], accuracy[some], color="#d1495b", marker="o", label="this model"
        )
        above.set(ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
        edges = (np.arange(len(counts)) + 0.5) / len(counts)
        below.bar(edges, counts, width=0.8 / len(counts), color="#9db8d2", label="texts")
        below.set(xlabel="probability of the class that was chosen", xlim=(0, 1.02), yscale="log")


def plot_trajectories(losses: Curves, differences: Curves, path: Path) -> None:
    """Draw losses (nats per token) over the steps above, and differences of losses below, as a PNG.

    Two or three losses, the first drawn broad below the others, and up to four differences.
    """
    with _picture(path, heights=[4.0, 2.5]) as (above, below):
        above.set(ylabel="loss (nats per token)")
        for (name, values), width in zip(losses.items(), (6, 2, 1), strict=False):
            color = "#9db8d2" if width == 6 else "#d1495b"
            above.plot(range(1, len(values) + 1), values, label=name, color=color, linewidth=width)
        below.set(xlabel="step", ylabel="difference (millionths of a nat)")
        colors = ("#d1495b", "#20303c", "#e8a33d", "#6a9ac4")
        for (name, values), color in zip(differences.items(), colors, strict=False):
            steps = range(1, len(values) + 1)
            below.plot(steps, 1e6 * values, ".", label=name, color=color, markersize=4)
        below.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def plot_differences(
    names: Sequence[str], relative: Sequence[float], bounds: Sequence[float], path: Path
) -> None:
    """Draw how far two models' activations are apart, first to last, as a PNG at `path`.

    `relative` are shares of each activation's largest element and `bounds` those that rounding
    explains; the first beyond its bound is marked.
    """
    places = range(len(names))
    least = min(bounds) / 100  # where no difference, which has no logarithm, is drawn
    heights = [min(max(value, least), 1e3) for value in relative]
    with _picture(path, heights=[5.0]) as (axes,):
        axes.set(ylabel="difference, as a share of the largest element", yscale="log")
        axes.plot(places, bounds, color="#3c6e47", linestyle="--", label="explained by rounding")
        axes.plot(places, heights, color="#9db8d2", marker="o", markersize=4, label="difference")
        first = next((i for i in places if not relative[i] <= bounds[i]), None)
        if first is not None:
            label = f"first beyond: {names[first]}"
            axes.plot([first], [heights[first]], "o", color="#d1495b", label=label)
        shown = places[:: -(-len(names) // _MOST_NAMES)]
        axes.set_xticks(shown, [names[i] for i in shown], rotation=90, fontsize=7)


def plot_bars(values: Mapping[str, float], what: str, path: Path) -> None:
    """Draw one bar for each name, the first on top, as a PNG at `path`; `what` says the unit."""
    places = range(len(values))
    with _picture(path, heights=[1.0 + 0.45 * len(values)]) as (axes,):
        bars = axes.barh(places, list(values.values()), color="#9db8d2", label=what)
        figures = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values.values()]
        axes.bar_label(bars, figures, padding=4)
        axes.set_yticks(places, list(values))
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0))


def plot_stages(stages: Sequence[str], shares: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw each share at each stage as bars side by side, as a PNG at `path`."""
    with _picture(path, heights=[4.5]) as (axes,):
        width = 0.8 / len(shares)
        colors = ("#c9d8e6", "#9db8d2", "#6a9ac4", "#3f6f9f", "#20303c", "#d1495b")
        for number, (name, values) in enumerate(shares.items()):
            places = [stage + (number + 0.5) * width - 0.4 for stage in range(len(stages))]
            bars = axes.bar(places, values, width, label=name, color=colors[number % len(colors)])
            axes.bar_label(bars, [f"{value:.0%}" for value in values], fontsize=7)
        axes.set(ylabel="share of answers that are right", ylim=(0, 1.05))
        axes.set_xticks(range(len(stages)), [f"after {stage}" for stage in stages])
        axes.legend(frameon=False, ncols=len(shares), loc="lower center", bbox_to_anchor=(0.5, 1.0))


@contextmanager
def _picture(path: Path, heights: list[float], width: int = 8) -> Iterator[Any]:
    """Axes one above the other, of these heights in inches, drawn to `path` when all is in."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, rarely needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(heights), height_ratios=heights, squeeze=False)[:, 0]
    yield rows
    for axes in rows:
        if not axes.images:
            axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend() is None and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    with draft_of(path) as draft:
        figure.savefig(draft, dpi=120, format="png")
