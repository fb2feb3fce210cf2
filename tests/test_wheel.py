"""The wheel, in an environment of its own: its command does the main job in an empty folder."""

import os
import resource
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from jaxgpt import __version__
from jaxgpt.shell import COMMANDS

pytestmark = pytest.mark.whole_run

ROOT = Path(__file__).parents[1]
TRAIN = (
    "train tiny --platform cpu --steps 2 --warmup-steps 1 --batch-size 8 --context-length 16 "
    "--stories-bytes 20000 --evaluation-batches 1 --sample-tokens 2 --num-layers 1 --embed-dim 8"
)


@pytest.fixture(scope="module")
def jaxgpt(tmp_path_factory):
    """`jaxgpt(*words)` of the installed wheel: what it printed, in a folder that began empty."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, for building leaves files
    shutil.copytree(ROOT / "jaxgpt", source / "jaxgpt")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

    def run(*command, code=0):
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    work = folder / "empty"
    work.mkdir()
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    offline = ("--no-deps", "--no-index")
    run(*pip, "wheel", *offline, "--no-build-isolation", "-w", folder, source)
    venv.create(folder / "venv")
    python = folder / "venv/bin/python"
    [wheel] = folder.glob("*.whl")
    run(*pip, "--python", python, "install", *offline, wheel)
    # What the wheel needs is taken from where these tests found it; jaxgpt itself is not there
    # twice, for the wheel's folder comes first.
    found = [path for path in sys.path if path.endswith("-packages")]
    [site] = folder.glob("venv/lib/python*/site-packages")
    (site / "packages.pth").write_text("\n".join(found))
    assert list(work.iterdir()) == []
    return lambda *words, code=0: run(folder / "venv/bin/jaxgpt", *words, code=code)


def test_the_command_trains_in_an_empty_folder_and_prints_what_to_run_next(jaxgpt):
    shown = jaxgpt(*TRAIN.split()).stdout
    [line] = [line for line in shown.splitlines() if line.startswith("write with it: ")]
    command = line.partition(": ")[2].split()
    assert command[0].endswith("venv/bin/jaxgpt")
    assert command[1:4] == ["generate", "--checkpoint", "runs/tiny"]
    assert "usage: " + " ".join(command[:2]) in jaxgpt("generate", "--help").stdout
    assert jaxgpt("trian", code=2).stderr == (
        "error: jaxgpt has no command trian (did you mean train?); --help shows them\n"
    )


def test_its_page_lists_every_command_and_takes_little_time(jaxgpt):
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        page = jaxgpt("--help").stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert page == jaxgpt().stdout
    assert page.startswith(f"jaxgpt {__version__}: ")
    assert all(f"\n  {name}  " in page for name in COMMANDS)
    assert min(seconds) < 0.3  # the interpreter's start among them
