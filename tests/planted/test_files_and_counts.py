"""What a training writes outside its safe, and what a generation may know of the private labels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dp_diffusers import generating
from dp_diffusers.drawing import requested_images
from dp_diffusers.drawing.images_out import PARQUET, png, write_images
from dp_diffusers.evaluation import evaluate, scores
from dp_diffusers.finetuning import train
from dp_diffusers.recipe import Recipe
from dp_diffusers.training import Loop
from loop_support import cheap_trainings, small_budget

LABELS = np.array([0] * 24 + [1] * 5 + [2])


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch, tiny_recipe: Path) -> None:
    cheap_trainings(monkeypatch.setattr)
    small_budget(tiny_recipe, steps=1)


@pytest.fixture
def images(tiny_parquet: Path) -> np.ndarray:
    """Images of random bytes, of classes of very unequal size, in place of the tiny ones."""
    pixels = np.random.default_rng(3).integers(0, 256, (30, 8, 8, 1), dtype=np.uint8)
    tiny_parquet.unlink()
    write_images(pixels, LABELS, ["dark", "grey", "light"], tiny_parquet.parent / "skewed", format="parquet")
    (tiny_parquet.parent / "skewed" / PARQUET).rename(tiny_parquet)
    return pixels


def outside_the_safe(recipe: Path, images: np.ndarray) -> list[str]:
    """Files of a training outside `private/` that hold an image, as pixels, as text, or as a picture."""
    out = recipe.parent / "run"
    before = set(recipe.parent.rglob("*"))
    train(Recipe.load(recipe), out)
    rows = [row.tobytes() for image in images for row in image] + [png(image) for image in images]
    found = []
    for path in sorted(set(recipe.parent.rglob("*")) - before):
        if path.is_file() and not path.is_relative_to(out / "private"):
            content = path.read_bytes()
            if any(row in content for row in rows) or _pictured(content, images):
                found.append(path.relative_to(recipe.parent).as_posix())
    return found


def _pictured(content: bytes, images: np.ndarray) -> bool:
    try:
        shown = np.asarray(Image.open(io.BytesIO(content)))
    except OSError:
        return False
    return shown.shape == images.shape[1:3] and any((shown == image[..., 0]).all() for image in images)


@pytest.mark.slow
def test_guarantee_no_image_is_written_outside_the_safe(tiny_recipe: Path, images: np.ndarray) -> None:
    assert outside_the_safe(tiny_recipe, images) == []


@pytest.mark.planted
@pytest.mark.parametrize("kind", [pytest.param("png", marks=pytest.mark.slow), "npy"])
def test_planted_image_logger(
    kind: str, tiny_recipe: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs of a step saved beside the run, on by default in published code."""
    row_losses = Loop.row_losses

    def logging(self: Loop, rows: Any, step: int) -> Any:
        folder = self.folder.root / "images" / "train"
        folder.mkdir(parents=True, exist_ok=True)
        for place in rows.image[:4]:
            path = folder / f"inputs_gs-{step}_{place}.{kind}"
            if kind == "npy":
                np.save(path, self.data.images[place])
            else:
                Image.fromarray(self.data.images[place][..., 0]).save(path)
        return row_losses(self, rows, step)

    monkeypatch.setattr(Loop, "row_losses", logging)
    assert outside_the_safe(tiny_recipe, images)


def labels_made(recipe: Path) -> list[int]:
    """How many images of each class a generation makes after a training."""
    out = recipe.parent / "run"
    train(Recipe.load(recipe), out)
    made = generating.generate(out)
    table = pq.read_table(next(made.rglob("*.parquet")))
    return np.bincount(table["label"].to_pylist(), minlength=3).tolist()


@pytest.mark.usefixtures("images")
def test_guarantee_private_class_counts_decide_nothing(tiny_recipe: Path) -> None:
    assert labels_made(tiny_recipe) == [3, 3, 3]


@pytest.mark.slow
@pytest.mark.planted
@pytest.mark.usefixtures("images")
def test_planted_class_counts_taken_for_public(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many images of each class as the private data have, without a query that is paid for."""

    def private(count: int, classes: int, *_: Any) -> np.ndarray:
        return LABELS[:: 30 // count][:count]

    monkeypatch.setattr(requested_images, "balanced_labels", private)
    assert labels_made(tiny_recipe) != [3, 3, 3]


def says_that_it_is_not_covered() -> bool:
    """The property: a score on real images says, as text and as JSON, that no budget covers it."""
    rng = np.random.default_rng(0)
    pair = rng.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8), np.arange(12) % 3
    found = evaluate(pair, pair, features=None, seeds=2, passes=256)
    return "not covered by ε" in found.explain() and found.to_dict()["covered_by_epsilon"] is False


def test_guarantee_a_score_on_real_images_says_that_epsilon_does_not_cover_it() -> None:
    assert says_that_it_is_not_covered()


@pytest.mark.planted
def test_planted_score_on_private_images_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """FID or accuracy on private images, logged and tuned for, as if it were free."""
    monkeypatch.setattr(scores, "NOT_COVERED", "")
    assert not says_that_it_is_not_covered()
