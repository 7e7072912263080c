"""A tiny extractor, private images that a linear classifier tells apart, and a recipe on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dp_diffusers.drawing import images_out
from dp_diffusers.evaluation.features import EXTRACTORS, Features
from dp_diffusers.privacy.ledger import Ledger
from tiny_recipes import TINY_RECIPE

SIDE = 8
LABELS = np.repeat(np.arange(3), 400)


def extractor() -> Features:
    """The pixels themselves, in the place of a network."""
    return Features(
        name="tiny", dim=SIDE * SIDE, function=lambda images: images[..., 0].reshape(len(images), -1) / 255.0
    )


def register(patch: object) -> None:
    """Makes it known as `tiny`, until the patch is taken back."""
    patch.setitem(EXTRACTORS, "tiny", "teacher_support:extractor")  # type: ignore[attr-defined]


def drawn(labels: np.ndarray, seed: int) -> np.ndarray:
    """uint8 `[N, 8, 8, 1]`: noise, and a bright band whose place is the class."""
    images = np.random.default_rng(seed).integers(0, 160, (len(labels), SIDE, SIDE, 1))
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 95
    return images.astype(np.uint8)


def unopened_recipe(folder: Path) -> Path:
    """A recipe whose images and base are not there: it is read alone."""
    path = folder / "text.yaml"
    path.write_text(TINY_RECIPE.format(base="somebody/model", data="x.parquet", ledger="x.ledger", steps=2))
    return path


def labelled_recipe(base: Path, folder: Path) -> Path:
    """A recipe of two steps on twelve hundred units of three classes."""
    images_out.write_images(drawn(LABELS, 0), LABELS, ["a", "b", "c"], folder / "images", format="parquet")
    data, ledger = folder / "images" / images_out.PARQUET, folder / "tiny.ledger"
    text = TINY_RECIPE.format(base=base, data=data, ledger=ledger, steps=2)
    text = text.replace("population: 30", "population: 1200").replace("delta: 1.0e-3", "delta: 1.0e-4")
    text = text.replace("epsilon: 5", "epsilon: 8").replace("expected_units: 10", "expected_units: 200")
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


def entries_of(recipe: Path) -> list[tuple[str, str]]:
    """Kind and name of all that the ledger beside the recipe holds."""
    with Ledger.open(recipe.parent / "tiny.ledger") as ledger:
        return [(entry.kind, entry.content.get("name", "")) for entry in ledger.entries()]


class KilledError(Exception):
    """Stands for SIGKILL: nothing in the product catches it."""


def killed(*_: object, **__: object) -> None:
    raise KilledError
