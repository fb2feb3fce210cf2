"""What an engine may be asked."""

import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.serving.engine_types import Request


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ()}, "no tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 1_000_001}, "from 1 to 1,000,000"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed"),
        ({"sample_index": -1}, "sample_index is -1"),
        ({"stop": ("a", "")}, "a stop string is empty"),
        ({"top_logprobs": 21}, "top_logprobs is 21; it must be from 0 to 20"),
        ({"top_logprobs": -1}, "top_logprobs is -1"),
    ],
)
def test_a_bad_request_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Request(**{"prompt": (1, 2), "max_new_tokens": 4, **changes})
