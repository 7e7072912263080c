"""Bases that cannot be trained as they are: refused in one line, before a ledger is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

import dp_diffusers as dpd
from dp_diffusers.classes.conditions import require_use_of_labels
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.errors import InputError, VerificationError
from dp_diffusers.finetuning import train
from dp_diffusers.privacy.files import CERTIFICATE_NAME
from dp_diffusers.recipe import Recipe, TrainingSettings
from dp_diffusers.run import running
from family_support import pipeline_base
from latent_support import tiny_latent_base
from loop_support import cheap_trainings
from network_support import network_of
from tiny_pipelines import stable_diffusion


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_trainings(monkeypatch.setattr)


def refusal(
    base: Any, folder: Path, *, size: int = 8, caption: str | None = None, **given: Any
) -> InputError:
    """The error of a training on this base, which neither wrote a ledger nor left a run."""
    plan = dpd.Plan.calibrate(dpd.Budget(1.0, 1e-3), dpd.DPSGD(steps=2, expected_units=10, population=30))
    data = dpd.PrivateImages(
        images=np.zeros((30, size, size, 1), np.uint8),
        labels=np.arange(30) % 3,
        class_names=("a", "b", "c"),
        owner=np.arange(30),
        unit_count=30,
        caption=caption,
    )
    with pytest.raises(InputError) as caught:
        dpd.finetune(base, data, plan, out=folder / "run", ledger=folder / "x.ledger", **given)
    assert not (folder / "x.ledger").exists()
    return caught.value


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("strategy", ["lora", "full"])
def test_guarantee_a_network_of_half_precision_is_not_trained(
    tiny_base: Callable[..., Any], tmp_path: Path, kind: torch.dtype, strategy: str
) -> None:
    base = tiny_base(patch=1)
    pipe = DDPMPipeline(unet=base.network, scheduler=base.scheduler).to(kind)
    error = refusal(pipe, tmp_path, strategy={"name": strategy})
    assert f"the unet of the base is in {str(kind)[6:]} (" in str(error)
    assert "torch_dtype=torch.float32" in str(error.hint)


def test_an_autoencoder_that_overflows_costs_nothing(tmp_path: Path) -> None:
    base = tiny_latent_base()
    with torch.no_grad():
        base.parts["vqvae"].encoder.conv_out.bias.fill_(float("inf"))
    error = refusal(base, tmp_path)
    assert str(error) == "the autoencoder gives latents that are not finite"
    assert "float32" in str(error.hint)


@pytest.mark.parametrize("classes", [0, 3])
def test_a_label_dropout_without_a_null_class_is_refused(
    tiny_base: Callable[..., Any], tmp_path: Path, classes: int
) -> None:
    names = ("a", "b", "c", "d") if classes else None
    base = replace(tiny_base(classes=classes), class_names=names)
    error = refusal(base, tmp_path, training=TrainingSettings(label_dropout=0.5))
    assert str(error) == "training.label_dropout 0.5 has no effect: the base model has no null class"
    for fine in ({}, {"label_dropout": 0.0}):
        settings = {"training": TrainingSettings(**fine).model_dump()}
        require_use_of_labels(family_of(base), settings)


def test_classes_for_a_base_without_any_are_refused(
    tiny_base: Callable[..., Any], tiny_recipe: Path, tmp_path: Path
) -> None:
    tiny_base(classes=0).save(tmp_path / "plain")
    recipe = Recipe.load(tiny_recipe, [f"base={tmp_path / 'plain'}", "data.classes=[a, b, c]"])
    with pytest.raises(InputError, match=r"data\.classes has no effect: the base model has no classes"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "tiny.ledger").exists()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 16), None])
@pytest.mark.parametrize("kind", ["pixel", "latent", "stable diffusion"])
def test_a_model_of_no_square_size_is_refused(
    tiny_base: Callable[..., Any], tmp_path: Path, kind: str, size: Any
) -> None:
    base = {
        "pixel": lambda: tiny_base(patch=1),
        "latent": tiny_latent_base,
        "stable diffusion": lambda: pipeline_base("stable_diffusion"),
    }[kind]()
    base.network.register_to_config(sample_size=size)
    assert str(refusal(base, tmp_path)).endswith(f"of square samples of a known size, got sample_size {size}")


def _unet(**options: Any) -> Any:
    plain = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "num_class_embeds": None}
    unet = _like(network_of("unet"), **plain | options)
    return DDPMPipeline(unet=unet, scheduler=DDPMScheduler())


def _stable_diffusion(**options: Any) -> Any:
    pipe = stable_diffusion()
    pipe.unet = _like(pipe.unet, **options)
    return pipe


def _like(network: Any, **options: Any) -> Any:
    """A network of the same configuration but for these settings."""
    known = {name: value for name, value in network.config.items() if not name.startswith("_")}
    return type(network)(**known | options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "said"),
    [
        (lambda: _unet(out_channels=2), "the unet gives 2 channels and sees 1"),
        (
            lambda: _unet(class_embed_type="timestep"),
            r"takes other labels than numbers \(class_embed_type timestep\)",
        ),
        (
            lambda: _unet(class_embed_type="identity"),
            r"takes other labels than numbers \(class_embed_type identity\)",
        ),
        (lambda: _stable_diffusion(in_channels=9), "the network sees 9 channels, and a latent .* has 4"),
        (lambda: _stable_diffusion(out_channels=8), "the unet gives 8 channels and sees 4"),
        (lambda: _stable_diffusion(class_embed_type="timestep"), "class_embed_type timestep"),
        (lambda: _stable_diffusion(num_class_embeds=3), "class_embed_type None"),
    ],
)
def test_a_network_that_is_called_otherwise_is_refused(
    base: Callable[[], Any], said: str, tmp_path: Path
) -> None:
    pipe = base()
    size, text = (16, "an image") if "text_encoder" in pipe.components else (8, None)
    assert re.search(said, str(refusal(pipe, tmp_path, size=size, caption=text)))


def test_guarantee_a_release_that_is_not_finite_is_not_certified(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(network: torch.nn.Module, runtime: Any) -> None:
        trained = [value for value in network.parameters() if value.requires_grad]
        trained[-1].data.view(-1)[0] = float("nan")

    monkeypatch.setattr(running, "undone", spoiled)
    with pytest.raises(VerificationError, match=r"not finite \(base_model\..*\): it is not certified"):
        train(Recipe.load(tiny_recipe), tmp_path / "run")
    assert not (tmp_path / "run" / "release" / CERTIFICATE_NAME).exists()
