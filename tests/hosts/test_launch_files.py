"""The launch files of the pages give flags that there are."""

import re
from pathlib import Path

import pytest

from jaxgpt.commands.completion import _flags

FOLDER = Path(__file__).parents[2] / "docs" / "launch"


@pytest.mark.parametrize("name", ["train.slurm", "tpu-pod.sh"])
def test_the_flags_of_a_launch_file_exist(name):
    text = (FOLDER / name).read_text()
    [command] = re.findall(
        r"^[^#\n]*bin/jaxgpt train (.*?)(?:\"?\n\n|\Z)", text, re.DOTALL | re.MULTILINE
    )
    given = re.findall(r"(?<!\S)--[\w-]+", command)
    assert len(given) > 4
    assert set(given) <= set(_flags()["train"])
    assert text.startswith("#!/bin/bash\n")
    assert f"launch/{name})" in (FOLDER.parent / "hosts.md").read_text()
