"""Every config holds its fields against their annotations, however it is made."""

import ast
import dataclasses
import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import jaxgpt
from jaxgpt.assistant.judge import Judge
from jaxgpt.assistant.recipe import Recipe
from jaxgpt.config import DataConfig, ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.classification import pool
from jaxgpt.finetuning.settings import TuningConfig
from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.generation.text import stream_texts
from jaxgpt.huggingface.weights import load_gpt2
from jaxgpt.model.attention_kernels import choose_attention
from jaxgpt.model.layers import gelu

X = np.ones((2, 1, 1, 1), np.float32)
ROOT = Path(jaxgpt.__file__).parent


def _configs():
    """Every dataclass of the package that is called a config or options, and two that are not."""
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Options")):
                module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
                yield getattr(importlib.import_module(module), node.name)
    yield from (Recipe, Judge)


GIVEN = {Judge: {"url": "http://a", "model": "b"}}
FIELDS = [
    (kind, name, hint)
    for kind in _configs()
    for name, hint in get_type_hints(kind).items()
    if name in {item.name for item in dataclasses.fields(kind)}
]


def _make(kind, **values):
    """A config with these values, past the annotations that the test run enforces itself."""
    given = {"init_from": "a", "data": ("b",)} if issubclass(kind, TuningConfig) else {}
    config = kind(**GIVEN.get(kind, given))
    for name, value in values.items():
        object.__setattr__(config, name, value)
    config.__post_init__()
    return config


def _choices(hint):
    options = get_args(hint) if get_origin(hint) is not Literal else (hint,)
    return [str(x) for o in options if get_origin(o) is Literal for x in get_args(o)]


@pytest.mark.parametrize(
    ("kind", "name", "hint"), FIELDS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_what_an_annotation_does_not_allow_is_refused(kind, name, hint):
    # Neither text, nor a number, nor anything that a field could hold.
    for value in (SimpleNamespace(), None, *(["no such"] if _choices(hint) else [])):
        with pytest.raises(ConfigError, match=name) as caught:
            _make(kind, **{name: value})
        assert all(choice in str(caught.value) for choice in _choices(hint))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelConfig, {"gelu": "relu"}, "gelu is 'relu'; it must be tanh or erf"),
        (ModelConfig, {"positions": "alibi"}, "it must be learned or sinusoidal"),
        (ModelConfig, {"num_layers": 2.0}, "num_layers is 2.0; it must be an int"),
        (ModelConfig, {"num_heads": True}, "num_heads is True; it must be an int"),
        (ModelConfig, {"tie_head": 1}, "tie_head is 1; it must be a bool"),
        (DataConfig, {"data": "mine.txt"}, "data must be a list of strings, got 'mine.txt'"),
        (TrainConfig, {"model": {}}, "model is {}; it must be a ModelConfig"),
        (SamplingConfig, {"top_k": 2.5}, "top_k is 2.5; it must be an int"),
        (TuningConfig, {"trained": "none"}, "it must be all or lora or an int"),
        (TuningConfig, {"trained": -1}, "trained is -1; it must be all, lora, or 0 or more"),
        (TuningConfig, {"fsdp": 0}, "fsdp is 0; it must be 1 or more"),
        (TuningConfig, {"dropout": 1.0}, r"dropout is 1.0; it must be in \[0, 1\)"),
    ],
)
def test_the_message_names_value_and_choices(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        _make(kind, **values)


def test_what_means_the_same_becomes_the_same():
    size, rate = np.int64(5), np.float32(0.5)
    config = _make(ModelConfig, vocab_size=size, dropout=rate, qkv_bias=np.True_, norm_epsilon=1)
    assert config == ModelConfig(vocab_size=5, dropout=0.5, norm_epsilon=1.0)
    assert [type(x) for x in dataclasses.astuple(config)].count(np.int64) == 0
    assert _make(DataConfig, data=["a", Path("b")]).data == ("a", "b")


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (gelu, (X, "relu"), "gelu is 'relu'; it must be tanh or erf"),
        (choose_attention, ("flash", X.shape, "float32"), "it must be auto or chunked or cudnn or"),
        (pool, (X, np.ones(2, int), "max"), "pooling is 'max'; it must be last or first or mean"),
        (load_gpt2, ("no such folder", "float64"), "dtype is 'float64'; it must be float32 or"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_functions_choices_are_held_as_well(function, arguments, message):
    with pytest.raises(ConfigError, match=message):
        inspect.unwrap(function)(*arguments)  # without what the test run itself enforces


def test_how_a_prompt_is_cut_is_one_of_two():
    call = inspect.unwrap(stream_texts)(None, [], max_new_tokens=1, truncate="right")
    with pytest.raises(ConfigError, match="truncate is 'right'; it must be none or left"):
        next(call)
