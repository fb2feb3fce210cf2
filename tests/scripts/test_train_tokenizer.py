import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxgpt.tokenization.tokenizer import load_tokenizer

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_tokenizer.py"
TEXT = "".join(
    f"In the year {year} the king of the {year % 7} isles set sail.\n" for year in range(500)
)


def run(*arguments, folder):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text("one more")
    return tmp_path


def test_a_vocabulary_is_trained_saved_and_reported(folder):
    ran = run("--data", "a.txt", "b.txt", "--vocab-size", 300, "--out", "trained", folder=folder)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "300 ids" in ran.stdout
    assert "bytes per token" in ran.stdout
    tokenizer = load_tokenizer(folder / "trained")
    assert tokenizer.vocab_size == 300
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert sorted(os.listdir(folder)) == ["a.txt", "b.txt", "trained"]

    again = run("--data", "a.txt", "--vocab-size", 300, "--out", "trained", folder=folder)
    assert again.returncode == 2
    assert "is not empty; choose another, or set --overwrite" in again.stderr
    assert load_tokenizer(folder / "trained").fingerprint == tokenizer.fingerprint
    flags = ("--out", "trained", "--vocab-size", 290, "--overwrite")
    assert run("--data", "a.txt", *flags, folder=folder).returncode == 0
    assert load_tokenizer(folder / "trained").vocab_size == 290


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("--data", "a.txt", "--out", "o", "--vocab-size", 256), 2, "257 or more"),
        (("--data", "a.txt", "--out", "b.txt"), 2, "a file has this name"),
        (("--data", "a.txt", "--out", "none/o"), 2, "does not exist"),
        (("--data", "none.txt", "--out", "o"), 3, "none.txt"),
        (("--data", "b.txt", "--out", "o", "--strict"), 3, "too small"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, code, complaint, folder):
    ran = run(*arguments, folder=folder)
    assert ran.returncode == code
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1
    assert complaint in ran.stderr
    assert sorted(os.listdir(folder)) == ["a.txt", "b.txt"]


def test_help_does_without_jax():
    code = (
        "import runpy, sys; sys.argv[1:] = ['--help']\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    sys.exit(stop.code or 'jax' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert "--vocab-size" in ran.stdout
