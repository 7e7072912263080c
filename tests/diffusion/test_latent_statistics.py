"""Mean, deviation and shift of latents: as stock pipelines have them, and refused where none is heeded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.errors import ModelError
from family_support import pipeline_base
from latent_support import tiny_latent_base

BOTH = {"latents_mean": [-1.6, 0.5, 2.5, -0.2], "latents_std": [8.4, 0.3, 1.9, 3.8]}


def _given(base: Base, **statistics: Any) -> Base:
    (vae,) = [part for name, part in base.parts.items() if name in ("vae", "vqvae")]
    vae.register_to_config(**statistics)
    return base


@pytest.mark.parametrize(
    ("name", "statistics"), [("stable_diffusion_xl", BOTH), ("stable_diffusion_3", {"shift_factor": 0.4})]
)
def test_what_a_pipeline_heeds_is_decoded_as_it_does(
    name: str, statistics: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = family_of(_given(pipeline_base(name), **statistics))
    monkeypatch.setattr("dp_diffusers.diffusion.latents.to_images", lambda pixels: pixels)
    stock = family.base.whole()
    if name == "stable_diffusion_3":
        stock.text_encoder_3.eval()  # two calls, without dropout
    stock.set_progress_bar_config(disable=True)
    call = {"prompt": "a cat", "num_inference_steps": 1, "guidance_scale": 1.0, "height": 16, "width": 16}
    noise = torch.randn(1, *family.shape, generator=torch.Generator().manual_seed(3))
    latents = stock(latents=noise, output_type="latent", **call).images
    pixels = stock(latents=noise, output_type="pt", **call).images
    ours: Any = family.decode(latents)
    assert float(pixels.std()) > 0.01
    assert torch.allclose((ours / 2 + 0.5).clamp(0, 1), pixels.float(), atol=1e-5)


def test_decoding_undoes_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    family = family_of(_given(pipeline_base("stable_diffusion_xl"), **BOTH))
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    vae: Any = family.base.parts["vae"]
    with torch.no_grad():
        plain = vae.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mode()
    seen: list[torch.Tensor] = []
    stock_decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda part: seen.append(part) or stock_decode(part))
    encoded = family.encode(images)
    family.decode(encoded)
    assert torch.allclose(seen[0], plain, atol=1e-5)
    mean, deviation = (torch.tensor(BOTH[name]).view(1, 4, 1, 1) for name in BOTH)
    assert torch.allclose(encoded, (plain - mean) * 0.5 / deviation, atol=1e-5)


@pytest.mark.parametrize("name", ["stable_diffusion", "dit"])
def test_a_pipeline_that_ignores_them_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="AutoencoderKL has latents_mean and latents_std"):
        family_of(_given(pipeline_base(name), **BOTH))


def test_a_latent_model_with_them_is_refused() -> None:
    with pytest.raises(ModelError, match="AutoencoderKL has latents_mean and"):
        family_of(_given(tiny_latent_base(), **BOTH))


def test_one_without_the_other_is_refused() -> None:
    base = _given(pipeline_base("stable_diffusion_xl"), latents_mean=BOTH["latents_mean"])
    with pytest.raises(ModelError, match="has latents_mean, which"):
        family_of(replace(base))


@pytest.mark.parametrize(
    "name", ["stable_diffusion", "stable_diffusion_xl", "dit", "pixart", "sana", "latent"]
)
def test_a_shift_that_the_stock_pipeline_ignores_is_refused(name: str) -> None:
    def base() -> Base:
        return tiny_latent_base() if name == "latent" else pipeline_base(name)

    with pytest.raises(ModelError, match=r"has shift_factor 0\.3, which its pipeline does not heed"):
        family_of(_given(base(), shift_factor=0.3))
    assert family_of(_given(base(), shift_factor=0.0)).channels in (1, 3)
