"""A folder of adapters: the ones that were trained, with their settings, or a refusal."""

import json

import jax
import numpy as np
import pytest
from harness import HOSTILE, Cut, Kept, Put, Raw, Whole, attempt, cuts, json_mutations, replaced
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgpt.assistant.chat import find_template
from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.errors import CheckpointError, JaxgptError
from jaxgpt.finetuning import pretrained
from jaxgpt.finetuning.lora import fingerprint, init_adapters
from jaxgpt.finetuning.lora_file import ADAPTERS, RECORD, load_adapters, save_adapters
from jaxgpt.finetuning.pretrained import load_adapted
from jaxgpt.finetuning.settings import LoraConfig
from jaxgpt.finetuning.tune_classifier import load_classifier, with_class_head
from jaxgpt.tokenization.tokenizer import ByteTokenizer
from jaxgpt.training.checkpoint import LoadedModel

LORA = LoraConfig(rank=2, alpha=4.0, targets=("query", "up"))
TASKS = (
    {"kind": "instructions", "template": "chat"},
    {"kind": "classification", "classes": ["a", "b"], "pooling": "last", "seed": 0},
)


SHAPE = ModelConfig(vocab_size=256, context_length=8, num_layers=1, num_heads=1, embed_dim=4)


@pytest.fixture(scope="module")
def params(random_params):
    return Kept(random_params(SHAPE))


@pytest.fixture(scope="module")
def folder(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "adapters"
    adapters = init_adapters(params.value, LORA, jax.random.key(1))
    base = fingerprint(params.value)
    save_adapters(folder, adapters, LORA, base, init_from="base", task=TASKS[0])
    return folder


def contents(folder, params):
    adapters, config, _ = load_adapters(folder, params.value)
    return jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), adapters), config


def check(folder, params, name, mutation):
    sound = contents(folder, params)
    with replaced(folder / name, mutation((folder / name).read_bytes())):
        found = attempt(lambda: contents(folder, params), CheckpointError)
    assert isinstance(found, CheckpointError) or found == sound


puts = st.builds(
    lambda name, value: Put((name,), value),
    st.sampled_from(["format", "base", "sha256", "rank", "alpha", "targets", "task", "init_from"]),
    st.sampled_from(HOSTILE),
)


@pytest.mark.slow
@given(mutation=json_mutations | puts)
@example(Put(("alpha",), 8.0))
@example(Put(("alpha",), 10**400))
@example(Put(("alpha",), Raw("1e999")))
@example(Put(("alpha",), ...))
@example(Put(("rank",), 10**400))
@example(Put(("rank",), 10**9))
@example(Put(("targets",), ["up", "query"]))
@example(Put(("format",), 10**400))
@example(Put(("sha256",), "0" * 64))
@example(Put(("arrays",), "0" * 64))
@example(Put(("arrays",), ...))
@example(Put(("format",), 1))
@example(Whole(b"[" * 100_000))
def test_a_damaged_record_of_adapters_is_refused(folder, params, mutation):
    check(folder, params, RECORD, mutation)


@given(mutation=cuts)
@example(Cut((("flip", 999_999, 1, 0),)))
@example(Whole(b""))
def test_damaged_adapters_are_refused(folder, params, mutation):
    check(folder, params, ADAPTERS, mutation)


@given(mutation=json_mutations, task=st.sampled_from(TASKS))
@example(Put(("template",), ["chat"]), TASKS[0])
@example(Put(("template",), 5), TASKS[0])
@example(Put(("template",), "\ud800"), TASKS[0])
@example(Put(("classes",), 5), TASKS[1])
@example(Put(("classes",), ...), TASKS[1])
@example(Put(("classes",), [["a"], 5]), TASKS[1])
@example(Put(("classes",), []), TASKS[1])
@example(Put(("classes",), ["a", "a"]), TASKS[1])
@example(Put(("seed",), 10**400), TASKS[1])
@example(Put(("seed",), "0"), TASKS[1])
@example(Put(("pooling",), []), TASKS[1])
@example(Put(("kind",), ["classification"]), TASKS[1])
def test_a_hostile_task_of_adapters_is_one_or_refused(tmp_path, params, mutation, task):
    try:
        made = json.loads(mutation(json.dumps(task).encode()))
        assert isinstance(made, dict)
    except (ValueError, RecursionError, AssertionError):
        return
    attempt(lambda: use_task(tmp_path / "adapters", params, task, made), JaxgptError)


@pytest.mark.parametrize("task", TASKS)
def test_a_sound_task_of_adapters_is_one(tmp_path, params, task):
    assert use_task(tmp_path / "adapters", params, task, task)


def use_task(folder, params, kind, task):
    """What chat.py and classify.py make of adapters of a kind that say a task of themselves."""
    base = LoadedModel(SHAPE, params.value, ByteTokenizer(), 0, TrainConfig(model=SHAPE))
    new = {} if kind is TASKS[0] else {"head": with_class_head(base, 2, 0).params["head"]}
    adapters = init_adapters(params.value, LORA, jax.random.key(1))
    made_for = fingerprint(params.value)
    save_adapters(folder, adapters, LORA, made_for, new=new, task=task, overwrite=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "load_base", lambda *_: base)
        try:
            model = load_adapted(folder, ".")
        except CheckpointError:
            model = load_classifier(folder, ".")
            assert all(isinstance(name, str) for name in model.task["classes"])
            return model.task["pooling"] in ("last", "first", "mean")
    return find_template(model)
