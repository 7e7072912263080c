"""A small convolutional classifier with a fixed schedule: how useful images are for training one.

Guarantees: the number of image passes is fixed before it starts, nothing is chosen by test accuracy, and
equal arguments on one machine and number of threads give equal numbers. May import numpy and torch. Batch
normalisation (Ioffe & Szegedy 2015), one-cycle rate (Smith & Topin 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dp_diffusers.errors import DataError, ParameterError, positive
from dp_diffusers.evaluation.augmentation import distorted
from dp_diffusers.evaluation.calibration import Calibration, calibration_of
from dp_diffusers.evaluation.classifiers import DEFAULT, Classifier

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
NAME = DEFAULT
BATCH = 256
RATE = 3e-3


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """Accuracy in per cent, in all and of each class (NaN for a class without test images); calibration."""

    __test__ = False

    accuracy: float
    per_class: tuple[float, ...]
    calibration: Calibration


def default_passes(size: int) -> int:
    """Images seen in training: enough to converge, about 45 s of one core at 28x28."""
    if size < 24:
        return 40_000
    if size <= 28:
        return 80_000
    return 120_000 if size <= 32 else 60_000


def network(channels: int, size: int, classes: int) -> nn.Sequential:
    """Convolutions of 32, 64 and 128 channels (256 more above 48 pixels), each halving the image."""
    layers: list[nn.Module] = []
    for width in (32, 64, 128, 256)[: 3 if size <= 48 else 4]:
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        layers += [nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()]  # as ReLU first, on a quarter of the values
        channels, size = width, -(-size // 2)
    layers += [nn.Dropout2d(0.1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels * size * size, classes)]
    # in rows of channels max-pooling is ten times as fast on a CPU
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def classifier(device: str) -> Classifier:
    """For `classifiers.CLASSIFIERS`. Raises `ParameterError` for any device but the CPU."""
    if device not in ("auto", "cpu"):
        raise ParameterError(
            f"{NAME} is trained on the CPU, not on {device!r}", hint="leave --device out, or choose wrn-40-4"
        )
    return Classifier(name=NAME, default_passes=default_passes, trained=trained)


def train_and_test(
    train: Labelled,
    test: Labelled,
    *,
    seed: int,
    passes: int | None = None,
    classes: int,
    progress: Callable[[int, int], None] | None = None,
    chosen: Classifier | None = None,
) -> tuple[nn.Module, TestResult]:
    """Trains on `train` for `passes` images, then tests once on `test`: the classifier, and how it did.

    `train`, `test`: images uint8 [N, H, W, C] of one shape, labels int64 [N] in range(classes). `progress`
    gets (steps done, steps in all). `chosen`: another classifier than the small one of this file. Raises
    `DataError`, `ParameterError`.
    """
    _check(train, test, classes)
    chosen = classifier("cpu") if chosen is None else chosen
    passes = chosen.default_passes(train[0].shape[1]) if passes is None else passes
    positive(passes=passes)
    model = chosen.trained(train, seed=seed, passes=passes, classes=classes, progress=progress)
    return model, accuracy_of(model, test, classes)


def trained(
    train: Labelled,
    *,
    seed: int,
    passes: int,
    classes: int,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Sequential:
    """The classifier after `passes` images, in evaluation mode; equal seeds give equal classifiers."""
    images, labels = torch.from_numpy(train[0]), torch.from_numpy(train[1])
    steps = max(1, passes // BATCH)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(images.shape[3], images.shape[1], classes)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for step in range(steps):
            chosen = _batch(len(images), step, seed)
            loss = _loss(model, images[chosen], labels[chosen], generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(step + 1, steps)
    model.eval()
    return model


def accuracy_of(model: nn.Module, test: Labelled, classes: int) -> TestResult:
    """How `model` does on `test`: accuracy in per cent, calibration."""
    labels = test[1]
    probabilities = probabilities_of(model, test[0])
    right = probabilities.argmax(1) == labels
    totals = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, weights=right, minlength=classes)
    per_class = np.divide(100 * hits, totals, out=np.full(classes, np.nan), where=totals > 0)
    return TestResult(
        accuracy=100 * float(right.mean()),
        per_class=tuple(float(x) for x in per_class),
        calibration=calibration_of(probabilities, labels),
    )


def probabilities_of(model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What `model` makes of uint8 [N, H, W, C], on the device that it lies on: float64 [N, classes]."""
    pixels, device = torch.from_numpy(images), next(model.parameters()).device
    with torch.no_grad():
        found = [
            model(pixels_of(pixels[start : start + 1000]).to(device)).double().softmax(1).cpu()
            for start in range(0, len(pixels), 1000)
        ]
    return np.asarray(torch.cat(found).numpy(), np.float64)


def pixels_of(images: Tensor) -> Tensor:
    """uint8 [N, H, W, C] to float32 [N, C, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def _loss(model: nn.Sequential, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    # mirrored objects are objects, mirrored characters are not: colour stands for photographs
    pixels = distorted(pixels_of(images), generator, flip=images.shape[3] == 3)
    scores = model(pixels.contiguous(memory_format=torch.channels_last))
    return functional.cross_entropy(scores, labels, label_smoothing=0.05)


def _batch(count: int, step: int, seed: int) -> Tensor:
    """Indices of batch `step`: each epoch is one shuffle, batches run over its end into the next."""
    places = np.arange(step * BATCH, (step + 1) * BATCH)
    chosen = np.empty(BATCH, np.int64)
    for epoch in np.unique(places // count):
        here = places // count == epoch
        chosen[here] = np.random.default_rng([seed, int(epoch)]).permutation(count)[places[here] % count]
    return torch.from_numpy(chosen)


def _check(train: Labelled, test: Labelled, classes: int) -> None:
    for name, (images, labels) in (("training", train), ("test", test)):
        if not len(images) or images.ndim != 4 or len(images) != len(labels):
            raise DataError(
                f"expected {name} images [N, H, W, C] with a label each, got shape {images.shape}"
            )
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(f"expected {name} labels in 0..{classes - 1}, got {labels.min()}..{labels.max()}")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(f"training images are {train[0].shape[1:]}, test images {test[0].shape[1:]}")
