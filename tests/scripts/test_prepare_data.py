import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxgpt.data.tokens import TokenDataset

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"
TEXT = "".join(f"The year {year} had {year % 9} days.\n" for year in range(500))
OUT = ("--tokenizer", "bytes", "--out", "out")


def run(*arguments, folder, python=()):
    command = [sys.executable, *python, str(SCRIPT), *map(str, arguments)]
    environment = os.environ | {"JAXGPT_CACHE": str(folder / "cache")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    return tmp_path


def test_text_is_prepared_and_reported(folder):
    ran = run("--data", "a.txt", *OUT, folder=folder)
    assert (ran.returncode, ran.stderr) == (0, "")
    dataset = TokenDataset.open(folder / "out", verify=True)
    for name, split in dataset.splits.items():
        line = rf"^{name} +{split.num_tokens:,} tokens +{split.num_bytes:,} bytes"
        assert re.search(line, ran.stdout, re.MULTILINE)
    assert "1.0000 tokens per byte" in ran.stdout
    assert "MB/s" in ran.stdout
    assert str(folder / "out") in ran.stdout

    again = run("--data", "a.txt", *OUT, folder=folder)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "not empty" in again.stderr
    replaced = run("--data", "a.txt", *OUT, "--overwrite", folder=folder)
    assert replaced.returncode == 0
    assert TokenDataset.open(folder / "out").fingerprint == dataset.fingerprint


def test_a_data_set_is_found_by_its_name(folder):
    cached = folder / "cache" / "fineweb-edu" / "000_00000.parquet"
    cached.parent.mkdir(parents=True)
    cached.write_text("not Parquet")
    ran = run("--data", "fineweb-edu", *OUT, folder=folder)
    assert ran.returncode == 3
    assert "pyarrow" in ran.stderr or "000_00000.parquet: not a readable" in ran.stderr


def test_stories_are_told_with_their_entropy(folder):
    ran = run("--data", "stories", *OUT, "--stories-bytes", 20_000, folder=folder)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("bits per byte at best") == 2
    assert TokenDataset.open(folder / "out").split("train").entropy_bits > 0


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("--data", "a.txt", *OUT, "--overwrit"), 2, "--overwrit"),
        (("--data", "a.txt", "--tokenizer", "bytes", "--out", "full"), 2, "not empty"),
        (("--data", "stories", "a.txt", *OUT), 2, "cannot be mixed"),
        (("--data", "tinyshakespeare", *OUT, "--shards", "2"), 2, "from 1 to 1"),
        (("--data", "none.txt", *OUT), 3, "none.txt: no such file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, code, complaint, folder):
    ran = run(*arguments, folder=folder)
    assert ran.returncode == code
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1
    assert complaint in ran.stderr
    assert set(os.listdir(folder)) - {"cache"} == {"a.txt", "full"}


def test_help_comes_without_jax(folder):
    ran = run("--help", folder=folder, python=("-X", "importtime"))
    assert ran.returncode == 0
    assert "--validation-fraction" in ran.stdout
    assert "jaxtyping" in ran.stderr
    assert not re.search(r"\| +(jax|flax|orbax|torch)$", ran.stderr, re.MULTILINE)
