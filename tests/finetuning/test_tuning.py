"""Whole fine-tuning runs: what is left in the folder, what changes nothing, and going on."""

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from hashlib import sha256

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxgpt.config_file import from_dict, to_dict
from jaxgpt.errors import CheckpointError, ConfigError, ResourceError
from jaxgpt.finetuning import pretrained
from jaxgpt.finetuning import tune_instructions as tune_instructions_module
from jaxgpt.finetuning.batching import Rows
from jaxgpt.finetuning.freezing import Trainable
from jaxgpt.finetuning.lora_file import find_adapters
from jaxgpt.finetuning.pretrained import load_adapted
from jaxgpt.finetuning.settings import (
    ClassifierConfig,
    InstructionConfig,
    LoraConfig,
    PreferenceTuningConfig,
)
from jaxgpt.finetuning.tune_classifier import classify_texts, load_classifier, tune_classifier
from jaxgpt.finetuning.tune_instructions import tune_instructions
from jaxgpt.finetuning.tune_preferences import tune_preferences
from jaxgpt.run_config import FolderOptions, OptimizerConfig
from jaxgpt.training import fits
from jaxgpt.training import run as run_module
from jaxgpt.training.checkpoint import load_model
from jaxgpt.training.kept import find_best
from jaxgpt.training.metrics import read_metrics
from jaxgpt.training.run_contents import foreign_files

FAST = OptimizerConfig(learning_rate=1e-2, warmup_steps=0)
CASES = [
    ("classification", "lora"),
    pytest.param("instructions", "all", marks=pytest.mark.whole_run),
    pytest.param("preferences", "all", marks=pytest.mark.whole_run),
    pytest.param("classification", 0, marks=pytest.mark.whole_run),
    pytest.param("instructions", 1, marks=pytest.mark.whole_run),
    pytest.param("preferences", "lora", marks=pytest.mark.whole_run),
]


def questions(count):
    return [
        {"instruction": f"Who ran {number} times?", "output": "Finn" if number % 2 else "Kai"}
        for number in range(count)
    ]


def labelled(count):
    return [
        {"text": f"{'sea sea' if number % 2 else 'hero'} {number}", "label": f"c{number % 2}"}
        for number in range(count)
    ]


def pairs(count):
    return [
        {"prompt": f"Who ran {number} times?", "chosen": "Finn ran.", "rejected": "Kai."}
        for number in range(count)
    ]


KINDS = {
    "classification": (tune_classifier, ClassifierConfig, labelled(32)),
    "instructions": (tune_instructions, InstructionConfig, questions(32)),
    "preferences": (tune_preferences, PreferenceTuningConfig, pairs(32)),
}


@pytest.fixture(autouse=True)
def base_of_adapters(base, monkeypatch):
    """Where the base lies is of no interest here."""
    monkeypatch.setattr(pretrained, "load_base", lambda *_: base)


@pytest.fixture
def tune(base, base_folder, write, tmp_path):
    """`tune(kind, name, ...)`: a run of 4 steps in the folder `name`."""

    def run(kind, name, options=None, model=base, **settings):
        function, config_type, records = KINDS[kind]
        chosen = {
            "init_from": base_folder,
            "data": write(f"{kind}.jsonl", records),
            "optimizer": replace(FAST, weight_decay=0.0) if kind == "preferences" else FAST,
            "steps": 4,
            "batch_size": 8,
            "evaluate_every": 2,
            "checkpoint_every": 2,
            "sample_every": 4,
        }
        if settings.get("trained") == "lora":
            chosen["lora"] = LoraConfig(rank=2)
        if kind == "instructions":
            chosen["special_tokens"] = False
        if kind != "classification":
            chosen["template"] = "chat"
        config = config_type(**(chosen | settings))
        return function(tmp_path / name, config, options or FolderOptions(), model)

    return run


def result_of(kind, answer):
    return answer[0] if kind == "classification" else answer


