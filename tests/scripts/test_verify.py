"""The command line that holds the worked examples against what the notebooks print."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxgpt.errors import DataError
from jaxgpt.worked import examples

SCRIPT = Path(__file__).parents[2] / "scripts" / "verify.py"


@pytest.fixture
def verify(monkeypatch):
    return importlib.import_module("jaxgpt.commands.verify")


@pytest.mark.whole_run
def test_it_does_without_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('there is no torch')")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--only", "ch03", "appA", "appD", "appE"],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "chapter 3, attention" in done.stdout
    assert "  ok    appA.params                              2213" in done.stdout
    assert "  ok    appE.params  " in done.stdout
    assert done.stdout.splitlines()[-1].endswith(" ok")


def test_a_miss_is_shown_and_exits_with_1(verify, monkeypatch, capsys):
    list(examples.run_examples(examples.Given(), []))  # imports the examples
    monkeypatch.setitem(examples.EXAMPLES, "appA.params_toy", lambda given: 751)
    with pytest.raises(SystemExit) as stop:
        verify.main(["--only", "appA.params"])
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert "  ok    appA.params " in out
    assert "  miss  appA.params_toy" in out
    assert "751 in place of 752" in out


def test_another_text_is_refused(verify, tmp_path):
    (tmp_path / "other.txt").write_text("Once upon a time.")
    with pytest.raises(DataError, match=r"\(17 characters\) is not the one .* 20,479 characters"):
        verify.main(["--text", str(tmp_path / "other.txt")])


def test_without_the_story_it_says_what_needs_it(verify, capsys):
    verify.main(["--only", "ch02.n_chars", "ch02.regex_split_hello"])
    out = capsys.readouterr().out
    assert "needs the story: ch02.n_chars" in out
    assert "--text FILE" in out


def test_without_the_records_it_says_what_needs_them(verify, capsys):
    verify.main(["--only", "dpo"])
    out = capsys.readouterr().out
    assert "needs the records: dpo.loader_widths" in out
    assert "--records FILE" in out


def test_records_are_read(verify, tmp_path):
    (tmp_path / "records.json").write_text("[]")
    with pytest.raises(DataError, match="has no record"):
        verify.main(["--records", str(tmp_path / "records.json")])
