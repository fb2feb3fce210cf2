"""The suite `device`: what a GPU or TPU can do, in parts that a short loan of it is enough for."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from jaxgpt.benchmark import parts
from jaxgpt.benchmark.decoding import check_room
from jaxgpt.benchmark.machine import describe_machine
from jaxgpt.benchmark.parts import CACHED, PARTS, Request
from jaxgpt.benchmark.processes import UNCACHED, run_module
from jaxgpt.benchmark.report import Report, bars, body, from_json, machine_line
from jaxgpt.benchmark.workload import describe
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import from_dict, to_dict
from jaxgpt.errors import ConfigError, DataError, JaxgptError
from jaxgpt.files import read_object, write_file

_MOST_BYTES = 10_000_000  # of a file of figures
_LEAST_SECONDS = 10  # in which a part can begin at all


@dataclass
class Figures:
    """The parts that have been measured, and why others have not."""

    measured: dict[str, Any]
    """The request of all parts, and the machine: what is of another is not mixed in."""
    reports: dict[str, Report] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Parts without a report, in the order in which they are to be tried."""
        left = [name for name in PARTS if name not in self.reports]
        return sorted(left, key=lambda name: name in self.failed)

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values."""
        reports = {name: asdict(report) for name, report in self.reports.items()}
        return {"measured": self.measured, "parts": reports, "failed": self.failed}


def measure_device(
    config: TrainConfig,
    *,
    dtype: Any = "bfloat16",
    prompt_tokens: int = 64,
    new_tokens: int = 128,
    turns: int = 10,
    minutes: float = 8.0,
    out: str | Path | None = None,
    anew: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Figures:
    """Measure each of `PARTS` in a process of its own, within so many minutes in all.

    Each has a limit of its own; one that hangs, fails or runs out of memory is told, and the others
    go on. What is in the file `out` is not measured again, unless `anew`; what failed is tried
    again, last. The file is written after each part. Raises ConfigError for a context too short, or
    if `out` is of another model, machine or version; DataError if it holds something else.
    """
    check_room(config.model, prompt_tokens, new_tokens)
    request = Request(
        to_dict(config), jax.default_backend(), dtype, prompt_tokens, new_tokens, turns
    )
    figures = Figures({"request": asdict(request), "machine": describe_machine()})
    if out and Path(out).exists() and not anew:
        figures = _read(Path(out), figures.measured)
    tell(heading(figures))
    for name, report in figures.reports.items():
        tell(f"{section(name, report)}\nkept from {out}")
    ends = time.monotonic() + 60 * minutes
    for name in figures.missing:
        limit = min(PARTS[name][1], ends - time.monotonic())
        if limit < _LEAST_SECONDS:
            break
        _measure(figures, name, _fastest(request, figures), limit)
        if out:
            write_file(out, json.dumps(figures.to_json(), indent=2) + "\n")
        if name in figures.reports:
            tell(section(name, figures.reports[name]))
        else:
            tell(f"\n{name}: failed: {figures.failed[name]}")
    return figures


def heading(figures: Figures) -> str:
    """What was measured, and on what, in two lines."""
    request = Request(**figures.measured["request"])
    return (
        f"device: {describe(request.step.model)}, batch {request.step.batch_size} in "
        f"{request.step.gradient_accumulation}, {request.dtype}\n"
        f"{machine_line(figures.measured['machine'])}"
    )


def section(name: str, report: Report) -> str:
    """The table of a part."""
    return f"\n{name}: {report.shape}{body(report)}"


def panels(figures: Figures) -> dict[str, dict[str, float]]:
    """The bars of each part, by what they are."""
    found = [bars(figures.reports[name]) for name in PARTS if name in figures.reports]
    return {what: values for values, what in found if values}


def _measure(figures: Figures, name: str, request: Request, limit: float) -> None:
    figures.failed.pop(name, None)
    variables = {} if name in CACHED else UNCACHED
    try:
        found = run_module(
            parts.__name__, name, request=asdict(request), seconds=limit, variables=variables
        )
        figures.reports[name] = from_json(found)
    except JaxgptError as failure:
        figures.failed[name] = str(failure)


def _fastest(request: Request, figures: Figures) -> Request:
    """The request with the settings that were the fastest in the parts that compare them."""
    config = from_dict(TrainConfig(), request.config)
    for name in ("attention", "loop"):
        if name in figures.reports:
            rows = figures.reports[name].rows
            config = replace(config, **min(rows, key=lambda row: row["median_ms"])["settings"])
    return replace(request, config=to_dict(config))


def _read(path: Path, measured: dict[str, Any]) -> Figures:
    """The figures in a file; a part of which one is no report is an error, as is another's."""
    found = read_object(path, limit=_MOST_BYTES)
    try:
        reports = {
            name: from_json(found["parts"][name]) for name in PARTS if name in found["parts"]
        }
        failed = {str(name): str(why) for name, why in found["failed"].items()}
        other = found["measured"] != json.loads(json.dumps(measured))
        for name, report in reports.items():
            section(name, report)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            f"{path} holds no figures of this suite; name another file, or replace it by --anew"
        ) from None
    if other:
        raise ConfigError(
            f"{path} has figures of another model, machine or version; name another file, or "
            "replace it by --anew"
        )
    return Figures(measured, reports, failed)
