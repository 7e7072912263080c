"""Latents: scale, means and codebooks as diffusers has them, and a folder that a stock pipeline decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline

from dp_diffusers.diffusion.family import family_of
from dp_diffusers.diffusion.generation import Sampling, sample
from dp_diffusers.diffusion.latents import CHUNK, Latents
from dp_diffusers.diffusion.loading import load_base
from dp_diffusers.errors import DataError, ModelError
from latent_support import tiny_autoencoder, tiny_latent_base

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
PIXELS = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 127.5 - 1


def test_latents_of_a_gaussian_are_its_scaled_mean() -> None:
    vae = tiny_autoencoder("kl")
    latents = Latents(vae=vae)
    expected = vae.encode(PIXELS).latent_dist.mean.detach() * 0.7
    assert torch.allclose(latents.encode(IMAGES), expected, atol=1e-6)
    assert (latents.factor, latents.channels, latents.image_channels) == (2, 4, 1)


def test_latents_of_a_codebook_are_what_comes_before_it() -> None:
    vae = tiny_autoencoder("vq")
    latents = Latents(vae=vae).encode(IMAGES)
    assert torch.allclose(latents, vae.encode(PIXELS).latents.detach() * 0.7, atol=1e-6)
    nearest = vae.quantize.embedding.weight[0].detach() * 0.7
    constant = nearest[None, :, None, None].expand(1, 4, 4, 4)
    moved = Latents(vae=vae).decode(constant + 1e-4)
    assert np.array_equal(moved, Latents(vae=vae).decode(constant))


def test_a_shift_is_taken_off_before_the_scale() -> None:
    vae = tiny_autoencoder("kl")
    plain = Latents(vae=vae).encode(IMAGES) / 0.7
    vae.register_to_config(shift_factor=0.25)
    shifted = Latents(vae=vae, shifts=True)
    assert torch.allclose(shifted.encode(IMAGES), (plain - 0.25) * 0.7, atol=1e-6)
    assert np.abs(shifted.decode(shifted.encode(IMAGES)).astype(int) - _decoded(vae, plain)).max() <= 1


def _decoded(vae: Any, latents: torch.Tensor) -> np.ndarray:
    """The images of unscaled latents, in diffusers' own words."""
    pixels = vae.decode(latents).sample.detach()
    images: np.ndarray = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    return images.astype(int)


def test_guarantee_encoding_draws_nothing_and_sees_one_image() -> None:
    latents = Latents(vae=tiny_autoencoder("kl"))
    many = np.tile(IMAGES, (CHUNK // 4, 1, 1, 1))
    torch.manual_seed(1)
    first = latents.encode(many)
    torch.manual_seed(2)
    assert torch.equal(latents.encode(many), first)
    alone = torch.cat([latents.encode(many[index : index + 1]) for index in range(len(IMAGES))])
    assert torch.allclose(first[: len(IMAGES)], alone, atol=1e-6)


def test_an_autoencoder_keeps_its_mode_and_dropout_never_acts() -> None:
    vae = tiny_autoencoder("kl").train()
    Latents(vae=vae).encode(IMAGES)
    assert vae.training


def _overflowing(*, force_upcast: bool) -> Any:
    """An autoencoder in float16 whose values are beyond float16 on the way, as those of SDXL are."""
    vae = tiny_autoencoder("kl")
    vae.register_to_config(force_upcast=force_upcast)
    with torch.no_grad():
        for layer in (vae.encoder.conv_in, vae.decoder.conv_in):
            layer.weight.mul_(6e4 / float(layer.weight.abs().max()))
    return vae.to(torch.float16)


def test_an_autoencoder_that_overflows_in_float16_works_in_float32(capfd: pytest.CaptureFixture[str]) -> None:
    vae = _overflowing(force_upcast=True)
    capfd.readouterr()
    latents, before = Latents(vae=vae), {name: value.clone() for name, value in vae.state_dict().items()}
    encoded = latents.encode(IMAGES)
    assert encoded.isfinite().all()
    drawn = latents.decode(10 * encoded)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert vae.dtype is torch.float16
    assert capfd.readouterr().err == ""
    whole = Latents(vae=vae.to(torch.float32))
    assert torch.equal(whole.encode(IMAGES), encoded)
    assert np.array_equal(whole.decode(10 * encoded), drawn)


def test_pixels_that_are_not_finite_are_refused() -> None:
    latents = torch.ones(1, 4, 4, 4)
    with pytest.raises(ModelError, match="decodes to values that are not finite"):
        Latents(vae=_overflowing(force_upcast=False)).decode(10 * latents)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((1, 7, 7, 1), np.uint8), "multiple of 2, got 7"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"\(8, 8, 1\)"),
    ],
)
def test_other_images_are_refused(images: np.ndarray, match: str) -> None:
    with pytest.raises(DataError, match=match):
        Latents(vae=tiny_autoencoder("kl")).encode(images)


def test_a_family_takes_images_of_its_size_alone() -> None:
    family = family_of(tiny_latent_base())
    assert (family.size, family.channels, family.shape) == (8, 1, (4, 4, 4))
    with pytest.raises(DataError, match="8 x 8 pixels"):
        family.encode(np.zeros((1, 16, 16, 1), np.uint8))


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_stock_pipeline_opens_the_folder_and_decodes_alike(kind: str, tmp_path: Path) -> None:
    base = tiny_latent_base(kind, classes=0, channels=3)
    base.save(tmp_path)
    stock = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(stock).__name__ == "LDMPipeline"
    stock.set_progress_bar_config(disable=True)
    stock.scheduler = DDIMScheduler.from_config(
        stock.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    images = stock(
        batch_size=1, num_inference_steps=4, output_type="np", generator=_seeded(), return_dict=False
    )[0]
    family = family_of(load_base(tmp_path))
    noise = torch.randn((1, *family.shape), generator=_seeded())
    ours = _sampled(family, noise)
    assert np.abs(ours[0].astype(int) - (images[0] * 255).round().astype(int)).max() <= 1


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def _sampled(family: Any, noise: torch.Tensor) -> np.ndarray:
    """One image of our sampler from this noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dp_diffusers.diffusion.generation._initial_noise", lambda *_: noise)
        (images,) = sample(family, None, 1, Sampling(steps=4))
    return images


def test_latents_are_not_clipped_while_sampling() -> None:
    """What lies in [-1, 1] is an image; a latent of 3 is as good as any."""
    assert not family_of(tiny_latent_base()).clips


def test_the_autoencoder_of_the_folder_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    first = tiny_latent_base()
    first.save(tmp_path / "a")
    with torch.no_grad():
        first.parts["vqvae"].decoder.conv_out.bias += 1
    first.save(tmp_path / "b")
    assert isinstance(load_base(tmp_path / "a").parts["vqvae"], AutoencoderKL)
    assert load_base(tmp_path / "a").sha256 != load_base(tmp_path / "b").sha256
