"""Labelled texts and a pretrained model -> a classifier, in a folder from which it is loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, Int32

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError
from jaxgpt.files import write_file
from jaxgpt.finetuning import measures
from jaxgpt.finetuning.checks import check_held_out, check_run
from jaxgpt.finetuning.classification import (
    class_loss,
    class_probabilities,
    classifier_params,
    predict,
)
from jaxgpt.finetuning.labelled import (
    Labelled,
    Parts,
    balance,
    class_names,
    cut_labelled,
    labelled_rows,
    read_labelled,
)
from jaxgpt.finetuning.lora import fingerprint
from jaxgpt.finetuning.lora_file import find_adapters, read_adapters_record
from jaxgpt.finetuning.pretrained import load_adapters_base, merge_adapters
from jaxgpt.finetuning.settings import ClassifierConfig
from jaxgpt.finetuning.tuning import TuningJob, TuningResult, data_fingerprint, train_config, tune
from jaxgpt.model.layers import Params
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.run_config import FolderOptions
from jaxgpt.shell import command as command_line
from jaxgpt.terminal import note, one_line
from jaxgpt.training.checkpoint import LoadedModel, read_checkpoint
from jaxgpt.training.mesh import batch_sharding, make_mesh, on_mesh
from jaxgpt.training.own_parts import OwnBlock
from jaxgpt.training.plots import LOSSES, Panel, plot_confusion, plot_reliability
from jaxgpt.training.precision import settle_precision

_NAMED = 20
CONFUSION, CALIBRATION = "confusion.png", "calibration.png"
ACCURACIES = {"training_accuracy": "training", "validation_accuracy": "validation"}


class Scores(NamedTuple):
    """What a classifier makes of texts: their true classes, and the probabilities that it gives."""

    labels: Int32[np.ndarray, " N"]
    probabilities: Float32[np.ndarray, "N C"]

    @property
    def confusion(self) -> np.ndarray:
        """See `confusion_matrix`."""
        chosen, num_classes = self.probabilities.argmax(axis=1), self.probabilities.shape[1]
        return measures.confusion_matrix(self.labels, chosen, num_classes)

    @property
    def loss(self) -> float:
        """The mean surprise at the true class, in nats per text."""
        given = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        return float(-np.log(np.maximum(given, np.finfo(np.float32).tiny)).mean())

    def summary(self) -> dict[str, Any]:
        """Accuracy, balanced accuracy, expected calibration error, and the confusion matrix."""
        return {
            "texts": len(self.labels),
            "accuracy": measures.accuracy(self.confusion),
            "balanced_accuracy": measures.balanced_accuracy(self.confusion),
            "calibration_error": measures.calibration_error(self.labels, self.probabilities),
            "confusion": self.confusion.tolist(),
        }

    def rows(self) -> dict[str, str]:
        """The same but for the matrix, as rows of README.md."""
        found = self.summary()
        return {
            "test accuracy": f"{found['accuracy']:.1%}",
            "test balanced accuracy": f"{found['balanced_accuracy']:.1%}",
            "test calibration error": f"{found['calibration_error']:.3f}",
            "test loss": f"{self.loss:.4f} nats per text",
        }


def tune_classifier(
    run: str | Path,
    config: ClassifierConfig,
    options: FolderOptions,
    base: LoadedModel,
    *,
    command: str = "",
) -> tuple[TuningResult, Scores | None]:
    """Make a classifier of `base` in folder `run`, and score it on the test texts once finished.

    The folder also gets test.json, confusion.png and calibration.png. Raises a JaxgptError before
    anything is written if the data, the settings or the folder will not do.
    """
    targets = config.lora.targets
    if config.trained == "lora" and "head" not in targets:  # which is new, and must be learnt
        config = replace(config, lora=replace(config.lora, targets=(*targets, "head")))
    config = settle_precision(config, run, options)
    check_run(run, config, options)
    origin, parts = fingerprint(base.params), _read_parts(config)
    classes = class_names(parts.train)
    training = balance(parts.train, seed=config.seed) if config.balance else parts.train
    make_rows = partial(
        labelled_rows,
        classes=classes,
        tokenizer=base.tokenizer,
        context_length=base.config.context_length,
        too_long=config.too_long,
    )
    rows, held_out, test = map(make_rows, (training, parts.validation, parts.test))
    # As many of the training texts, of all classes, which lie one after the other.
    seen = rows.with_examples(rows.examples[:: -(-len(rows) // len(held_out))])
    base = with_class_head(base, len(classes), config.seed)
    train = train_config(config, base, len(rows))
    mesh = make_mesh(train)
    probabilities = jax.jit(
        on_mesh(class_probabilities(train.model, train.compute, config.pooling), mesh)
    )
    batch_size = config.batch_size // config.gradient_accumulation

    def score(params: Any, rows: Any) -> Scores:
        batches = rows.in_order(batch_size)
        return Scores(*predict(probabilities, params, batches, batch_sharding(mesh)))

    def watch(params: Any) -> dict[str, float]:
        scores = score(params, held_out)
        return {
            "validation_loss": scores.loss,
            "training_accuracy": measures.accuracy(score(params, seen).confusion),
            "validation_accuracy": measures.accuracy(scores.confusion),
        }

    job = TuningJob(
        make_loss=lambda train: class_loss(train.model, train.compute, config.pooling),
        rows=rows,
        measure=watch,
        task={"kind": "classification", "classes": classes, "pooling": config.pooling},
        data=data_fingerprint(*([(x.label, x.text) for x in part] for part in parts)),
        panels=[Panel("loss (nats per text)", LOSSES), Panel("accuracy", ACCURACIES, "share")],
        unit="texts",
        new=("head",),
        facts={
            "classes": _listed(classes),
            "texts": f"{len(rows):,} to train, {len(held_out):,} to watch, {len(test):,} to test",
        },
    )
    result = tune(run, config, options, base, train, job, origin, command=command)
    if not result.finished:
        return result, None
    scores = score(result.model.params, test)
    _write_scores(Path(run), scores, classes)
    result.card.publish(result.records, note, scores.rows(), [CONFUSION, CALIBRATION])
    return result, scores


def load_classifier(path: str | Path, base: str = "", *, block: OwnBlock = None) -> LoadedModel:
    """The classifier in a run's, a checkpoint's or an adapters' folder; `task` has its classes.

    `base` says where the model of the adapters lies, if it is no longer where it was; `block` is
    that of `load_model`. Raises CheckpointError as `load_model` and `load_adapters` do, and for a
    model that is no classifier.
    """
    if (folder := find_adapters(path)) is None:
        return read_checkpoint(path, _classifier_shapes, block)
    record = read_adapters_record(folder)
    task = _check_classifier(record["task"])
    model = load_adapters_base(folder, record, base, block)
    # What is drawn here gives the head its shape; only the first format has none of its own.
    with_head = with_class_head(model, len(task["classes"]), task.get("seed", 0))
    return merge_adapters(folder, with_head, model, task, new=("head",))


def with_class_head(model: LoadedModel, num_classes: int, seed: int) -> LoadedModel:
    """The model with a new head for so many classes, drawn by the seed."""
    _, key = jax.random.split(jax.random.key(seed))
    return replace(model, params=classifier_params(model.params, num_classes, key))


def _classifier_shapes(config: ModelConfig, task: Mapping[str, Any]) -> Params:
    count, key = len(_check_classifier(task)["classes"]), jax.random.key(0)
    return jax.eval_shape(lambda: classifier_params(parameter_shapes(config), count, key))


def _check_classifier(task: Mapping[str, Any]) -> Mapping[str, Any]:
    if task.get("kind") != "classification":
        raise CheckpointError(
            f"this model is no classifier; make one with `{command_line('finetune classifier')}`"
        )
    return task


def classify_texts(
    model: LoadedModel, texts: Sequence[str], *, batch_size: int = 32
) -> Float32[np.ndarray, "N C"]:
    """The probability of each class of a classifier (`load_classifier`) for each text.

    A text that is longer than the context is cut, with a warning. Raises DataError if one is empty.
    """
    classes = model.task["classes"]
    rows = labelled_rows(
        [Labelled(text, classes[0], f"text {number}") for number, text in enumerate(texts, 1)],
        classes,
        model.tokenizer,
        context_length=model.config.context_length,
    )
    compute = model.train_config.compute
    probabilities = jax.jit(class_probabilities(model.config, compute, model.task["pooling"]))
    return predict(probabilities, model.params, rows.in_order(min(batch_size, len(texts))))[1]


def _read_parts(config: ClassifierConfig) -> Parts:
    read = partial(read_labelled, strict=config.strict)
    texts = read(config.data)
    given = {"validation": config.validation, "test": config.test}
    asked = {"validation": config.validation_fraction, "test": config.test_fraction}
    shares = {name: share for name, share in asked.items() if not given[name]}
    fractions = (1 - sum(shares.values()), *shares.values())
    train, *apart = cut_labelled(texts, seed=config.seed, fractions=fractions)
    cut = dict(zip(shares, apart, strict=True))
    for name, paths in given.items():
        if paths:
            cut[name] = read(paths)
            known = (item.text for item in texts)
            check_held_out(f"--{name}", [item.text for item in cut[name]], known, "texts")
    return Parts(train, **cut)


def _listed(classes: Sequence[str]) -> str:
    """The first few classes by name, each in one line, and how many more there are."""
    more = f" and {len(classes) - _NAMED:,} more" if len(classes) > _NAMED else ""
    return ", ".join(one_line(name) for name in classes[:_NAMED]) + more


def _write_scores(run: Path, scores: Scores, classes: list[str]) -> None:
    summary = {"classes": classes, **scores.summary()}
    write_file(run / "test.json", json.dumps(summary, indent=2) + "\n")
    subject = f"{run.absolute().name}, on {len(scores.labels):,} texts kept for the end"
    right = f"{subject}: {measures.accuracy(scores.confusion):.1%} right"
    names = [one_line(name) for name in classes]
    plot_confusion(scores.confusion, names, run / CONFUSION, right)
    bins = measures.reliability(scores.labels, scores.probabilities)
    plot_reliability(*bins, run / CALIBRATION, f"{subject}: how sure, and how often right")
