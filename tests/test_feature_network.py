"""Feature networks: pre-trained on public classes, opened by name, the same stopped or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dp_diffusers.data.public_images import PublicImages
from dp_diffusers.errors import DataError, ModelError, RecipeError
from dp_diffusers.evaluation.feature_network import FeatureNetwork, Shape
from dp_diffusers.evaluation.features import OWN_FILE as FILE
from dp_diffusers.evaluation.features import features_named
from dp_diffusers.pretraining import STATE, pretrain
from dp_diffusers.pretraining.features import FeaturesLoss, new_features
from dp_diffusers.recipe import FeaturesSettings, PretrainRecipe, PretrainTraining

RECIPE = """\
features: {size: 12, widths: [8, 16]}
data: [{source: drawn_digits, count: 40}]
training: {steps: 3, batch_size: 8, warmup_steps: 1, save_every_seconds: 0.000001}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> PretrainRecipe:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return PretrainRecipe.load(tmp_path / "recipe.yaml")


def quiet(**_: Any) -> None:
    """No progress."""


def test_a_folder_opens_as_features_and_again_it_is_done(recipe: PretrainRecipe, tmp_path: Path) -> None:
    out = pretrain(recipe, tmp_path / "net", quiet)
    said: list[str] = []
    pretrain(recipe, out, lambda message="", **_: said.append(message))
    assert "already trained" in said[0]
    features = features_named(str(out))
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3)).astype(np.uint8)
    found = features.of(images)
    assert found.shape == (5, 16)
    assert features.name == f"features-{features.sha256[:12]}"  # type: ignore[index]
    np.testing.assert_allclose(features.of(images[3:4])[0], found[3], atol=1e-5)  # one by one
    assert not (out / STATE).exists()


def test_stopped_anywhere_it_ends_with_the_same_weights(recipe: PretrainRecipe, tmp_path: Path) -> None:
    def stop(step: int = 0, **_: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt

    whole = pretrain(recipe, tmp_path / "whole", quiet)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, tmp_path / "stopped", stop)
    again = pretrain(recipe, tmp_path / "stopped", quiet)
    assert (again / FILE).read_bytes() == (whole / FILE).read_bytes()


def test_it_learns_to_tell_classes_apart() -> None:
    labels = np.arange(64) % 2
    images = np.zeros((64, 8, 8, 1), np.uint8)
    images[labels == 1, 3:5] = 255  # a bar
    public = PublicImages(images=images, labels=labels, class_names=("empty", "bar"))
    network = new_features(FeaturesSettings(size=8, widths=[8]), public, seed=0)
    loss = FeaturesLoss(network=network, images=public, training=PretrainTraining(batch_size=32))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    losses = []
    for step in range(50):
        optimizer.zero_grad()
        now = loss(step)
        torch.autograd.backward(now)
        optimizer.step()
        losses.append(now.item())
    assert losses[-1] < 0.7 * losses[0]


def test_one_class_tells_nothing_apart() -> None:
    public = PublicImages(
        images=np.zeros((4, 8, 8, 1), np.uint8), labels=np.zeros(4, np.int64), class_names=("empty",)
    )
    with pytest.raises(DataError, match="all of one"):
        new_features(FeaturesSettings(size=8, widths=[8]), public, seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {size: 12}\n", "no effect beside features"),
        ("autoencoder: {}\n", "no effect beside features"),
        ("training: {label_dropout: 0.2}\n", "label_dropout has no effect"),
        ("features: {widths: [12]}\n", "multiples of norm_groups"),
        ("features: {size: 4, widths: [8, 8, 8]}\n", "cannot be halved"),
    ],
)
def test_what_has_no_effect_is_refused(text: str, message: str, tmp_path: Path) -> None:
    own = "" if text.startswith("features") else "features: {}\n"
    (tmp_path / "recipe.yaml").write_text(f"{own}data: [{{source: drawn_digits, count: 4}}]\n{text}")
    with pytest.raises(RecipeError, match=message):
        PretrainRecipe.load(tmp_path / "recipe.yaml")


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no feature network"):
        features_named(str(tmp_path))
    shape = Shape(size=4, channels=1, widths=(8,), blocks=1, groups=8, classes=2)
    FeatureNetwork(shape).save(tmp_path)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="damaged"):
        features_named(str(tmp_path))


def test_other_rows_change_nothing() -> None:
    torch.manual_seed(0)
    network = FeatureNetwork(Shape(size=8, channels=1, widths=(8, 8), blocks=2, groups=4, classes=3)).eval()
    rows = torch.randn(4, 1, 8, 8)
    other = torch.cat([rows[:1], 100 * rows[1:]])
    torch.testing.assert_close(network(rows)[0], network(other)[0])
