"""Public pre-training: the folder that it leaves, its stages stopped and resumed, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from dp_diffusers import checkpoint
from dp_diffusers.data.public_images import PublicImages
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.diffusion.loading import load_base
from dp_diffusers.errors import RunFolderError
from dp_diffusers.pretraining import STATE, pretrain
from dp_diffusers.pretraining.autoencoder import AutoencoderLoss, detail_error, fill_codebook, set_scale
from dp_diffusers.pretraining.diffusion import DiffusionLoss
from dp_diffusers.pretraining.networks import new_autoencoder, new_base
from dp_diffusers.recipe import AutoencoderSettings, ModelSettings, PretrainRecipe, PretrainTraining

RECIPE = """\
model: {{size: 8, widths: [8, 16], norm_groups: 4, attention_head_dim: 8, train_steps: 20{model}}}
data: [{{source: files, path: {path}}}]
training: {{steps: 4, batch_size: 6, warmup_steps: 1, save_every_seconds: 1.0e-9{training}}}
runtime: {{device: cpu}}
"""
AUTOENCODER = "autoencoder: {{kind: {}, widths: [4, 8], norm_groups: 2, steps: 6, batch_size: 6}}\n"


@pytest.fixture
def recipe(tiny_parquet: Path, tmp_path: Path) -> Callable[..., PretrainRecipe]:
    """Makes a tiny pre-training recipe, with an autoencoder of a kind or without."""

    def make(kind: str | None = "kl", *, model: str = "", training: str = "") -> PretrainRecipe:
        text = RECIPE.format(path=tiny_parquet, model=model, training=training)
        path = tmp_path / "pretrain.yaml"
        path.write_text(
            text + (AUTOENCODER.format(kind).replace("{{", "{").replace("}}", "}") if kind else "")
        )
        return PretrainRecipe.load(path)

    return make


def silent(**_: Any) -> None:
    """Progress that nobody sees."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a saved model."""
    base = load_base(folder)
    parts = {"unet": base.network, **base.parts}
    return {
        f"{name}/{key}": value for name, part in parts.items() for key, value in part.state_dict().items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_latent_model_is_an_ordinary_folder(
    kind: str, recipe: Any, tmp_path: Path, tiny_images: Any
) -> None:
    out = pretrain(recipe(kind), tmp_path / "out", silent)
    stock = DiffusionPipeline.from_pretrained(out)
    assert type(stock).__name__ == "LDMPipeline"
    assert not stock.scheduler.config.clip_sample
    found = {path.name for path in out.iterdir()}
    assert {"samples.png", "reconstructions.png", "pretraining.json", "vqvae", "unet"} <= found
    assert found.isdisjoint({"autoencoder.pt", "pretraining.pt", "encoded"})
    family = family_of(load_base(out))
    assert (family.size, family.shape, family.classes) == (8, (4, 4, 4), 3)
    assert family.null_label == 3
    assert float(family.encode(tiny_images[0]).std()) == pytest.approx(1, rel=0.1)


def test_again_it_is_done_also_with_a_record_from_before_a_key_was_there(recipe: Any, tmp_path: Path) -> None:
    out = pretrain(recipe(None), tmp_path / "out", silent)
    assert not (out / "reconstructions.png").exists()
    record = json.loads((out / "pretraining.json").read_text())
    del record["recipe"]["training"]["flip"], record["recipe"]["model"]["conditional"]
    (out / "pretraining.json").write_text(json.dumps(record))
    said: list[str] = []
    pretrain(recipe(None), out, lambda **facts: said.append(facts["message"]))
    assert said == [f"{out} is already trained with this recipe"]
    with pytest.raises(RunFolderError, match="the model of another recipe"):
        pretrain(recipe(None, training=", seed: 1"), out, silent)


class StoppedError(RuntimeError):
    """What a test stops a pre-training with."""


def stopping(at: int) -> Callable[..., None]:
    """Progress that stops the process at its `at`-th word."""
    heard: list[Any] = []

    def progress(**facts: Any) -> None:
        heard.append(facts)
        if len(heard) == at:
            raise StoppedError

    return progress


@pytest.fixture
def whole(recipe: Any, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The weights of a pre-training that nobody stopped."""
    return weights(pretrain(recipe("vq", training=", flip: true"), tmp_path / "whole", silent))


@pytest.mark.slow
def test_stopped_anywhere_it_ends_with_the_same_weights(recipe: Any, whole: Any, tmp_path: Path) -> None:
    settings = recipe("vq", training=", flip: true")
    for at in (3, 5, 8, 14, 15):  # in both stages, and while images are encoded between them
        with pytest.raises(StoppedError):
            pretrain(settings, tmp_path / "out", stopping(at))
    found = weights(pretrain(settings, tmp_path / "out", silent))
    assert found.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in found.items())


def test_the_work_of_another_recipe_is_not_gone_on_with(recipe: Any, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        pretrain(recipe(), tmp_path / "out", stopping(4))
    with pytest.raises(RunFolderError, match="the work of another recipe"):
        pretrain(recipe(training=", seed: 1"), tmp_path / "out", silent)


def test_work_that_began_before_a_key_was_there_is_gone_on_with(recipe: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        pretrain(recipe(None), out, stopping(4))
    state = checkpoint.load(out / STATE)
    assert state is not None
    settings = json.loads(state["settings"])
    del settings["training"]["flip"], settings["model"]["conditional"]
    checkpoint.save_atomic({**state, "settings": json.dumps(settings)}, out / STATE)
    steps: list[int] = []
    pretrain(recipe(None), out, lambda **facts: steps.append(facts.get("step", 0)))
    assert 1 not in steps, "it begins where it stopped"
    assert max(steps) == 4


def test_a_model_without_classes(recipe: Any, tmp_path: Path) -> None:
    settings = recipe(model=", conditional: false")
    assert settings.training.label_dropout == 0
    family = family_of(load_base(pretrain(settings, tmp_path / "out", silent)))
    assert family.classes == 0
    assert family.null_label is None
    again = tmp_path / "again.yaml"
    again.write_text(settings.resolved_yaml())
    assert PretrainRecipe.load(again) == settings


def images_of(count: int = 40) -> PublicImages:
    """Smooth public images, uint8 `[N, 8, 8, 1]`, brighter to the right, of one class."""
    rng = np.random.default_rng(1)
    ramp = np.linspace(0, 150, 8)[None, None, :, None] * rng.random((count, 1, 1, 1))
    pixels = (ramp + rng.integers(0, 100, (count, 1, 1, 1))).repeat(8, axis=1)
    return PublicImages(images=pixels.astype(np.uint8), labels=np.zeros(count, np.int64), class_names=("a",))


def test_an_autoencoder_learns_to_return_its_images() -> None:
    settings = AutoencoderSettings(widths=[8, 8], norm_groups=4, steps=40, batch_size=16)
    vae = new_autoencoder(settings, ModelSettings(size=8), seed=0)
    loss = AutoencoderLoss(vae=vae, images=images_of(), settings=settings, seed=0)
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        value = loss(step)
        torch.autograd.backward(value)
        optimizer.step()
        losses.append(float(value.detach()))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_details_are_differences_of_neighbours_at_three_scales() -> None:
    flat = torch.zeros(2, 1, 8, 8)
    ramp = torch.arange(8.0).expand(2, 1, 8, 8)
    assert float(detail_error(ramp, ramp + 5)) == 0
    assert float(detail_error(flat, ramp)) == pytest.approx((1 + 2 + 4) / 3)
    assert float(detail_error(flat, ramp.transpose(2, 3))) == pytest.approx((1 + 2 + 4) / 3)


def test_a_codebook_is_filled_with_latents_once() -> None:
    settings = AutoencoderSettings(kind="vq", widths=[8, 8], norm_groups=4, steps=50, codebook=32)
    vae: Any = new_autoencoder(settings, ModelSettings(size=8), seed=0)
    loss = AutoencoderLoss(vae=vae, images=images_of(), settings=settings, seed=0)
    codes = vae.quantize.embedding.weight
    before = codes.detach().clone()
    fill_codebook(loss, 4)
    assert torch.equal(codes, before)
    fill_codebook(loss, 5)
    latents = vae.encode(loss.pixels(np.random.default_rng(0))).latents.permute(0, 2, 3, 1).reshape(-1, 4)
    used = torch.cdist(latents, codes).argmin(1).unique()
    assert len(used) > 8
    assert len(torch.cdist(latents, before).argmin(1).unique()) < len(used)


def test_the_scale_is_that_of_public_latents_whatever_it_was() -> None:
    vae: Any = new_autoencoder(
        AutoencoderSettings(widths=[8, 8], norm_groups=4), ModelSettings(size=8), seed=0
    )
    set_scale(vae, images_of(), seed=0)
    first = vae.config.scaling_factor
    set_scale(vae, images_of(), seed=0)
    assert vae.config.scaling_factor == pytest.approx(first)
    assert first != 1


@pytest.mark.parametrize("flip", [True, False])
def test_half_of_a_batch_is_mirrored_where_asked(flip: bool) -> None:
    shown: list[np.ndarray] = []
    model = ModelSettings(size=8, widths=[8, 8], norm_groups=4, attention_head_dim=8)
    family = family_of(new_base(model, ("a",), seed=0))

    def encoded(image: np.ndarray, variant: np.ndarray) -> torch.Tensor:
        shown.append(variant)
        return torch.zeros(len(image), *family.shape)

    training = PretrainTraining(batch_size=64, flip=flip)
    loss = DiffusionLoss(family=family, images=images_of(), encoded=encoded, training=training)
    assert torch.equal(loss(3), loss(3))
    assert 0.3 < shown[0].mean() < 0.7 if flip else not shown[0].any()


def test_mirrored_images_reach_the_autoencoder() -> None:
    settings = AutoencoderSettings(widths=[8, 8], norm_groups=4, batch_size=64)
    vae = new_autoencoder(settings, ModelSettings(size=8), seed=0)
    pixels = AutoencoderLoss(vae=vae, images=images_of(), settings=settings, seed=0, flip=True).pixels(
        np.random.default_rng(0)
    )
    darker_to_the_right = (pixels[:, 0, 0, 0] > pixels[:, 0, 0, -1]).float().mean()
    assert 0.2 < float(darker_to_the_right) < 0.8
