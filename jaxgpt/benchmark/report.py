"""What a suite found: rows of figures as a table, as JSON and as bars."""

from collections.abc import Callable, Mapping
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
    "difference": ("largest difference", "{:.1e}".format),
    "teraflops": ("TFLOP/s", "{:,.2f}".format),
    "gigabytes": ("GB/s", "{:,.0f}".format),
    "tokens_per_second": ("tokens/s", "{:,.0f}".format),
    "times_alone": ("x alone", "{:.2f}".format),
    "first_token_ms": ("ms to first token", "{:,.1f}".format),
    "token_ms": ("ms a token", "{:,.2f}".format),
    "copy_share": ("of copy rate", "{:.1%}".format),
    "first_times_alone": ("x alone, first", "{:.2f}".format),
    "moved_mb": ("MB moved", "{:,.0f}".format),
    "mfu": ("MFU", "{:.1%}".format),
    "product_share": ("of product rate", "{:.1%}".format),
    "loss": ("loss, last step", "{:.5f}".format),
    "same_tokens": ("same tokens", str),
    "import_seconds": ("s to import", "{:.2f}".format),
    "first_step_seconds": ("s to first step", "{:.2f}".format),
    "peak_mb": ("MB, host peak", "{:,.0f}".format),
    "device_peak_mb": ("MB, device peak", "{:,.0f}".format),
    "compile_seconds": ("s to compile", "{:.1f}".format),
    "sizes": ("sizes", str),
    "values": ("figures", str),
    "exponent": ("exponent", "{:.2f}".format),
    "arithmetic": ("of the arithmetic", "{:.2f}".format),
}
"""Figures by name: a table's heading, and how a value is written."""


_TOLD = ("quotable", "verdict")  # by the rest of the report


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    return asdict(report) | {"quotable": report.quotable, "verdict": report.verdict}


def from_json(values: Mapping[str, Any]) -> Report:
    """The report of which `values` are the JSON; raises KeyError or TypeError for none."""
    made: dict[str, Any] = dict(values) | {"notes": tuple(values["notes"])}
    return Report(**{name: value for name, value in made.items() if name not in _TOLD})


def table(report: Report) -> str:
    """The report as text: the machine, the rows in columns, and what is to be said about them."""
    return "\n".join(
        [f"{report.suite}: {report.shape}", machine_line(report.machine), body(report)]
    )


def machine_line(machine: Mapping[str, Any]) -> str:
    """The processor, the device and the versions of what `describe_machine` says, in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['cpu']}, {machine['cores']} cores; JAX on {machine['device']}; {versions}"


def body(report: Report) -> str:
    """The report's rows in columns, and what is to be said about them."""
    lines = [
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
        if row.get(report.figure) is not None:
            values[row["contender"] + batch] = float(row[report.figure])
    what = f"{report.suite}: {COLUMNS[report.figure][0]}"
    return values, what if report.quotable else f"{what} ({report.verdict})"


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    cells = [[COLUMNS[name][0] for name in names]]
    for row in rows:
        cells.append([_cell(row, name) for name in names])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _cell(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    return "unknown" if row[name] is None else COLUMNS[name][1](row[name])
