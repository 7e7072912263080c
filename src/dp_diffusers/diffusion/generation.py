"""Sampling from a model: exact numbers per label, and one random stream for each image.

Guarantees:
- image i is a function of (model, seed, i, its label): neither batch size nor resuming changes it (up to the
  last bits of the arithmetic);
- every label gets exactly the number of images asked for;
- values that are not finite become no image.
May import torch and diffusers, never the engine: a generator's seed is public, what it makes is
post-processing.
Samplers: DDIM (Song et al. 2021), which is Euler's method for flow matching, and DPM-Solver++ (Lu et al.
2022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.objective import FLOW
from dp_diffusers.diffusion.schedules import flow_schedule, is_flow, trained_with
from dp_diffusers.errors import DPDiffusersError, ModelError, ParameterError, positive, unknown_name


def _ddim(given: Any, *, clips: bool) -> Any:
    if is_flow(given):  # on a straight path DDIM's step is Euler's
        euler = flow_schedule(given)
        euler.register_to_config(stochastic_sampling=False)  # a seed means one image
        return euler
    return DDIMScheduler.from_config(
        given.config,
        timestep_spacing="trailing",
        clip_sample=clips,
        clip_sample_range=1.0,
        set_alpha_to_one=True,
        **trained_with(given),
    )


def _dpm_solver(given: Any, *, clips: bool) -> Any:
    del clips
    options: dict[str, Any] = {}
    if is_flow(given):
        shift = flow_schedule(given).config.shift
        options = {"prediction_type": FLOW, "use_flow_sigmas": True, "flow_shift": shift}
        options |= dict.fromkeys(_OTHER_LEVELS, False)
    else:
        options = trained_with(given)
    return DPMSolverMultistepScheduler.from_config(
        given.config,
        algorithm_type="dpmsolver++",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
        variance_type=None,  # what a family predicts has no variance beside it
        **options,
    )


_OTHER_LEVELS: Final = (  # the solver would take these before those of flow matching, from a table of betas
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
)
TRIED = 2  # steps: a solver of second order looks back at the first
SAMPLERS: dict[str, Callable[..., Any]] = {"ddim": _ddim, "dpmsolver++": _dpm_solver}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are drawn.

    Args:
        sampler: `ddim` or `dpmsolver++`.
        steps: network evaluations per image.
        guidance: classifier-free guidance scale; 1 is none.
        seed: public; decides every image.
        batch: images per forward pass at most; changes speed and memory only.
        whole_batches: fill up the last batch, so that the network sees one shape; costs time only.
    """

    sampler: str = "ddim"
    steps: int = 25
    guidance: float = 1.0
    seed: int = 0
    batch: int = 250
    whole_batches: bool = False

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise unknown_name("sampler", self.sampler, SAMPLERS)
        positive(steps=self.steps, batch=self.batch)
        if not self.guidance >= 0:
            raise ParameterError(f"expected guidance >= 0, got {self.guidance}")


def balanced_labels(count: int, classes: int) -> np.ndarray | None:
    """int64 `[count]`: as many of each label as divides, the first ones one more; None without classes."""
    return np.arange(count, dtype=np.int64) % classes if classes else None


def proportional_labels(count: int, proportions: Sequence[float]) -> np.ndarray:
    """int64 `[count]`: each label's part of the images by largest remainder, spread evenly over them.

    proportions: one number >= 0 per label, of sum 1. Of equal remainders the smaller label comes first.
    """
    exact = np.asarray(proportions, np.float64) * count
    numbers = np.floor(exact).astype(np.int64)
    missing = count - int(numbers.sum())
    numbers[np.argsort(numbers - exact, kind="stable")[:missing]] += 1
    labels = np.repeat(np.arange(len(numbers)), numbers)
    places = np.concatenate([(np.arange(number) + 0.5) / number for number in numbers if number])
    return labels[np.argsort(places, kind="stable")].astype(np.int64)


def images_of_a_part(family: Family, sampling: Sampling) -> int:
    """How many images are drawn at once."""
    return min(sampling.batch, family.images_at_once)


