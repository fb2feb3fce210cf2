"""The records of a run, and what is read of a file that was damaged."""

import io
import json
import os

import pytest

from jaxgpt.training.metrics import METRICS, MetricsFile, read_metrics
from jaxgpt.training.plots import plot_losses
from jaxgpt.training.report import Reporter

SOUND = [
    {"step": 0, "validation_loss": 3.0},
    {"step": 1, "loss": 2.5, "grad_norm": 1},
    {"step": 2, "sample": "Once \u2028 upon \\ud800"},
]
DAMAGED = [
    b'{"step": 1e999}',
    b'{"step": "1"}',
    b'{"step": true}',
    b'{"step": -1}',
    b'{"step": 1000000000000}',
    b'{"step": 1, "loss": null}',
    b'{"step": 1, "validation_loss": []}',
    b'{"step": 1, "loss": "2.5"}',
    b'{"step": 1, "loss": NaN}',
    b'{"step": 1, "loss": ' + b"9" * 400 + b"}",
    b'{"step": 1, "sample": 3}',
    b'{"step": 1, "step": 1}',
    b'{"loss": 1}',
    b"[" * 100_000,
    b"[1]",
    b"\xff\x00",
    b"",
]


def write(run, *lines):
    text = b"".join(line + b"\n" for line in lines)
    (run / METRICS).write_bytes(text)
    return text


@pytest.mark.parametrize("bad", DAMAGED, ids=lambda line: line[:40])
def test_every_sound_record_is_kept(tmp_path, bad, capsys):
    first, *rest = (json.dumps(item).encode() for item in SOUND)
    before = write(tmp_path, first, bad, *rest)
    assert read_metrics(tmp_path) == SOUND
    assert f"{METRICS}: line 2 is damaged and left out" in capsys.readouterr().err
    stream = io.StringIO()
    reporter = Reporter(tmp_path, 9, 2, stream)
    assert reporter.records == SOUND
    assert stream.getvalue().count("\n") == 1
    assert (
        "line 2 is damaged and left out; set aside as metrics.jsonl.damaged-" in stream.getvalue()
    )
    (aside,) = tmp_path.glob("metrics.jsonl.damaged-*")
    assert aside.read_bytes() == before
    assert read_metrics(tmp_path) == SOUND
    assert capsys.readouterr().err == ""


def test_many_damaged_lines_are_counted(tmp_path, capsys):
    write(tmp_path, *[b"?"] * 15, b'{"step": 1}')
    assert read_metrics(tmp_path) == [{"step": 1}]
    assert "lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 5 more are damaged" in capsys.readouterr().err


def test_a_line_that_a_kill_cut_off_is_no_damage(tmp_path, capsys):
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1}]
    assert MetricsFile(tmp_path, 5).complaint == ""
    assert (tmp_path / METRICS).read_text() == '{"step": 1}\n'
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("make", ["mkdir", "fifo", "link"])
def test_what_is_no_file_is_set_aside(tmp_path, make, capsys):
    path = tmp_path / METRICS
    {
        "mkdir": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to("nothing"),
    }[make]()
    assert read_metrics(tmp_path) == []
    assert "the run's records are left out" in capsys.readouterr().err
    metrics = MetricsFile(tmp_path, 0)
    assert "begin anew; set aside as metrics.jsonl.damaged-" in metrics.complaint
    metrics.append({"step": 1})
    assert read_metrics(tmp_path) == [{"step": 1}]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_the_disk_refused_is_written_later(tmp_path, monkeypatch):
    stream = io.StringIO()
    reporter = Reporter(tmp_path, 9, 0, stream)
    os.unlink(tmp_path / METRICS)
    os.mkfifo(tmp_path / METRICS)  # opening it to write would wait for a reader
    reporter.record({"step": 1})
    reporter.record({"step": 2})
    assert stream.getvalue().count("warning: metrics.jsonl cannot be written") == 1
    os.unlink(tmp_path / METRICS)
    reporter.record({"step": 3})
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3}] == reporter.records


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
    metrics = MetricsFile(tmp_path, 0)
    metrics.append({"step": 1})
    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", lambda file, *_, **__: HalfWritten(file, "ab"))
        with pytest.raises(OSError, match="disk is full"):
            metrics.append({"step": 2})
    metrics.append({"step": 3})
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3}]


class HalfWritten(io.FileIO):
    def write(self, data):
        return super().write(data[:3])


VALUES = [float("nan"), float("inf"), 1e308, -1e308, 1e20, 10**400]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{value!s:.6}")
def test_a_curve_has_a_gap_where_no_axis_has_room(tmp_path, value):
    records = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": value}]
    plot_losses(records, tmp_path / "loss.png", entropy=1.0)
    plot_losses(records[2:], tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
