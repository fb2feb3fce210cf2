"""What a suite found: rows of figures as a table, as JSON and as bars."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from jaxgpt.benchmark.turns import verdict


@dataclass(frozen=True)
class Report:
    """The figures of one suite, and all that is needed to judge them."""

    suite: str
    shape: str
    config: dict[str, Any]
    machine: dict[str, Any]
    rows: list[dict[str, Any]]
    """One of each contender: its name and its figures, by the names in `COLUMNS`."""
    figure: str
    """The column that a picture shows."""
    others: float | None
    """CPU time of other programs while it was measured, as a share of all cores."""
    seconds: float
    """How long it was measured; the shortest, where there were several measurements."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Contenders that did not take part, and why."""
    notes: tuple[str, ...] = ()

    @property
    def quotable(self) -> bool:
        """Whether other programs left the machine alone, as far as can be seen."""
        return not self.verdict.startswith("not quotable")

    @property
    def verdict(self) -> str:
        """Why, in a line."""
        return verdict(self.others, self.seconds)


COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "contender": ("contender", str),
    "batch": ("batch", str),
    "streams": ("streams", str),
    "parameters": ("parameters", "{:,}".format),
    "hidden_dim": ("F", str),
    "step_ratio": ("time / gpt2", "{:.2f}".format),
    "steps": ("steps", "{:,}".format),
    "bits_per_byte": ("bits per byte", "{:.4f}".format),
    "spread": ("most - least", "{:.4f}".format),
    "excess": ("above entropy", "{:.4f}".format),
    "excess_share": ("share", "{:+.1%}".format),
    "median_ms": ("ms, median", "{:,.1f}".format),
    "least_ms": ("ms, least", "{:,.1f}".format),
    "ratio": ("time / PyTorch", "{:.2f}".format),
    "tokens_per_second": ("tokens/s", "{:,.0f}".format),
    "times_alone": ("x alone", "{:.2f}".format),
    "first_token_ms": ("ms to first token", "{:,.1f}".format),
    "first_times_alone": ("x alone, first", "{:.2f}".format),
    "mfu": ("MFU", "{:.1%}".format),
    "product_share": ("of product rate", "{:.1%}".format),
    "loss": ("loss, last step", "{:.5f}".format),
    "same_tokens": ("same tokens", str),
    "import_seconds": ("s to import", "{:.2f}".format),
    "first_step_seconds": ("s to first step", "{:.2f}".format),
    "peak_mb": ("MB, host peak", "{:,.0f}".format),
    "device_peak_mb": ("MB, device peak", "{:,.0f}".format),
}
"""Figures by name: a table's heading, and how a value is written."""


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    return asdict(report) | {"quotable": report.quotable, "verdict": report.verdict}


def table(report: Report) -> str:
    """The report as text: the machine, the rows in columns, and what is to be said about them."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{report.suite}: {report.shape}",
        f"{machine['cpu']}, {machine['cores']} cores; JAX on {machine['device']}; {versions}",
        "",
        *_columns(report.rows),
        "",
        *(f"left out: {name}: {reason}" for name, reason in report.left_out.items()),
        *report.notes,
        report.verdict,
    ]
    return "\n".join(lines)


def bars(report: Report) -> tuple[dict[str, float], str]:
    """The values of the report's figure by contender, and what they are."""
    values = {}
    for row in report.rows:
        batch = f", batch {row['batch']}" if "batch" in row else ""
        if row[report.figure] is not None:
            values[row["contender"] + batch] = float(row[report.figure])
    what = f"{report.suite}: {COLUMNS[report.figure][0]}"
    return values, what if report.quotable else f"{what} ({report.verdict})"


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    cells = [[COLUMNS[name][0] for name in names]]
    for row in rows:
        values = [(COLUMNS[name][1], row.get(name)) for name in names]
        cells.append(["unknown" if v is None else write(v) for write, v in values])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
