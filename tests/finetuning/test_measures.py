"""Accuracy, confusion and calibration of cases that can be counted by hand."""

import numpy as np
import pytest

from jaxgpt.finetuning.measures import (
    accuracy,
    balanced_accuracy,
    calibration_error,
    confusion_matrix,
    reliability,
)

LABELS = np.array([0, 0, 0, 1, 1, 2], np.int32)
PREDICTIONS = np.array([0, 0, 1, 1, 1, 0])


def test_confusion_and_accuracy():
    confusion = confusion_matrix(LABELS, PREDICTIONS, 3)
    assert confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert accuracy(confusion) == pytest.approx(4 / 6)
    assert balanced_accuracy(confusion) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_a_class_without_texts_is_left_out():
    assert balanced_accuracy(confusion_matrix(LABELS[:5], PREDICTIONS[:5], 3)) == pytest.approx(
        5 / 6
    )


def test_calibration():
    # Sure of 0.75 and right 1 time of 2; sure of 1 and right 2 times of 2.
    surest = np.array([0.75, 0.75, 1.0, 1.0])
    probabilities = np.stack([surest, 1 - surest], axis=1)
    labels = np.array([0, 1, 0, 0])
    assert calibration_error(labels, probabilities) == pytest.approx(0.5 * 0.25)
    counts, sure, right = reliability(labels, probabilities)
    assert counts.tolist() == [0] * 7 + [2, 0, 2]
    assert sure[[7, 9]].tolist() == [0.75, 1.0]
    assert right[[7, 9]].tolist() == [0.5, 1.0]


def test_perfect_calibration_is_0():
    probabilities = np.tile(np.array([[0.75, 0.25]], np.float32), (4, 1))
    assert calibration_error(np.array([0, 0, 0, 1]), probabilities) == pytest.approx(0)
