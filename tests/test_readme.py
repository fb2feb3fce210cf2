"""README.md in a fresh clone, by walk.py."""

import subprocess
import sys
from pathlib import Path


def test_every_command_block_runs_as_printed(tmp_path):
    command = [sys.executable, Path(__file__).with_name("walk.py"), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
