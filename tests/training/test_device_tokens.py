"""Tokens on the device give the batches that tokens in files give."""

import jax
import numpy as np
import pytest

from jaxgpt.data.batches import SlidingWindows
from jaxgpt.data.mixed_windows import MixedWindows
from jaxgpt.presets import get_preset
from jaxgpt.training import device_tokens
from jaxgpt.training.device_tokens import batch_source, from_device, tokens_fit
from jaxgpt.training.mesh import make_mesh

TOKENS = np.random.default_rng(0).integers(300, size=500).astype(np.int32)


@pytest.mark.parametrize("stride", [1, 5, 16, 40])
def test_both_sources_give_the_same_batches(stride):
    check_sources(SlidingWindows(TOKENS, 16, stride))


def test_both_sources_give_the_same_batches_of_a_mixture():
    parts = {"a": SlidingWindows(TOKENS[:190], 16, 5), "b": SlidingWindows(TOKENS[190:], 16, 5)}
    check_sources(MixedWindows(parts, (2, 1)))


def check_sources(windows):
    mesh = make_mesh(get_preset("tiny"))
    sources = [make(windows, 8, 3, mesh) for make in (batch_source, from_device)]
    for step in range(6):  # past the end of an epoch, where the stride is wide
        files, device = [source(step) for source in sources]
        for ours, theirs in zip(device, files, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
            assert ours.sharding.is_equivalent_to(theirs.sharding, 2)


def test_only_an_accelerator_with_room_takes_the_tokens(monkeypatch):
    assert not tokens_fit(10)  # a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(device_tokens, "device_memory", lambda: 80 * 10**9)
    assert tokens_fit(10**9)
    assert not tokens_fit(10**9 + 1)
    monkeypatch.setattr(device_tokens, "device_memory", lambda: None)
    assert not tokens_fit(10)
