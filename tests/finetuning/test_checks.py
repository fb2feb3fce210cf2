"""What would do nothing is refused, and what would measure nothing is said."""

import pytest

from jaxgpt.errors import CheckpointError, ConfigError, DataError
from jaxgpt.finetuning.checks import check_held_out, refuse_idle_settings
from jaxgpt.finetuning.lora_file import RECORD, check_base, find_base
from jaxgpt.finetuning.settings import (
    ClassifierConfig,
    InstructionConfig,
    LoraConfig,
    OptimizerConfig,
    PreferenceTuningConfig,
)
from jaxgpt.finetuning.templates import tuned_template
from jaxgpt.finetuning.tuning import train_config

KINDS = (ClassifierConfig, InstructionConfig, PreferenceTuningConfig)
FOLDERS = {"init_from": "base", "data": ("a.jsonl",)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trained", ["all", "lora", 1])
def test_defaults_do_something(kind, trained):
    refuse_idle_settings(kind(trained=trained, **FOLDERS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"lora": LoraConfig(alpha=1.0)}, "--alpha"),
        ({"lora": LoraConfig(rank=4), "trained": 1}, "--rank"),
        (
            {"optimizer": OptimizerConfig(weight_decay=9.0, warmup_steps=0), "trained": "lora"},
            "--weight-decay",
        ),
        (
            {"optimizer": OptimizerConfig(final_learning_rate=1e-6, schedule="constant")},
            "--final-learning-rate",
        ),
        (
            {"optimizer": OptimizerConfig(initial_learning_rate=1e-6, warmup_steps=0)},
            "--initial-learning-rate",
        ),
        ({"optimizer": OptimizerConfig(momentum=0.9)}, "--momentum"),
        (
            {"optimizer": OptimizerConfig(optimizer="muon", weight_decay=0.0), "trained": "lora"},
            "--optimizer",
        ),
        ({"optimizer": OptimizerConfig(optimizer="muon"), "trained": 0}, "--optimizer"),
        ({"steps": 9, "epochs": 5}, "--epochs"),
        ({"validation": ("b",), "validation_fraction": 0.2}, "--validation-fraction"),
    ],
)
def test_a_setting_that_changes_nothing_is_refused(kind, settings, flag):
    with pytest.raises(ConfigError, match=f"^{flag} changes nothing .*, or leave {flag} out"):
        refuse_idle_settings(kind(**FOLDERS, **settings))


def test_adapters_can_be_made_to_decay():
    decay = OptimizerConfig(weight_decay=9.0, weight_decay_on="all")
    refuse_idle_settings(InstructionConfig(trained="lora", optimizer=decay, **FOLDERS))


def test_held_out_records_that_are_trained_on():
    check_held_out("--test", [1, 2], [3, 4])
    with pytest.warns(UserWarning, match="1 of 2 records of --test are also in --data"):
        check_held_out("--test", [1, 2], [2, 3])
    with pytest.raises(DataError, match="all 2 records of --test are also in --data; name others"):
        check_held_out("--test", [1, 2], [2, 1, 3])


def test_a_batch_larger_than_the_data_is_said(base):
    config = InstructionConfig(batch_size=1000, **FOLDERS)
    with pytest.warns(UserWarning, match="1,000 is more than the 4 rows to train on, .* 250.0 tim"):
        train_config(config, base, 4)


def test_a_base_is_looked_for_near_its_adapters(tmp_path, monkeypatch):
    adapters, base = tmp_path / "project/runs/tuned/adapters", tmp_path / "project/runs/small"
    elsewhere = tmp_path / "elsewhere"
    for folder in (adapters, base, elsewhere):
        folder.mkdir(parents=True)
    record = {"init_from": "runs/small"}
    monkeypatch.chdir(tmp_path / "project")
    assert find_base(adapters, record) == "runs/small"
    monkeypatch.chdir(elsewhere)
    assert find_base(adapters, record) == str(base)
    assert find_base(adapters, record, "other") == "other"
    base.rename(tmp_path / "moved")
    for lost in (record, {"init_from": ""}, {"init_from": "/none"}, {"init_from": "a\0b"}):
        with pytest.raises(CheckpointError, match="say where it lies now by --base"):
            find_base(adapters, lost)


def test_a_base_goes_with_adapters(tmp_path):
    check_base(tmp_path, "")
    with pytest.raises(ConfigError, match="--base goes with adapters"):
        check_base(tmp_path, "base")
    (tmp_path / RECORD).touch()
    check_base(tmp_path, "base")


def test_the_template_of_a_task():
    assert tuned_template({"template": "phi"}) == "phi"
    assert tuned_template({}) == ""
    with pytest.raises(CheckpointError, match="tuned with template 'chatty', which is none of"):
        tuned_template({"template": "chatty"})
