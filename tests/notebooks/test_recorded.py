"""What the course has recorded of PyTorch is what PyTorch computes."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "notebooks"))

from course import recorded
from jaxgpt.parity.diagnosis.differences import rounding


@pytest.mark.slow
def test_the_recording_is_pytorchs():
    with np.load(recorded.FILE) as file:
        stored = dict(file)
    made = recorded.make()
    assert stored.keys() == made.keys()
    assert (stored["tokens"] == made["tokens"]).all()
    for name, x in stored.items():
        # Of other processors other roundings: those of as many sums as on the way to the logits.
        np.testing.assert_allclose(
            x, made[name], rtol=0, atol=rounding(1000, 2.0**-24) * abs(x).max()
        )
