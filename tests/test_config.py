"""Configs refuse what cannot work, and survive a trip through JSON."""

import dataclasses
import json

import pytest

from jaxgpt.config import DataConfig, ModelConfig, TrainConfig
from jaxgpt.config_file import differences, from_dict, load_config, to_dict
from jaxgpt.errors import ConfigError
from jaxgpt.presets import PRESETS, get_preset
from jaxgpt.run_config import OptimizerConfig, RunOptions


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = get_preset(name)
    assert from_dict(TrainConfig(), json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelConfig, {"embed_dim": 768, "num_heads": 7}, "nearby divisors are 3, 4, 6, 8"),
        (ModelConfig, {"dropout": 1.0}, "dropout is 1.0"),
        (ModelConfig, {"dropout": float("nan")}, "finite"),
        (ModelConfig, {"num_layers": 0}, "num_layers is 0; it must be 1 or more"),
        (ModelConfig, {"embed_dim": 3, "num_heads": 1, "positions": "sinusoidal"}, "even"),
        (ModelConfig, {"norm_epsilon": 0.0}, "above 0"),
        (DataConfig, {"data": ()}, "data is empty"),
        (DataConfig, {"validation_fraction": 1.0}, "between 0 and 1"),
        (DataConfig, {"tokenizer": "bpe:200"}, "257 or more"),
        (OptimizerConfig, {"learning_rate": 0.0}, "above 0"),
        (OptimizerConfig, {"final_learning_rate": 1.0}, "from 0 to learning_rate"),
        (OptimizerConfig, {"beta2": 1.0}, r"\[0, 1\)"),
        (OptimizerConfig, {"momentum": 1.0}, r"momentum is 1.0; it must be in \[0, 1\)"),
        (OptimizerConfig, {"gradient_clip": 0.0}, "none disables clipping"),
        (OptimizerConfig, {"weight_decay": -0.1}, "0 or more"),
        (OptimizerConfig, {"decay_fraction": 0.0}, "above 0"),
        (TrainConfig, {"steps": 100}, "warmup_steps is 100, but the run has only 100 steps"),
        (TrainConfig, {"seed": 2**32}, "at most 4294967295"),
        (TrainConfig, {"batch_size": 0}, "1 or more"),
        (RunOptions, {"overwrite": True, "resume": "must"}, "drop one"),
    ],
)
def test_impossible_values_are_refused(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lerning_rate": 1}, "lerning_rate is not a setting"),
        ({"optimizer": {"lerning_rate": 1}}, "did you mean learning_rate?"),
        ({"steps": "ten"}, "steps is 'ten'; it must be an int"),
        ({"steps": True}, "steps is True"),
        ({"optimizer": {"optimizer": "mu0n"}}, "it must be adamw or muon"),
        ({"model": 3}, "model must be a section"),
        ({"model": {"tie_head": "yes"}}, "it must be a bool"),
        ({"compute_dtype": "float16"}, "it must be auto or float32 or bfloat16"),
        ({"data": {"data": "stories"}}, "must be a list of strings"),
    ],
)
def test_a_mapping_of_another_form_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(TrainConfig(), values)


def test_a_file_is_laid_over_its_preset(tmp_path):
    (tmp_path / "mine.toml").write_text('preset = "tiny"\nsteps = 7\n[optimizer]\nwarmup_steps=2\n')
    config = load_config(tmp_path / "mine.toml")
    tiny = get_preset("tiny")
    expected = dataclasses.replace(
        tiny, steps=7, optimizer=dataclasses.replace(tiny.optimizer, warmup_steps=2)
    )
    assert config == expected
    assert differences(tiny, config) == ["steps: 100 -> 7", "optimizer.warmup_steps: 10 -> 2"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"steps": 1,\n "steps" 2}', "line 2, column 10"),
        ("a.toml", "steps = \n", "line 1, column 9"),
        ("a.json", '{"steps": 1, "steps": 2}', "steps stands twice"),
        ("a.toml", "steps = 1\nsteps = 2\n", "overwrite"),
        ("a.json", '{"model": {"dropout": NaN}}', "NaN is not a number"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", " " * 1_000_001, "1,000,001 bytes"),
        ("a.json", "[]", "holds a list"),
        ("a.json", '{"preset": "smal"}', "did you mean small?"),
        ("a.json", '{"preset": 3}', "preset is 3"),
        ("a.yaml", "", "neither .json nor .toml"),
        ("b.json", None, "No such file"),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) or "preset" in message
