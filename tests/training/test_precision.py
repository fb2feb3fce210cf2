"""Precision `auto`: the faster dtype, measured once, and a run that goes on keeps its own."""

import json
from dataclasses import replace

import pytest

from jaxgpt.config_file import find_config, load_config
from jaxgpt.errors import CheckpointError, ConfigError, ResourceError
from jaxgpt.presets import get_preset
from jaxgpt.run_config import RunOptions
from jaxgpt.training import precision
from jaxgpt.training.precision import fastest_precision, settle_precision
from jaxgpt.training.pretrain import pretrain

OPEN = replace(get_preset("tiny"), compute_dtype="auto")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """`measured(float32=..., bfloat16=...)`: what a machine takes; returns the calls so far."""
    monkeypatch.delenv("JAXGPT_COMPUTE_DTYPE")
    monkeypatch.setenv("JAXGPT_CACHE", str(tmp_path / "cache"))
    calls = []

    def make(**seconds):
        precision._faster.cache_clear()
        monkeypatch.setattr(precision, "product_seconds", lambda: calls.append(seconds) or seconds)
        return calls

    yield make
    precision._faster.cache_clear()


@pytest.mark.parametrize(
    ("narrow", "expected"), [(0.5, "bfloat16"), (0.95, "float32"), (3.0, "float32")]
)
def test_auto_takes_bfloat16_where_it_is_clearly_faster(measured, narrow, expected, capsys):
    measured(float32=1.0, bfloat16=narrow)
    assert settle_precision(OPEN).compute_dtype == expected
    assert f"auto takes {expected}" in capsys.readouterr().err


def test_what_was_measured_is_kept_and_measured_anew_where_that_is_damaged(measured, tmp_path):
    calls = measured(float32=1.0, bfloat16=0.5)
    assert fastest_precision() == fastest_precision() == "bfloat16"
    assert len(calls) == 1
    measured(float32=0.1, bfloat16=0.5)
    assert fastest_precision() == "bfloat16"
    assert len(calls) == 1
    (kept,) = (tmp_path / "cache" / "products").iterdir()
    for damage in ("", "[]", '{"float32": null, "bfloat16": 1}'):
        kept.write_text(damage)
        precision._faster.cache_clear()
        assert fastest_precision() == "float32"
    assert json.loads(kept.read_text()) == {"float32": 0.1, "bfloat16": 0.5}
    assert len(calls) == 4


def test_a_cache_that_cannot_be_written_to_costs_a_measurement_alone(
    measured, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXGPT_CACHE", str(tmp_path / "file"))
    measured(float32=1.0, bfloat16=0.5)
    assert fastest_precision() == "bfloat16"


def test_a_full_disk_of_the_cache_ends_no_run(measured, monkeypatch):
    def write_file(path, content):
        raise ResourceError("no space left")

    measured(float32=1.0, bfloat16=0.5)
    monkeypatch.setattr(precision, "write_file", write_file)
    assert fastest_precision() == "bfloat16"


def test_products_are_measured():
    seconds = precision.product_seconds()
    assert 0 < seconds["float32"] < 60
    assert 0 < seconds["bfloat16"] < 60


def test_the_environment_decides_without_a_measurement(measured, monkeypatch):
    calls = measured(float32=1.0, bfloat16=0.5)
    monkeypatch.setenv("JAXGPT_COMPUTE_DTYPE", "float32")
    assert fastest_precision() == "float32"
    assert not calls
    monkeypatch.setenv("JAXGPT_COMPUTE_DTYPE", "float16")
    with pytest.raises(ConfigError, match=r"JAXGPT_COMPUTE_DTYPE is 'float16'.*bfloat16"):
        fastest_precision()


@pytest.mark.slow
def test_a_run_records_its_precision_and_goes_on_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGPT_COMPUTE_DTYPE", "bfloat16")
    short = replace(OPEN, steps=2, optimizer=replace(OPEN.optimizer, warmup_steps=0))
    pretrain(short, tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.json").compute_dtype == "bfloat16"
    assert '"compute_dtype": "bfloat16"' in (tmp_path / "run" / "README.md").read_text()
    monkeypatch.setenv("JAXGPT_COMPUTE_DTYPE", "float32")
    assert settle_precision(short, tmp_path / "run", RunOptions()).compute_dtype == "bfloat16"
    assert pretrain(short, tmp_path / "run").config.compute_dtype == "bfloat16"
    anew = RunOptions(overwrite=True)
    assert settle_precision(short, tmp_path / "run", anew).compute_dtype == "float32"
    with pytest.raises(CheckpointError, match="compute_dtype: bfloat16 -> float32"):
        pretrain(replace(short, compute_dtype="float32"), tmp_path / "run")


def test_a_preset_in_float32_is_open_on_the_command_line():
    assert find_config("tiny") == OPEN
    assert find_config("gpt2").compute_dtype == "bfloat16"


def test_a_step_by_itself_asks_for_a_precision():
    with pytest.raises(ConfigError, match=r"compute_dtype is auto.*name float32 or bfloat16"):
        _ = OPEN.compute
