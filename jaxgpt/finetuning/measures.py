"""How good a classifier is: pure functions of true classes and of what it said."""

import numpy as np
from jaxtyping import Float, Int64, Integer


def confusion_matrix(
    labels: Integer[np.ndarray, " N"], predictions: Integer[np.ndarray, " N"], num_classes: int
) -> Int64[np.ndarray, "C C"]:
    """How many texts of each class (row) were taken for each class (column)."""
    pairs = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(confusion: Integer[np.ndarray, "C C"]) -> float:
    """The share of texts whose class was found."""
    return float(np.trace(confusion) / confusion.sum())


def balanced_accuracy(confusion: Integer[np.ndarray, "C C"]) -> float:
    """The mean share found of the classes that have texts; guessing one of C gives 1 / C."""
    sizes = confusion.sum(axis=1)
    return float((np.diagonal(confusion)[sizes > 0] / sizes[sizes > 0]).mean())


def reliability(
    labels: Integer[np.ndarray, " N"], probabilities: Float[np.ndarray, "N C"], num_bins: int = 10
) -> tuple[Integer[np.ndarray, " bins"], Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """In equal bins of the highest probability: texts, mean probability, accuracy (0 if empty)."""
    surest = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((surest * num_bins).astype(np.int64), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    some = np.maximum(counts, 1)
    sure = np.bincount(bins, surest, num_bins) / some
    return counts, sure, np.bincount(bins, right, num_bins) / some


def calibration_error(
    labels: Integer[np.ndarray, " N"], probabilities: Float[np.ndarray, "N C"], num_bins: int = 10
) -> float:
    """By how much the probabilities differ from the shares that come true, in [0, 1].

    The mean distance between a bin's probability and its accuracy, weighted by its texts: the
    expected calibration error of Guo et al. 2017.
    """
    counts, sure, right = reliability(labels, probabilities, num_bins)
    return float((counts * np.abs(sure - right)).sum() / counts.sum())
