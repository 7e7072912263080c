"""Images drawn here are those that the stock pipeline draws from the same noise with the same sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.dit import pipeline_dit

from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.generation import Sampling, _denoise, _scheduler
from family_support import PIPELINES, opened, pipeline_base, stir

STEPS = 4
CASES: list[tuple[str, dict[str, Any]]] = [
    ("stable_diffusion", {"prediction": "epsilon"}),
    ("stable_diffusion", {"prediction": "v_prediction"}),
    ("stable_diffusion_xl", {}),
    ("dit", {}),
    ("stable_diffusion_3", {}),
    ("flux", {"distilled": False}),
    ("flux", {"distilled": True}),
    ("pixart", {"kind": "alpha"}),
    ("pixart", {"kind": "sigma"}),
    ("sana", {}),
]
GUIDED = [case for case in CASES if case[1] != {"distilled": False}]  # which has no guidance of its own
ONLY_PROMPTS = {
    "pixart": {"use_resolution_binning": False, "clean_caption": False},
    "sana": {"use_resolution_binning": False, "clean_caption": False, "complex_human_instruction": None},
}


def _ours(name: str, options: dict[str, Any], guidance: float, sampler: str) -> tuple[torch.Tensor, Any, Any]:
    """Decoded values before rounding, the family, and the sampler."""
    family = opened(_stirred(name, options))
    if family.takes_text:
        family.set_prompts(["a cat", "a dog"])
    family.network.eval()
    sampling = Sampling(steps=STEPS, guidance=guidance, sampler=sampler)
    latents = _denoise(family, torch.tensor([0, 1]), _noise(family), sampling)
    return latents, family, _scheduler(family, sampling)


def _stirred(name: str, options: dict[str, Any]) -> Base:
    base = pipeline_base(name, **options)
    stir(base.network)
    return base


def _noise(family: Any) -> torch.Tensor:
    return torch.randn(2, *family.shape, generator=torch.Generator().manual_seed(3))


def _stock(
    name: str, family: Any, scheduler: Any, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> torch.Tensor:
    """Latents of the stock pipeline's own call."""
    pipeline = family.base.whole()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scheduler
    noise = _noise(family)
    common: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": guidance}
    if name == "dit":  # takes no latents, and decodes by itself
        monkeypatch.setattr(pipeline_dit, "randn_tensor", lambda **_: noise)
        pixels = pipeline([0, 1], output_type="np", **common).images
        return torch.from_numpy(np.asarray(pixels))
    size = {"height": family.size, "width": family.size}
    if name == "flux":
        noise = FluxPipeline._pack_latents(noise, *noise.shape)
    found = pipeline(
        ["a cat", "a dog"],
        latents=noise,
        output_type="latent",
        **size,
        **common,
        **ONLY_PROMPTS.get(name, {}),
    ).images
    if name == "flux":
        found = FluxPipeline._unpack_latents(found, family.shape[1], family.shape[2], 1)
    return torch.as_tensor(found)


def _compared(name: str, latents: torch.Tensor, family: Any) -> torch.Tensor:
    """Ours in the form of the stock pipeline's answer: latents, or for DiT values of pixels in [0, 1]."""
    if name != "dit":
        return latents
    vae = family.latents.vae
    with torch.no_grad():
        pixels = vae.decode(latents / family.latents.scale).sample
    return torch.as_tensor((pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1))


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_without_guidance(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    latents, family, scheduler = _ours(name, options, 1.0, "ddim")
    stock = _stock(name, family, scheduler, 1.0, monkeypatch)
    assert float(latents.std()) > 0.1
    assert torch.allclose(_compared(name, latents, family), stock, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), GUIDED, ids=str)
def test_with_guidance(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "dit":
        pytest.skip("the stock pipeline takes 1000 for the null class, whatever the number of classes")
    latents, family, scheduler = _ours(name, options, 2.5, "ddim")
    assert torch.allclose(latents, _stock(name, family, scheduler, 2.5, monkeypatch), atol=1e-4)
    plain, _, _ = _ours(name, options, 1.0, "ddim")
    assert not torch.allclose(latents, plain, atol=1e-3)


@pytest.mark.parametrize("name", sorted(set(PIPELINES) - {"dit", "flux"}))
def test_with_the_other_sampler(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, family, scheduler = _ours(name, {}, 1.0, "dpmsolver++")
    assert torch.allclose(latents, _stock(name, family, scheduler, 1.0, monkeypatch), atol=1e-4)
