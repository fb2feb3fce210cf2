"""Commands in processes of their own, in one or several, and what they log."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
PYTHON = [sys.executable, "-m", "jaxgpt"]


def environment(devices=1):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return os.environ | own


def start(*words, devices=1):
    return subprocess.Popen(
        [*PYTHON, *map(str, words)],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(*words, code=0, devices=1, process=None):
    """Standard output and error of a command that ends with that code."""
    process = process or start(*words, devices=devices)
    try:
        out, err = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == code, err
    return out, err


def launched(processes, *words, **options):
    return end("launch", "--processes", processes, "--", *words, **options)


def records(run):
    if not (run / "metrics.jsonl").is_file():
        return []
    lines = map(json.loads, (run / "metrics.jsonl").read_text().split("\n")[:-1])
    return [{k: x for k, x in line.items() if k != "tokens_per_second"} for line in lines]


def losses(run):
    return np.array([item["loss"] for item in records(run) if "loss" in item])
