"""A checkpoint's folder: the model that was saved, or a refusal; never another one."""

import json
from dataclasses import replace

import pytest
from harness import HOSTILE, Cut, Put, Raw, Whole, attempt, cuts, json_mutations, replaced
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxgpt.assistant.chat import find_template
from jaxgpt.errors import CheckpointError, JaxgptError
from jaxgpt.finetuning.tune_classifier import load_classifier, with_class_head
from jaxgpt.training.checkpoint import TASK, load_model, save_model
from jaxgpt.training.manifest import MANIFEST, verify, write_manifest

TASKS = (
    {"kind": "instructions", "template": "chat"},
    {"kind": "preferences", "template": "alpaca"},
    {"kind": "classification", "classes": ["a", "b"], "pooling": "last", "seed": 0},
)


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    """A checkpoint's folder, with a task."""
    folder = tmp_path_factory.mktemp("checkpoints") / "model"
    save_model(folder, replace(base, task=TASKS[0]))
    return folder


@pytest.fixture(scope="module")
def classifier(base, tmp_path_factory):
    """A classifier's folder."""
    folder = tmp_path_factory.mktemp("checkpoints") / "classifier"
    save_model(folder, replace(with_class_head(base, 2, 0), task=TASKS[2]))
    return folder


puts = st.builds(
    lambda name, value: Put((name,), value),
    st.sampled_from(["format", "written_by", "step", "data", "dtype", "files", "sha256"]),
    st.sampled_from(HOSTILE),
)
LONG = "a" * 5000


@given(mutation=json_mutations | puts)
@example(Put(("format",), Raw("Infinity")))
@example(Put(("format",), 3))
@example(Put(("format",), 1))
@example(Put(("format",), True))
@example(Put(("rows",), 0))
@example(Put(("sha256",), ...))
@example(Put(("step",), 20))
@example(Put(("data",), "0" * 64))
@example(Put(("dtype",), "bfloat16"))
@example(Put(("files",), {}))
@example(Put(("files", "config.json"), ...))
@example(Put(("files", "a\0"), "0"))
@example(Put(("files", "\ud800"), "0"))
@example(Put(("files", LONG), "0"))
@example(Put(("files", "../../x"), "0"))
@example(Put(("files", "/etc/passwd"), "0"))
@example(Put(("files",), [["config.json", "0"]]))
@example(Put(("files",), [[[], "0"]]))
@example(Put(("written_by",), "\x1b]0;owned\x07"))
@example(Whole(b"[" * 100_000))
@example(Whole(b""))
def test_a_damaged_manifest_is_refused(folder, mutation):
    sound = verify(folder)
    path = folder / MANIFEST
    with replaced(path, mutation(path.read_bytes())):
        found = attempt(lambda: verify(folder), CheckpointError)
    assert isinstance(found, CheckpointError) or found == sound


@given(number=st.integers(0, 200), mutation=cuts)
@example(0, Whole(b""))
@example(1, Cut((("flip", 0, 1, 0),)))
def test_a_damaged_file_is_refused(folder, number, mutation):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[number % len(files)]
    content = path.read_bytes()
    damaged = mutation(content)
    sound = verify(folder)
    with replaced(path, damaged):
        found = attempt(lambda: verify(folder), CheckpointError)
    assert isinstance(found, CheckpointError) or damaged == content or found == sound


def sealed(folder):
    """The folder with a manifest of what it holds now."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    write_manifest(folder, **{name: manifest[name] for name in ("step", "rows", "data", "dtype")})


def use(folder):
    """What chat.py, generate.py and classify.py make of a checkpoint."""
    try:
        model = load_model(folder)
    except CheckpointError:
        model = load_classifier(folder)
        assert all(isinstance(name, str) for name in model.task["classes"])
        return model.task["pooling"] in ("last", "first", "mean")
    return find_template(model)


few = settings(max_examples=max(8, settings().max_examples // 8))


@few
@given(mutation=json_mutations)
@example(Put(("model", "num_layers"), 10**400))
@example(Put(("model", "num_layers"), 10**9))
@example(Put(("model", "norm_epsilon"), 10**400))
@example(Put(("optimizer", "learning_rate"), 10**400))
@example(Put(("optimizer", "learning_rate"), Raw("1e999")))
@example(Put(("\x1b[2J",), 1))
@example(Whole(b"[" * 100_000))
def test_a_hostile_config_is_one_or_refused(folder, mutation):
    check(folder, "config.json", mutation((folder / "config.json").read_bytes()))


@few
@given(mutation=json_mutations, task=st.sampled_from(TASKS))
@example(Put(("template",), ["chat"]), TASKS[0])
@example(Put(("template",), 5), TASKS[0])
@example(Put(("template",), "\ud800"), TASKS[0])
@example(Put(("kind",), ["classification"]), TASKS[2])
@example(Put(("classes",), ...), TASKS[2])
@example(Put(("classes",), 5), TASKS[2])
@example(Put(("classes",), []), TASKS[2])
@example(Put(("classes",), [["a"], 5]), TASKS[2])
@example(Put(("pooling",), []), TASKS[2])
@example(Put(("base",), []), TASKS[0])
@example(Whole(b"[]"), TASKS[0])
@example(Whole(b"[" * 100_000), TASKS[0])
def test_a_hostile_task_is_one_or_refused(folder, classifier, mutation, task):
    folder = classifier if task is TASKS[2] else folder
    check(folder, TASK, mutation(json.dumps(task).encode()))


def test_sound_ones_are_used(folder, classifier):
    assert use(folder)
    assert use(classifier)


def check(folder, name, content):
    manifest = (folder / MANIFEST).read_bytes()
    try:
        with replaced(folder / name, content):
            sealed(folder)
            attempt(lambda: use(folder), JaxgptError)
    finally:
        (folder / MANIFEST).write_bytes(manifest)