def sample(
    family: Family, labels: np.ndarray | None, count: int, sampling: Sampling, *, start: int = 0
) -> Iterator[np.ndarray]:
    """Yields uint8 `[n, H, W, C]` batches of images `start` to `count - 1`.

    Raises `ParameterError` when guidance is asked of a model without a null class, `ModelError` where what is
    drawn is not finite.
    """
    _require_null_class(family, sampling)
    network = family.network
    training = network.training
    network.eval()
    try:
        batch = images_of_a_part(family, sampling)
        for first in range(start, count, batch):
            indices = range(first, min(first + batch, count))
            chosen = None if labels is None else torch.from_numpy(labels[first : first + len(indices)])
            noise = _initial_noise(family, sampling.seed, indices)
            if sampling.whole_batches:
                noise, chosen = _filled(noise, batch), None if chosen is None else _filled(chosen, batch)
            drawn = _denoise(family, chosen, noise, sampling)[: len(indices)]
            yield family.decode(finite(drawn, sampling))
    finally:
        network.train(training)


def require_sampler(family: Family, sampling: Sampling) -> None:
    """Tries the first steps of one image, so that a sampler that cannot draw from the model is found early.

    Raises `ModelError` where it fails or gives values that are not finite, `ParameterError` as `sample` does.
    """
    _require_null_class(family, sampling)
    network = family.network
    training = network.training
    network.eval()
    labels = torch.zeros(1, dtype=torch.int64) if family.classes else None
    try:
        noise = _initial_noise(family, sampling.seed, range(1))
        finite(_denoise(family, labels, noise, sampling, most=TRIED), sampling)
    except (DPDiffusersError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # schedulers refuse by many kinds; each means that no image will be drawn
        raise ModelError(
            f"the sampler {sampling.sampler} cannot draw {sampling.steps} steps from this base: "
            f"{str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__}",
            hint="another generation.sampler or generation.steps",
        ) from error
    finally:
        network.train(training)


def finite(drawn: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """What was drawn, if all of it is finite: as pixels, anything else would be black.

    Raises `ModelError`; the model may be paid for, and what is tried first is free.
    """
    if not drawn.isfinite().all():
        raise ModelError(
            f"the sampler {sampling.sampler} draws values that are not finite from this model",
            hint="try another generation.sampler, generation.guidance 1.0 or generation.dtype float32, which "
            "costs nothing; if none of them helps, the weights have grown too large: training.learning_rate",
        )
    return drawn


def _require_null_class(family: Family, sampling: Sampling) -> None:
    if sampling.guidance != 1.0 and family.null_label is None:
        raise ParameterError(
            "guidance needs a model with a null class", hint="set generation.guidance to 1.0"
        )


@torch.no_grad()
def _denoise(
    family: Family,
    labels: torch.Tensor | None,
    noise: torch.Tensor,
    sampling: Sampling,
    *,
    most: int | None = None,
) -> torch.Tensor:
    """`[N, c, h, w]`, encoded images. most: steps to do of those that the sampler has, None for all."""
    device = next(family.network.parameters()).device
    scheduler = _scheduler(family, sampling)
    images: torch.Tensor = noise.to(device) * getattr(scheduler, "init_noise_sigma", 1.0)
    labels = None if labels is None else labels.to(device)
    for timestep in scheduler.timesteps[:most]:
        seen, times = _model_input(scheduler, images, timestep), timestep.to(device).expand(len(images))
        output = family.guided(seen, times, labels, sampling.guidance)
        images = scheduler.step(output.to(images.dtype), timestep, images).prev_sample
    return images


def _scheduler(family: Family, sampling: Sampling) -> Any:
    scheduler = SAMPLERS[sampling.sampler](family.base.scheduler, clips=family.clips)
    options = dict(family.sampler_options(sampling.steps)) if is_flow(family.base.scheduler) else {}
    if "mu" in options and not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler = type(scheduler).from_config(scheduler.config, flow_shift=float(np.exp(options["mu"])))
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        options = {}
    scheduler.set_timesteps(sampling.steps, **options)
    return scheduler


def _model_input(scheduler: Any, images: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    scale = getattr(scheduler, "scale_model_input", None)
    return images if scale is None else scale(images, timestep)


def _filled(rows: torch.Tensor, count: int) -> torch.Tensor:
    """`[count, ...]`: the rows, and the first of them again in the place of those that are missing."""
    return torch.cat([rows, rows[:1].expand(count - len(rows), *rows.shape[1:])])


def _initial_noise(family: Family, seed: int, indices: range) -> torch.Tensor:
    """On the CPU, whatever the network's device: a seed means the same images everywhere."""
    rows = [torch.randn(family.shape, generator=_generator(seed, index), device="cpu") for index in indices]
    return torch.stack(rows)


def _generator(seed: int, index: int) -> torch.Generator:
    digest = hashlib.sha256(f"image/{seed}/{index}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "little"))