def same(one, other):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, other
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "trained"), CASES)
def test_a_run_learns_leaves_its_base_alone_and_can_be_loaded(kind, trained, tune, base, tmp_path):
    before = jax.tree.map(np.array, base.params)
    result = result_of(kind, tune(kind, "run", trained=trained))
    same(base.params, before)
    measured = [item for item in result.records if "validation_loss" in item]
    assert [item["step"] for item in measured] == [0, 2, 4]
    assert measured[-1]["validation_loss"] < measured[0]["validation_loss"]
    for name in ("loss.png", "README.md", "metrics.jsonl"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert (find_adapters(tmp_path / "run") is not None) == (trained == "lora")
    best = find_best(tmp_path / "run")
    assert int(best.name) == min(measured[1:], key=lambda item: item["validation_loss"])["step"]
    assert (find_adapters(best) is not None) == (trained == "lora")
    # A checkpoint of adapters is a model by itself.
    newest = tmp_path / "run" / "checkpoints" / "00000004"

    for folder in (tmp_path / "run", newest):
        if kind == "classification":
            loaded = load_classifier(folder)
        elif trained == "lora":
            loaded = load_adapted(folder / "adapters")
        else:
            loaded = load_model(folder)
        assert loaded.task["kind"] == kind
        same(loaded.params, result.model.params)


@pytest.mark.whole_run
def test_a_run_by_other_numbers_compiles_nothing_anew(tune, compiled_anew):
    other = OptimizerConfig(2e-3, warmup_steps=1, beta1=0.5, weight_decay=0.0, gradient_clip=0.1)
    run = partial(tune, "classification", evaluate_every=9, checkpoint_every=9)
    run("first", dropout=0.1, steps=1)
    assert compiled_anew
    compiled_anew.clear()
    run("other", dropout=0.3, steps=2, optimizer=other, seed=7)
    assert compiled_anew == []


@pytest.mark.whole_run
def test_muon_trains_the_last_block(tune):
    muon = replace(FAST, optimizer="muon")
    result = result_of("instructions", tune("instructions", "run", trained=1, optimizer=muon))
    measured = [item["validation_loss"] for item in result.records if "validation_loss" in item]
    assert measured[-1] < measured[0]


@pytest.mark.whole_run
@pytest.mark.parametrize(("kind", "trained"), [("classification", "lora"), ("instructions", 1)])
def test_a_run_that_was_stopped_goes_on_to_the_same_parameters(
    kind, trained, tune, tmp_path, monkeypatch
):
    whole = result_of(kind, tune(kind, "whole", trained=trained, evaluate_every=3))
    monkeypatch.setattr(run_module, "StopSignal", StopAtOnce)
    tune(kind, "part", trained=trained)
    monkeypatch.undo()
    assert load_step(tmp_path / "part") < 4
    rest = result_of(kind, tune(kind, "part", trained=trained))
    # Measured at other steps, too, which changes nothing.
    same(rest.model.params, whole.model.params)
    losses = [
        {item["step"]: item["loss"] for item in read_metrics(tmp_path / name) if "loss" in item}
        for name in ("whole", "part")
    ]
    assert losses[0][4] == losses[1][4]


class StopAtOnce:
    """A stop signal that came during the first step."""

    number = 15

    def __init__(self, step):
        pass

    def stopped(self):
        return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def load_step(run):
    return max(int(folder.name) for folder in (run / "checkpoints").glob("0*"))


@pytest.mark.whole_run
def test_what_is_frozen_stays_and_adapters_take_kilobytes(tune, base, tmp_path, monkeypatch):
    last = tune("instructions", "last", trained=1).model.params
    same(last["embed"], base.params["embed"])
    first = jax.tree.map(lambda leaf: leaf[:1], (last["blocks"], base.params["blocks"]))
    same(*first)
    tune("instructions", "lora", trained="lora")
    folder = tmp_path / "lora" / "adapters"
    numbers = 4 * 2 * sum(16 * a + b for a, b in ((2, 32), (2, 32), (2, 32), (2, 32), (2, 128)))
    assert (folder / "adapters.safetensors").stat().st_size < 2 * numbers
    monkeypatch.setattr(pretrained, "load_base", lambda *_: replace(base, params=last))
    with pytest.raises(CheckpointError, match="adapters of another base model"):
        load_adapted(folder)
    with pytest.raises(CheckpointError, match="these are adapters alone"):
        load_model(tmp_path / "lora")


@pytest.mark.whole_run
def test_the_classifier_scores_the_test_texts_and_knows_its_classes(tune, base, tmp_path):
    result, scores = tune("classification", "run", steps=30, balance=True, pooling="mean")
    assert scores.summary()["balanced_accuracy"] == 1.0
    written = json.loads((tmp_path / "run" / "test.json").read_text())
    assert written["classes"] == ["c0", "c1"]
    assert np.trace(written["confusion"]) == written["texts"] == len(scores.labels)
    for name in ("confusion.png", "calibration.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    model = load_classifier(tmp_path / "run")
    found = classify_texts(model, ["hero 77", "sea sea 78", "sea sea 79"], batch_size=2)
    assert found.argmax(axis=1).tolist() == [0, 1, 1]
    with pytest.raises(CheckpointError, match="a classifier, which writes no text"):
        load_model(tmp_path / "run")
    same(result.model.params, model.params)


def undo_last_step(run):
    """Take away the newest checkpoint; the folder of the one before."""
    older, newest = sorted((run / "checkpoints").iterdir())
    shutil.rmtree(newest)
    return older


@pytest.mark.whole_run
def test_the_frozen_head_of_a_classifier_is_saved_not_drawn_again(tune, base, tmp_path):
    settings = {"trained": "lora", "keep_checkpoints": 2}
    result, _ = tune("classification", "run", **settings)
    with jax.default_prng_impl("rbg"):
        model = load_classifier(tmp_path / "run")
        same(model.params, result.model.params)
        undo_last_step(tmp_path / "run")
        again, _ = tune("classification", "run", **settings)
    same(again.model.params, result.model.params)


@pytest.mark.slow
def test_the_adapters_of_the_first_format_are_read_with_the_head_that_is_drawn(
    tune, base, tmp_path
):
    result, _ = tune("classification", "run", trained="lora", seed=3)
    folder = tmp_path / "run" / "adapters"
    arrays = load_file(folder / "adapters.safetensors")
    save_file(
        {name: array for name, array in arrays.items() if not name.startswith("new.")},
        folder / "adapters.safetensors",
    )
    record = json.loads((folder / "adapters.json").read_text()) | {"format": 1}
    del record["arrays"]
    record["sha256"] = sha256((folder / "adapters.safetensors").read_bytes()).hexdigest()
    record["task"]["seed"] = 3
    (folder / "adapters.json").write_text(json.dumps(record))
    model = load_classifier(folder)
    same(model.params, result.model.params)


@pytest.mark.whole_run
def test_a_checkpoint_of_the_first_format_goes_on_with_the_head_that_is_drawn(
    tune, tmp_path, monkeypatch
):
    settings = {"trained": "lora", "keep_checkpoints": 2}
    result, _ = tune("classification", "run", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(Trainable, "stored", lambda self, trained, frozen: trained)
        tune("classification", "old", **settings)
    path = undo_last_step(tmp_path / "old") / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format": 1}
    del manifest["rows"], manifest["sha256"], manifest["sizes"]
    path.write_text(json.dumps(manifest))
    again, _ = tune("classification", "old", **settings)
    same(again.model.params, result.model.params)


@pytest.mark.parametrize("trained", ["all", "lora", 0])
def test_a_step_that_cannot_fit_is_refused_before_anything_is_written(
    tune, tmp_path, monkeypatch, trained
):
    monkeypatch.setattr(fits, "device_memory", lambda: 30_000)
    with pytest.raises(ResourceError, match="kept of 1 rows for the backward pass") as caught:
        tune("instructions", "run", trained=trained)
    assert "raise --gradient-accumulation" in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.whole_run
def test_another_batch_size_goes_on_with_the_records_that_are_left(tune, monkeypatch, capsys):
    rows, batch = [], Rows.batch

    def watched(self, first, batch_size, *, seed):
        rows.extend(range(first, first + batch_size))
        return batch(self, first, batch_size, seed=seed)

    monkeypatch.setattr(Rows, "batch", watched)
    settings = {"steps": 0, "evaluate_every": 99, "checkpoint_every": 99, "sample_every": 99}
    first = tune("instructions", "run", epochs=1, **settings).model
    records = len(rows)
    allowed = FolderOptions(allow_config_change=True)
    second = tune("instructions", "run", allowed, epochs=2, batch_size=16, **settings).model
    assert rows == list(range(records + 16 * (second.step - first.step)))
    assert second.step == first.step + math.ceil((2 * 29 - records) / 16)
    assert "batch_size 8 -> 16: the data goes on behind the 32 rows" in capsys.readouterr().err


@pytest.mark.whole_run
def test_preferences_begin_at_the_logarithm_of_two(tune):
    first, *_ = tune("preferences", "run").records
    assert first["validation_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["validation_margin"] == 0


@pytest.mark.whole_run
def test_a_reference_beside_each_batch_is_the_one_that_was_measured_before(tune):
    cached, beside = (
        tune("preferences", name, reference=name).model.params for name in ("cached", "model")
    )
    # The reference's sums are rounded in batches of other widths; 4 steps of Adam at 1e-2.
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5), cached, beside)


@pytest.mark.slow
@pytest.mark.parametrize("context", [64, pytest.param(131_072, marks=pytest.mark.whole_run)])
def test_packed_rows_are_fewer_and_their_first_loss_is_that_of_all(
    tune, base, write, context, monkeypatch, random_params
):
    monkeypatch.setattr(tune_instructions_module, "_PACKED", 64)
    settings = {"batch_size": 32, "steps": 1, "trained": "all"}
    if context > 64:  # rows are no wider than they need be
        shape = replace(base.config, context_length=context, positions="rope")
        settings["model"] = replace(base, config=shape, params=random_params(shape))
    held_out = write("held_out.jsonl", questions(36)[32:])
    single = tune("instructions", "single", validation=held_out, **settings)
    rows = 32 // 2  # two of these fit into a row of 64 tokens
    packed = tune(
        "instructions",
        "packed",
        validation=held_out,
        **settings | {"batch_size": rows, "packing": True},
    )
    one, other = (
        next(item for item in result.records if "loss" in item) for result in (single, packed)
    )
    # Both steps are taken on all records; float32 over some hundred terms.
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


@pytest.mark.whole_run
def test_new_special_tokens_need_parameters_that_are_trained(tune, tmp_path):
    with pytest.raises(ConfigError, match="special_tokens adds rows to the vocabulary"):
        tune("instructions", "run", special_tokens=True, trained=1)
    assert not (tmp_path / "run").exists()
    grown = tune("instructions", "run", special_tokens=True).model
    assert grown.tokenizer.vocab_size == 292
    assert load_model(tmp_path / "run").config.vocab_size == 290 + 64


@pytest.mark.whole_run
def test_another_base_other_data_and_other_settings_are_refused(
    tune, base, write, tmp_path, capsys
):
    tune("instructions", "run")
    moved = replace(base, params=jax.tree.map(lambda leaf: leaf + 1, base.params))
    more = {"steps": 6}
    allowed = FolderOptions(allow_config_change=True)
    with pytest.raises(CheckpointError, match="the data or the model to begin with is not what"):
        tune("instructions", "run", allowed, model=moved, **more)
    with pytest.raises(CheckpointError, match="the data or the model to begin with is not what"):
        tune("instructions", "run", allowed, data=write("other.jsonl", questions(9)), **more)
    with pytest.raises(CheckpointError, match="batch_size: 8 -> 16"):
        tune("instructions", "run", batch_size=16)
    with pytest.raises(CheckpointError, match="holds another kind of run"):
        tune("preferences", "run")
    assert tune("instructions", "run").finished
    assert "already finished at step 4" in capsys.readouterr().err
    assert tune("instructions", "run", allowed, **more).model.step == 6


@pytest.mark.whole_run
def test_several_devices_and_a_profile_change_nothing(tune, tmp_path, monkeypatch):
    assert jax.device_count() == 8
    layout = "data=2,fsdp=2,tensor=2"
    settings = {"mesh": layout, "attention": "chunked", "unroll": 2}
    several = tune("instructions", "several", FolderOptions(profile=1), trained="lora", **settings)
    made = several.model.train_config
    assert {name: getattr(made, name) for name in settings} == settings
    assert (tmp_path / "several/profile/trace.json.gz").stat().st_size > 0
    assert foreign_files(tmp_path / "several") == []
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    one = tune("instructions", "one", trained="lora", data_parallel=1)
    assert not (tmp_path / "one/profile").exists()
    jax.tree.map(
        # Sums over 8 devices in another order; 4 steps of Adam at 1e-2.
        partial(np.testing.assert_allclose, atol=2e-5),
        *(jax.device_get(result.model.params) for result in (one, several)),
    )


@pytest.mark.whole_run
@pytest.mark.parametrize(
    ("kind", "trained"),
    [("classification", "all"), ("preferences", "lora"), ("preferences", "all")],
)
def test_each_kind_is_tuned_by_devices_that_share_heads(kind, trained, tune, monkeypatch):
    # An epsilon that is large beside what gradients are rounded by, or Adam would make whole steps
    # of the rounding alone, as of a bias of keys, whose gradient is 0.
    gentle = replace(FAST, weight_decay=0.0, epsilon=1e-3)
    several = tune(
        kind, "several", trained=trained, mesh="data=2,fsdp=2,tensor=2", optimizer=gentle
    )
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    one = tune(kind, "one", trained=trained, optimizer=gentle)
    jax.tree.map(
        # 4 steps of 1e-2 times a gradient, clipped to 1, that is rounded by 1e-7, over epsilon.
        partial(np.testing.assert_allclose, atol=4e-6),
        *(jax.device_get(result_of(kind, result).model.params) for result in (one, several)),
    )


def test_settings_from_before_there_were_as_many_go_on(base_folder):
    config = InstructionConfig(init_from=base_folder, data=("a.jsonl",))
    old = to_dict(config)
    for name in ("attention", "unroll", "data_parallel"):
        del old[name]
    assert from_dict(config, old) == config


def files_of(run):
    return {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.whole_run
@pytest.mark.parametrize(("kind", "trained"), [("classification", "lora"), ("instructions", "all")])
def test_a_finished_run_makes_again_what_it_lost(kind, trained, tune, tmp_path):
    run = tmp_path / "run"
    tune(kind, "run", trained=trained)
    assert foreign_files(run) == []
    before = files_of(run)
    adapters = ["adapters/adapters.json", "adapters/adapters.safetensors"]
    for name in ("config.json", "README.md", "loss.png", *(adapters if trained == "lora" else [])):
        (run / name).write_bytes(b"")
    if kind == "classification":
        (run / "test.json").unlink()
    tune(kind, "run", trained=trained)
    assert files_of(run) == before
    (run / "config.json").unlink()
    with pytest.raises(CheckpointError, match="seed: 0 -> 1"):
        tune(kind, "run", trained=trained, seed=1)


@pytest.mark.whole_run
def test_what_somebody_put_beside_the_adapters_is_set_aside(tune, tmp_path):
    tune("instructions", "run", trained="lora")
    (tmp_path / "run/adapters/notes.txt").write_text("mine")
    longer = FolderOptions(allow_config_change=True)
    tune("instructions", "run", longer, trained="lora", steps=5)
    (kept,) = (tmp_path / "run").glob("adapters.aside-*")
    assert (kept / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"it holds adapters\.aside-.*notes\.txt"):
        tune("instructions", "run", FolderOptions(overwrite=True), trained="lora")
