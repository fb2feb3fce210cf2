"""Labelled texts and a pretrained model -> a classifier, and how good it is on texts kept apart."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, Int32

from jaxgpt.files import write_file
from jaxgpt.finetuning.checks import check_held_out, check_run
from jaxgpt.finetuning.classification import class_loss, class_probabilities, predict
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
from jaxgpt.finetuning.measures import (
    accuracy,
    balanced_accuracy,
    calibration_error,
    confusion_matrix,
    reliability,
)
from jaxgpt.finetuning.saved_classifier import with_class_head
from jaxgpt.finetuning.settings import ClassifierConfig
from jaxgpt.finetuning.tuning import (
    TuningJob,
    TuningResult,
    data_fingerprint,
    train_config,
    tune,
)
from jaxgpt.run_config import FolderOptions
from jaxgpt.terminal import note, one_line
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.mesh import batch_sharding, make_mesh, on_mesh
from jaxgpt.training.plots import LOSSES, Panel, plot_confusion, plot_reliability

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
        num_classes = self.probabilities.shape[1]
        return confusion_matrix(self.labels, self.probabilities.argmax(axis=1), num_classes)

    @property
    def loss(self) -> float:
        """The mean surprise at the true class, in nats per text."""
        given = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        return float(-np.log(np.maximum(given, np.finfo(np.float32).tiny)).mean())

    def summary(self) -> dict[str, Any]:
        """Accuracy, balanced accuracy, expected calibration error, and the confusion matrix."""
        return {
            "texts": len(self.labels),
            "accuracy": accuracy(self.confusion),
            "balanced_accuracy": balanced_accuracy(self.confusion),
            "calibration_error": calibration_error(self.labels, self.probabilities),
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
    config = _with_head_adapters(config)
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
            "training_accuracy": accuracy(score(params, seen).confusion),
            "validation_accuracy": accuracy(scores.confusion),
        }

    job = TuningJob(
        make_loss=lambda train: class_loss(train.model, train.compute, config.pooling),
        batch=lambda row: rows.batch(row, config.batch_size, seed=config.seed),
        num_rows=len(rows),
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


def _with_head_adapters(config: ClassifierConfig) -> ClassifierConfig:
    """The new head must be learnt in any case."""
    if config.trained != "lora" or "head" in config.lora.targets:
        return config
    return replace(config, lora=replace(config.lora, targets=(*config.lora.targets, "head")))


def _read_parts(config: ClassifierConfig) -> Parts:
    read = partial(read_labelled, strict=config.strict)
    texts = read(config.data)
    shares = {
        name: share
        for name, share, given in (
            ("validation", config.validation_fraction, config.validation),
            ("test", config.test_fraction, config.test),
        )
        if not given
    }
    fractions = (1 - sum(shares.values()), *shares.values())
    train, *apart = cut_labelled(texts, seed=config.seed, fractions=fractions)
    cut = dict(zip(shares, apart, strict=True))
    for name, paths in (("validation", config.validation), ("test", config.test)):
        if paths:
            cut[name] = read(paths)
            known = (item.text for item in texts)
            check_held_out(f"--{name}", [item.text for item in cut[name]], known, "texts")
    return Parts(train, cut["validation"], cut["test"])


def _listed(classes: Sequence[str]) -> str:
    """The first few classes by name, each in one line, and how many more there are."""
    more = f" and {len(classes) - _NAMED:,} more" if len(classes) > _NAMED else ""
    return ", ".join(one_line(name) for name in classes[:_NAMED]) + more


def _write_scores(run: Path, scores: Scores, classes: list[str]) -> None:
    summary = {"classes": classes, **scores.summary()}
    write_file(run / "test.json", json.dumps(summary, indent=2) + "\n")
    subject = f"{run.absolute().name}, on {len(scores.labels):,} texts kept for the end"
    right = f"{subject}: {accuracy(scores.confusion):.1%} right"
    names = [one_line(name) for name in classes]
    plot_confusion(scores.confusion, names, run / CONFUSION, right)
    bins = reliability(scores.labels, scores.probabilities)
    sure = f"{subject}: how sure, and how often right"
    plot_reliability(*bins, run / CALIBRATION, sure)
