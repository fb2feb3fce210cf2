"""Which Python `make` takes for the environment, and what it says where there is none."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKE = shutil.which("make")

pytestmark = pytest.mark.skipif(MAKE is None, reason="there is no make")

WORKING = """#!/bin/sh
case "$1" in
  -c) exit 0 ;;
  -V) echo "Python of $0" ;;
  -m) /bin/mkdir -p "$3" && echo "$0" >"$3/made-by" ;;
esac
"""
BROKEN = "#!/bin/sh\nexit 1\n"  # too old, a version manager's stand-in, or without ensurepip


@pytest.fixture
def make(tmp_path):
    """`make({name: script}, *arguments)`: make's result where no other Python is found."""

    def run(pythons, *arguments):
        for name, script in pythons.items():
            (tmp_path / name).write_text(script)
            (tmp_path / name).chmod(0o755)
        command = [MAKE, f"VENV={tmp_path}/venv", *arguments, f"{tmp_path}/venv/bin/python"]
        return subprocess.run(
            command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True
        )

    return run


def test_the_newest_that_works_is_taken_and_named(make, tmp_path):
    found = make({"python3.13": BROKEN, "python3.12": WORKING, "python3.11": WORKING})
    assert found.returncode == 0
    assert found.stdout.splitlines()[-1].endswith(
        "by python3.12 is the newest here; PYTHON=... takes another"
    )
    assert (tmp_path / "venv" / "made-by").read_text() == f"{tmp_path}/python3.12\n"


def test_one_that_is_named_is_taken(make, tmp_path):
    pythons = {"python3.13": WORKING, "my python": WORKING}
    assert make(pythons, f"PYTHON={tmp_path}/my python").returncode == 0
    assert (tmp_path / "venv" / "made-by").read_text() == f"{tmp_path}/my python\n"


@pytest.mark.parametrize(
    ("named", "said"),
    [((), "there is no Python of 3.11 or newer"), (("PYTHON=old",), "old is no Python of 3.11")],
)
def test_without_one_a_line_says_how_to_name_it(make, tmp_path, named, said):
    found = make({"python3.13": BROKEN, "python3": BROKEN, "old": BROKEN}, *named)
    assert found.returncode == 2
    (line,) = [line for line in found.stderr.splitlines() if said in line]
    assert line.startswith("error: ")
    assert line.endswith("name one: make PYTHON=python3.12")
    assert not (tmp_path / "venv").exists()
