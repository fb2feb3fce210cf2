"""What a person and a machine read of a run."""

import io
import json

import pytest

from jaxgpt.training.metrics import read_metrics
from jaxgpt.training.report import Reporter

STEP = {"loss": 2.5, "learning_rate": 1e-3, "grad_norm": 1.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_where_there_is_no_terminal(tmp_path):
    stream = io.StringIO()
    reporter = Reporter(tmp_path, 20, 0, stream)
    for step in (1, 2, 3):
        reporter.train(step, STEP, 100, record=step != 2)
    first, second = stream.getvalue().splitlines()
    assert first == "step  1/20  loss 2.5000  lr 1.00e-03"
    assert second.startswith("step  3/20  loss 2.5000  lr 1.00e-03  ")
    assert second.endswith(" left")
    assert "tokens/s" in second
    assert [item["step"] for item in read_metrics(tmp_path)] == [1, 3]


def test_a_bar_on_a_terminal(tmp_path):
    stream = Terminal()
    reporter = Reporter(tmp_path, 2, 0, stream)
    reporter.train(1, STEP, 100, record=True)
    reporter.say("a line")
    reporter.train(2, STEP, 100, record=True)
    reporter.close()
    assert "2/2" in stream.getvalue()
    assert "a line\n" in stream.getvalue()


def test_a_bar_says_compiling_and_estimates_after_the_second_step(tmp_path, monkeypatch):
    now, stream = [0.0], Terminal()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    reporter = Reporter(tmp_path, 100, 0, stream)

    def shown():
        text = stream.getvalue()[shown.seen :]
        shown.seen += len(text)
        return text.strip("\r ")

    shown.seen = 0
    shown()
    reporter.compiling()
    assert shown() == "compiling"
    now[0] += 24.0
    for step, expected in enumerate(["1/100", "2/100", "3/100"], 1):
        reporter._bar.last_print_t = 0  # draw it, although it was drawn a moment ago
        reporter.train(step, STEP, 100, record=False)
        now[0] += 2.0
        line = shown()
        assert expected in line
        assert ("left" in line) == (step > 1)
    assert "50 tokens/s  03:14 left" in line


def test_a_run_without_a_terminal_says_compiling_once(tmp_path):
    stream = io.StringIO()
    Reporter(tmp_path, 20, 0, stream).compiling()
    assert stream.getvalue() == "compiling\n"


def test_a_resumed_run_drops_what_it_will_record_again(tmp_path):
    lines = [json.dumps({"step": step}) for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "lo')
    reporter = Reporter(tmp_path, 5, 2, io.StringIO())
    assert [item["step"] for item in reporter.records] == [1, 2]
    assert read_metrics(tmp_path) == reporter.records


def test_batches_without_targets_are_counted(tmp_path):
    stream = io.StringIO()
    reporter = Reporter(tmp_path, 9, 0, stream)
    reporter.train(1, STEP, 100, record=True)
    reporter.empty_step(2)
    reporter.empty_step(3)
    assert stream.getvalue().count("warning: the batch of step 2 has no target") == 1
    assert "step 3" not in stream.getvalue()
    resumed = Reporter(tmp_path, 9, 3, stream)
    assert resumed.empty_batches == 2
    resumed.empty_step(4)
    assert resumed.records[-1] == {"step": 4, "empty_batches": 3}


def test_a_file_that_cannot_be_written_does_not_end_the_run(tmp_path):
    stream = io.StringIO()
    reporter = Reporter(tmp_path, 5, 0, stream)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    reporter.record({"step": 1})
    assert "warning: " in stream.getvalue()
    assert reporter.records == [{"step": 1}]


def test_pauses_do_not_count_as_training(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    reporter = Reporter(tmp_path, 5, 0, io.StringIO())
    reporter.train(1, STEP, 100, record=True)
    with reporter.pause():
        now[0] += 60
    now[0] += 2
    reporter.train(2, STEP, 100, record=True)
    assert reporter.targets_per_second == pytest.approx(50)


@pytest.mark.parametrize("closed", ["none", "closed", "broken"])
def test_a_standard_error_that_is_closed_does_not_end_the_run(tmp_path, monkeypatch, closed):
    stream = {"none": None, "closed": io.StringIO(), "broken": ClosedTerminal()}[closed]
    if closed == "closed":
        stream.close()
        stream.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", stream)
    reporter = Reporter(tmp_path, 2, 0)
    reporter.say("nobody reads this")
    reporter.train(1, STEP, 100, record=True)
    reporter.close()
    assert [item["step"] for item in read_metrics(tmp_path)] == [1]


class ClosedTerminal(Terminal):
    def write(self, text):
        raise OSError(5, "Input/output error")


def test_a_closed_terminal_does_not_end_the_run(tmp_path):
    reporter = Reporter(tmp_path, 2, 0, io.StringIO())
    reporter._stream = ClosedTerminal()
    reporter.say("nobody reads this")
    reporter.train(1, STEP, 100, record=True)
    reporter.close()
    assert [item["step"] for item in read_metrics(tmp_path)] == [1]
