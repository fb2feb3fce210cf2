"""What cannot fit is refused before anything is allocated, and nothing else is."""

from dataclasses import replace

import pytest

from jaxgpt.errors import ResourceError
from jaxgpt.presets import get_preset
from jaxgpt.training import fits
from jaxgpt.training.fits import check_step
from jaxgpt.training.plan import make_plan

CONFIG = get_preset("tiny")
CONFIG = replace(CONFIG, model=replace(CONFIG.model, vocab_size=256), batch_size=64)


def memory(monkeypatch, size):
    monkeypatch.setattr(fits, "device_memory", lambda: size)


def test_a_step_that_cannot_fit_is_refused_with_what_makes_it_fit(monkeypatch):
    needed = make_plan(CONFIG).peak
    memory(monkeypatch, int(needed / 1.2))
    with pytest.raises(ResourceError, match=r"a step takes 0\.\d GB on each device: .* set --gr"):
        check_step(CONFIG, 1)


def test_a_step_that_may_fit_is_not_refused(monkeypatch):
    memory(monkeypatch, int(make_plan(CONFIG).peak / 1.1))
    check_step(CONFIG, 1)
    memory(monkeypatch, None)
    check_step(CONFIG, 1)


def test_nothing_is_compiled_to_check_a_run_in_float32(monkeypatch):
    monkeypatch.setattr(fits, "multiplies_bfloat16", None)
    memory(monkeypatch, 25 * 10**9)
    for name in ("tiny", "small", "shakespeare"):
        config = get_preset(name)
        check_step(replace(config, model=replace(config.model, vocab_size=2048)), 1)


def test_gpt2_without_accumulation_is_refused(monkeypatch):
    monkeypatch.setattr(fits, "multiplies_bfloat16", lambda devices: "all")
    memory(monkeypatch, 25_300_000_000)
    gpt2 = replace(get_preset("gpt2"), gradient_accumulation=1)
    refusal = r"takes 1\d\d\.\d GB on each device: 1\.5 of parameters"
    with pytest.raises(ResourceError, match=refusal):
        check_step(gpt2, 1)
