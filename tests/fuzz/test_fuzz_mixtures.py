"""The argument that names data with weights: shares that hold, or a refusal."""

import math

from harness import HOSTILE, attempt
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgpt.data.mixed_windows import interleave
from jaxgpt.data.mixture import FINEST, counts_of, names_of, read_weights
from jaxgpt.errors import ConfigError

names = st.text(max_size=6) | st.sampled_from([x for x in HOSTILE if isinstance(x, str)])
numbers = st.sampled_from(["1", "0.7", "1e-5", "1e-300", "1e308", "0", "-1", "nan", "inf", "1_0"])
numbers |= st.floats(width=32).map(str) | st.text(max_size=4)
weighted = st.tuples(names, st.sampled_from(["=", "==", ""]), numbers).map("".join)


@given(data=st.lists(weighted | names, max_size=5))
@example(["a=1e999", "b=1"])
@example(["a=5e-324", "b=1.7e308"])
@example(["a=" + "9" * 5000, "b=1"])
@example(["\ud800=1", "\0=1"])
@example([f"{number}=1" for number in range(2000)])
def test_weights_are_shares_or_refused(data):
    def parse():
        weights = read_weights(data)
        return counts_of(weights) if weights else ()

    counts = attempt(parse, ConfigError)
    if isinstance(counts, ConfigError):
        return
    if counts:
        assert len(counts) == len(data)
        assert min(counts) > 0
        assert sum(counts) <= FINEST
        assert math.gcd(*counts) == 1
        assert sum(counts) > 1000 or sorted(interleave(counts).tolist()) == [
            source for source, count in enumerate(counts) for _ in range(count)
        ]
    else:
        assert names_of(data) == tuple(data)
