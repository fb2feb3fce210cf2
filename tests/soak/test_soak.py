"""A few random faults; `soak.py --faults 500` tries as many as one has time for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole_run


def test_runs_survive_random_faults(tmp_path):
    command = [sys.executable, Path(__file__).with_name("soak.py"), "--only", "train"]
    command += ["--faults", "5", "--seed", "1"]
    environment = {name: value for name, value in os.environ.items() if "JAX" not in name}
    done = subprocess.run(
        [*command, "--folder", tmp_path], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
