"""Calibration: two other libraries agree, and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from dp_diffusers.evaluation.calibration import calibration_of


def _drawn(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Right within every second of 37 bands of certainty: how wide a bin is changes the error much."""
    drawing = np.random.default_rng(seed)
    probabilities = drawing.dirichlet(np.full(classes, 0.4), count)
    first = probabilities.argmax(1)
    wrong = (first + drawing.integers(1, classes, count)) % classes
    return probabilities, np.where((37 * probabilities.max(1)).astype(int) % 2, first, wrong)


@pytest.mark.parametrize("classes", [2, 7])
def test_other_libraries_agree(classes: int) -> None:
    probabilities, labels = _drawn(500, classes, classes)
    found = calibration_of(probabilities, labels)
    theirs = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=classes, n_bins=15, norm="l1"
    )
    assert found.calibration_error == pytest.approx(100 * float(theirs), rel=1e-5)
    assert found.log_loss == pytest.approx(log_loss(labels, probabilities, labels=range(classes)), rel=1e-9)
    truth = np.eye(classes)[labels]
    assert found.brier_score == pytest.approx(((probabilities - truth) ** 2).sum(1).mean(), rel=1e-9)


def test_known_answers() -> None:
    labels = np.array([0, 1, 1, 0])
    sure = np.eye(2)[labels]
    right = calibration_of(sure, labels)
    assert (right.calibration_error, right.brier_score) == (0, 0)
    wrong = calibration_of(sure, 1 - labels)
    assert (wrong.calibration_error, wrong.brier_score) == (100, 2)
    assert np.isfinite(wrong.log_loss)
    # sure to three quarters and right three times of four: as good as a guess can be
    guess = calibration_of(np.full((4, 2), [0.75, 0.25]), np.array([0, 0, 0, 1]))
    assert guess.calibration_error == pytest.approx(0)
    assert guess.brier_score == pytest.approx(0.375)
