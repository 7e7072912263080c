"""What a scheduler's configuration says about the noise that a model was trained with.

Guarantee: a schedule is read as one of two kinds, flow matching or betas, only where it is that; every other
scheduler is refused by name, never read as the default betas. May import torch and diffusers, never the
engine. Betas: Ho et al. (2020); flow matching: Lipman et al. (2023). Why some are refused: Karras et al.
(2022) and consistency models tell the network a noise level and scale what it sees and gives.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from dp_diffusers.errors import ModelError

ACCEPTED: Final = (
    "a scheduler of flow matching, or one of a beta schedule and whole timesteps, as DDPMScheduler has it"
)
_BETAS: Final = frozenset({"beta_schedule", "trained_betas"})
_TRAINED_WITH: Final = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
)
_OF_CONSISTENCY_MODELS: Final = ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler")
_TOLERANCE: Final = 1e-6  # some samplers keep 2**-24 of signal where the schedule ends with none


def is_flow(scheduler: Any) -> bool:
    """Whether the noise schedule is that of flow matching, whichever sampler it belongs to."""
    config = scheduler.config
    told = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(told) or _matches_flow(scheduler)


def flow_schedule(scheduler: Any) -> FlowMatchEulerDiscreteScheduler:
    """The schedule of flow matching that a sampler was configured with, as Euler's.

    Raises `ModelError` where flow matching is half of what the sampler does.
    """
    _require_plain(scheduler)
    config = dict(scheduler.config)
    if not _matches_flow(scheduler) and not (_has_betas(scheduler) and _is_flow_throughout(config)):
        raise _refusal(scheduler, "is of flow matching in part only")
    known = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
    kept = {name: value for name, value in config.items() if name in known}
    shift = config.get("shift", config.get("flow_shift", 1.0))
    return FlowMatchEulerDiscreteScheduler.from_config({**kept, "shift": shift})


def beta_schedule(scheduler: Any) -> DDPMScheduler:
    """The schedule of betas that a sampler was configured with, as DDPM's.

    Raises `ModelError` for a sampler without betas, and for one that makes other noise levels of them.
    """
    _require_plain(scheduler)
    if not _has_betas(scheduler):
        raise _refusal(scheduler, "has no beta schedule")
    try:
        plain = DDPMScheduler.from_config(_told(scheduler))
    except NotImplementedError as error:
        raise _refusal(scheduler, f"has betas of its own: {scheduler.config.beta_schedule}") from error
    own = getattr(scheduler, "alphas_cumprod", None)
    if own is None or not _alike(torch.as_tensor(own), plain.alphas_cumprod):
        raise _refusal(scheduler, "makes other noise levels of its betas")
    return plain


def trained_with(scheduler: Any) -> dict[str, Any]:
    """What every sampler of a beta schedule is to be made with, by its name in a configuration."""
    config = beta_schedule(scheduler).config
    return {name: config[name] for name in _TRAINED_WITH}


def plain_schedule(scheduler: Any) -> Any:
    """The schedule alone, whichever sampler it belongs to. Raises `ModelError` for one of another kind."""
    return flow_schedule(scheduler) if is_flow(scheduler) else beta_schedule(scheduler)


def _matches_flow(scheduler: Any) -> bool:
    return "FlowMatch" in type(scheduler).__name__


def _has_betas(scheduler: Any) -> bool:
    """Whether the class takes betas: a configuration may hold those of another class."""
    return bool(_BETAS & set(inspect.signature(type(scheduler).__init__).parameters))


def _is_flow_throughout(config: dict[str, Any]) -> bool:
    return bool(config.get("use_flow_sigmas")) and config.get("prediction_type") == "flow_prediction"


def _told(scheduler: Any) -> dict[str, Any]:
    """The configuration with all its values: `from_config` takes its own default for another class's."""
    return {name: value for name, value in scheduler.config.items() if name != "_use_default_values"}


def _require_plain(scheduler: Any) -> None:
    """Raises `ModelError` for a sampler of consistency models, where the network is told a noise level or
    scaled by one, and where levels are inverted: configurations keep it when another sampler is made of them.
    """
    if type(scheduler).__name__ in _OF_CONSISTENCY_MODELS:
        raise _refusal(scheduler, "draws from consistency models, which are not trained like this")
    if scheduler.config.get("timestep_type") == "continuous":
        raise _refusal(scheduler, "has timestep_type continuous")
    if scheduler.config.get("sigma_data") is not None:
        raise _refusal(scheduler, "scales what the network sees by sigma_data")
    if scheduler.config.get("invert_sigmas"):
        raise _refusal(scheduler, "has invert_sigmas: its levels go up where noise is taken off")


def _alike(own: torch.Tensor, plain: torch.Tensor) -> bool:
    return own.shape == plain.shape and torch.allclose(own.float(), plain.float(), atol=_TOLERANCE)


def _refusal(scheduler: Any, why: str) -> ModelError:
    return ModelError(
        f"a base with the scheduler {type(scheduler).__name__} cannot be trained: it {why}",
        hint=ACCEPTED,
    )
