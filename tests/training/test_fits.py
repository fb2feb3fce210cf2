"""What cannot fit is refused before anything is allocated, and nothing else is."""

from dataclasses import replace

import pytest

from jaxgpt.config import get_preset
from jaxgpt.errors import ResourceError
from jaxgpt.training import fits
from jaxgpt.training.fits import check_step
from jaxgpt.training.plan import peak

CONFIG = get_preset("tiny")
CONFIG = replace(CONFIG, model=replace(CONFIG.model, vocab_size=256), batch_size=64)


def memory(monkeypatch, size):
    monkeypatch.setattr(fits, "device_memory", lambda: size)


def test_a_step_that_cannot_fit_is_refused_with_what_makes_it_fit(monkeypatch):
    needed = peak(CONFIG)
    memory(monkeypatch, int(needed / 1.2))
    with pytest.raises(ResourceError, match=r"a step takes 0\.\d GB on each device: .* set --gr"):
        check_step(CONFIG, 1)


def test_a_step_that_may_fit_is_not_refused(monkeypatch):
    memory(monkeypatch, int(peak(CONFIG) / 1.1))
    check_step(CONFIG, 1)
    memory(monkeypatch, None)
    check_step(CONFIG, 1)


def test_what_is_far_from_the_limit_is_not_planned(monkeypatch):
    monkeypatch.setattr(fits, "make_plan", None)
    memory(monkeypatch, 25 * 10**9)
    for name in ("tiny", "small", "shakespeare"):
        config = get_preset(name)
        check_step(replace(config, model=replace(config.model, vocab_size=2048)), 1)


def test_gpt2_without_accumulation_is_looked_at(monkeypatch):
    looked = []
    monkeypatch.setattr(fits, "multiplies_bfloat16", lambda: looked.append(1) or True)
    monkeypatch.setattr(fits, "make_plan", lambda *given, **options: looked.append(given) or PLAN)
    monkeypatch.setattr(fits, "verdict", lambda *given, **options: "does not fit in 25.3 GB")
    memory(monkeypatch, 25_300_000_000)
    gpt2 = replace(get_preset("gpt2"), gradient_accumulation=1)
    with pytest.raises(ResourceError, match=r"takes 130.9 GB on each device: 1.5 of parameters"):
        check_step(gpt2, 1)
    assert len(looked) == 2


class PLAN:
    peak, held = 130_900_000_000, 1_500_000_000
