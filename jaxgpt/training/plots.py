"""Curves of a run as a picture."""

from pathlib import Path
from typing import Any


def plot_losses(records: list[dict[str, Any]], path: Path, floor: float | None = None) -> None:
    """Draw training and validation loss (nats per token) over the steps, as a PNG at `path`.

    `floor`, in nats per token, is the entropy of the text where it is known.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, rarely needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats per token)")
    for name, label, style in (
        ("loss", "training", {"color": "#9db8d2", "linewidth": 1}),
        ("validation_loss", "validation", {"color": "#d1495b", "marker": "o", "markersize": 4}),
    ):
        points = [(item["step"], item[name]) for item in records if name in item]
        if points:
            last = f"{label}, last {points[-1][1]:.3f}"
            axes.plot(*zip(*points, strict=True), label=last, **style)
    if floor is not None:
        axes.axhline(
            floor, color="#3c6e47", linestyle="--", label=f"entropy of the text {floor:.3f}"
        )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
