"""The records of a run in metrics.jsonl: a step and what was measured at it, a line each."""

import json
import os
import time
from pathlib import Path
from typing import Any

from jaxgpt.errors import DataError
from jaxgpt.files import parse_json, read_regular, write_file
from jaxgpt.hosts.group import this_group
from jaxgpt.terminal import note

METRICS = "metrics.jsonl"
_TEXTS = {"sample"}  # all other values are numbers
_MOST_STEPS = 10**8
_SHOWN = 10  # numbers of lines in a message


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The sound records of a run, whatever else is in its file; says on stderr what is left out."""
    if not os.path.lexists(run / METRICS):
        return []
    try:
        records, damaged = _read(run / METRICS)
    except DataError as error:
        note(f"warning: {error}; the run's records are left out")
        return []
    if damaged:
        note(f"warning: {run / METRICS}: {_lines(damaged)} damaged and left out")
    return records


class MetricsFile:
    """A run's metrics.jsonl, opened to go on after `first_step`.

    Records of later steps are dropped: those steps will be taken, and recorded, again. A file with
    damaged lines, or what is no file, is set aside first; `complaint` then says so. Of several
    processes, process 0 writes the file.
    """

    def __init__(self, run: Path, first_step: int):
        self._path, self._unwritten, self.complaint = run / METRICS, b"", ""
        with this_group().first_alone("metrics"):
            self._open(first_step)

    def _open(self, first_step: int) -> None:
        try:
            found, damaged = _read(self._path) if os.path.lexists(self._path) else ([], [])
            what = f"{_lines(damaged)} damaged and left out" if damaged else ""
        except DataError as error:
            found, what = [], f"{error}; the run's records begin anew"
        if what and this_group().is_first:
            aside = f"{METRICS}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
            os.replace(self._path, self._path.with_name(aside))
            self.complaint = f"{self._path}: {what}; set aside as {aside}"
        self.records = [item for item in found if item["step"] <= first_step]
        if this_group().is_first:
            write_file(self._path, b"".join(map(_line, self.records)))

    def append(self, item: dict[str, Any]) -> None:
        """Write a record down, after those that could not be written before.

        Raises OSError where the disk refuses; nothing is lost if a later record can be written.
        """
        self.records.append(item)
        if not this_group().is_first:
            return
        self._unwritten += _line(item)
        # What is no file any more, such as a pipe, must not keep the run waiting.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        with open(os.open(self._path, flags, 0o666), "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                if file.write(self._unwritten) < len(self._unwritten):
                    raise OSError(f"{self._path}: the disk is full")
            except OSError:
                file.truncate(size)
                raise
        self._unwritten = b""


def _line(item: dict[str, Any]) -> bytes:
    return json.dumps(item).encode() + b"\n"


def _read(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The sound records, and the numbers of the lines that are none.

    A last line without an end was being written when the run was killed, and counts as neither.
    Raises DataError if it is no file, or cannot be read.
    """
    *lines, rest = read_regular(path).split(b"\n")
    found = [_record(line) for line in lines]
    damaged = [number for number, item in enumerate(found, start=1) if item is None]
    return [item for item in (*found, _record(rest)) if item is not None], damaged


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line.decode())
    except ValueError:
        return None
    if not isinstance(record, dict) or type(step := record.get("step")) is not int:
        return None
    sound = 0 <= step <= _MOST_STEPS and all(
        isinstance(value, str) if name in _TEXTS else type(value) in (int, float)
        for name, value in record.items()
    )
    return record if sound else None


def _lines(numbers: list[int]) -> str:
    more = f" and {len(numbers) - _SHOWN:,} more" if len(numbers) > _SHOWN else ""
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    return f"line {shown} is" if len(numbers) == 1 else f"lines {shown}{more} are"
