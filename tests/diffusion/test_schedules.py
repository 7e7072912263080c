"""Which schedulers are read as a schedule, and that what is read is what the scheduler has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from dp_diffusers.diffusion.family import family_of
from dp_diffusers.diffusion.generation import SAMPLERS
from dp_diffusers.diffusion.loading import load_base
from dp_diffusers.diffusion.objective import Objective
from dp_diffusers.diffusion.schedules import ACCEPTED
from dp_diffusers.errors import ModelError
from family_support import pipeline_base
from latent_support import tiny_latent_base

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("CMStochasticIterativeScheduler", {}, "sigma_data"),
    ("EDMEulerScheduler", {}, "sigma_data"),
    ("EDMDPMSolverMultistepScheduler", {}, "sigma_data"),
    ("LCMScheduler", {}, "consistency models"),
    ("TCDScheduler", {}, "consistency models"),
    ("FlowMatchLCMScheduler", {}, "consistency models"),
    ("ScoreSdeVeScheduler", {}, "no beta schedule"),
    ("DDPMWuerstchenScheduler", {}, "no beta schedule"),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type continuous"),
    ("CogVideoXDDIMScheduler", {}, "other noise levels"),
    ("IPNDMScheduler", {}, "other noise levels"),
    ("HeunDiscreteScheduler", {"beta_schedule": "exp"}, "betas of its own: exp"),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "in part only"),
    ("DDIMScheduler", {"prediction_type": "flow_prediction"}, "in part only"),
    ("HeliosScheduler", {}, "in part only"),
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas"),
]
# with defaults of their own, which are not DDPM's
ACCEPTED_BETAS: list[tuple[str, dict[str, Any]]] = [
    ("DDPMScheduler", {"beta_schedule": "sigmoid"}),
    ("DDIMScheduler", {"beta_schedule": "scaled_linear"}),
    ("PNDMScheduler", {}),
    ("EulerDiscreteScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    ("HeunDiscreteScheduler", {}),
    ("UnCLIPScheduler", {}),
    ("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
]


def _scheduler(name: str, options: dict[str, Any]) -> Any:
    return getattr(diffusers, name)(**options)


@pytest.mark.parametrize(("name", "options", "why"), REFUSED, ids=str)
def test_a_scheduler_of_another_kind_is_refused_by_name(name: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=f"scheduler {name} .*{why}") as caught:
        Objective.of(_scheduler(name, options))
    assert caught.value.hint == ACCEPTED


@pytest.mark.parametrize(("name", "options"), ACCEPTED_BETAS, ids=str)
def test_noise_levels_are_those_of_the_scheduler_itself(name: str, options: dict[str, Any]) -> None:
    scheduler = _scheduler(name, options)
    objective = Objective.of(scheduler)
    expected = scheduler.alphas_cumprod.float()
    assert torch.allclose(objective.signal.square(), expected, atol=1e-6)
    if options.get("beta_schedule") != "sigmoid":  # DDIM has none
        drawn_with = SAMPLERS["ddim"](scheduler, clips=False)
        assert torch.allclose(drawn_with.alphas_cumprod, expected, atol=1e-6)


def test_a_sampler_made_of_a_continuous_one_is_refused_too() -> None:
    euler = _scheduler("EulerDiscreteScheduler", {"timestep_type": "continuous"})
    with pytest.raises(ModelError, match=r"scheduler DDIMScheduler .*continuous"):
        Objective.of(diffusers.DDIMScheduler.from_config(euler.config))


@pytest.mark.slow
def test_a_folder_with_such_a_scheduler_is_refused_when_it_is_opened(
    tiny_base: Callable[..., Any], tmp_path: Path
) -> None:
    tiny_base().save(tmp_path)
    diffusers.DDPMPipeline(
        unet=tiny_base().network, scheduler=_scheduler("ScoreSdeVeScheduler", {})
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="scheduler ScoreSdeVeScheduler "):
        load_base(tmp_path)


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("name", ["ConsistencyModelPipeline", "LDMSuperResolutionPipeline"])
def test_a_pipeline_that_calls_the_same_network_otherwise_is_refused_by_name(
    tiny_base: Callable[..., Any], latent: bool, name: str
) -> None:
    base = tiny_latent_base() if latent else tiny_base()
    with pytest.raises(ModelError, match=f"knows UNet2DModel in a {name}$") as caught:
        family_of(replace(base, pipeline=name))
    assert "DDPMPipeline, DDIMPipeline" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["DDPMPipeline", "DDIMPipeline", "PNDMPipeline"])
def test_pixel_pipelines_of_the_same_call_are_known(tiny_base: Callable[..., Any], name: str) -> None:
    assert family_of(replace(tiny_base(), pipeline=name)).size == 8


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_a_unet_of_a_consistency_model_is_refused(name: str) -> None:
    base = pipeline_base(name)
    base.network.register_to_config(time_cond_proj_dim=8)  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"consistency model: it is told guidance \(time_cond_proj_dim 8\)"):
        family_of(base)
