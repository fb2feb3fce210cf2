"""Every float of a config is checked as the float32 that a device makes of it."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from jaxgpt.config import DataConfig, ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.settings import (
    ClassifierConfig,
    InstructionConfig,
    LoraConfig,
    PreferenceConfig,
    PreferenceTuningConfig,
    TuningConfig,
)
from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.ranges import as_float32
from jaxgpt.run_config import OptimizerConfig

TUNING = {"init_from": "a", "data": ("b",)}
KINDS = [
    *((kind, {}) for kind in (ModelConfig, DataConfig, OptimizerConfig, LoraConfig)),
    *((kind, {}) for kind in (PreferenceConfig, TrainConfig)),
    *((kind, TUNING) for kind in (TuningConfig, ClassifierConfig, InstructionConfig)),
    (PreferenceTuningConfig, TUNING),
]
FLOATS = [
    (kind, given, field.name)
    for kind, given in KINDS
    for field in dataclasses.fields(kind)
    if isinstance(getattr(kind(**given), field.name), float)
]
NO_FLOAT32 = [1e-60, -1e-60, 5e-324, 1e-45, 1e-39, 1e39, 1e300, -1e300, float("inf"), float("nan")]


@pytest.mark.parametrize("value", NO_FLOAT32)
@pytest.mark.parametrize(("kind", "given", "name"), FLOATS)
def test_what_is_another_number_in_float32_is_refused(kind, given, name, value):
    with pytest.raises(ConfigError, match=name):
        kind(**given, **{name: value})


@pytest.mark.filterwarnings("ignore:learning_rate")
@pytest.mark.parametrize(
    ("kind", "values", "complaint"),
    [
        (
            OptimizerConfig,
            {"epsilon": 1e-60},
            "epsilon is 1e-60, which is 0 in float32",
        ),
        (
            ModelConfig,
            {"norm_epsilon": 1e300},
            "is infinite in float32; it must be from",
        ),
        (
            OptimizerConfig,
            {"beta1": 0.99999999999},
            r"beta1 is .*; it must be in \[0, 1\)",
        ),
        (OptimizerConfig, {"beta2": 0.99999999999}, "at most 0.99999994"),
        (ModelConfig, {"dropout": 0.99999999999}, "at most 0.99999994"),
        (OptimizerConfig, {"learning_rate": 2e-38, "warmup_steps": 9}, r"/ \(warmup_steps \+ 1\)"),
        (SamplingConfig, {"min_p": 0.99999999999}, "min_p is 0.99999999999"),
        (SamplingConfig, {"temperature": 1e300}, r"temperature is 1e\+300"),
        (SamplingConfig, {"repetition_penalty": 1e-50}, "repetition_penalty is 1e-50"),
    ],
)
def test_what_becomes_a_number_out_of_range_is_refused(kind, values, complaint):
    with pytest.raises(ConfigError, match=complaint):
        kind(**values)


def test_a_rate_by_which_no_parameter_changes_is_warned_of():
    with pytest.warns(UserWarning, match="do not change by so little"):
        OptimizerConfig(learning_rate=1e-20)


@pytest.mark.parametrize("value", [1e-60, 1.1e-38, -1e-39, 1.2e-38, 0.1, 3.4e38, 3.5e38, 1e300])
def test_float32_is_what_xla_computes_with(value):
    with np.errstate(over="ignore"):
        rounded = np.float32(value)
    assert (as_float32(value) == 0) == (float(jax.jit(lambda x: 1.5 * x)(rounded)) == 0)
    assert math.isinf(as_float32(value)) == np.isinf(rounded)
