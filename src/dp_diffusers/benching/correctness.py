"""Is an engine's gradient right: its clipped sum beside that of batches of one, on a tiny model.

Guarantees that the oracle uses nothing of any engine: plain autograd, one unit at a time. May import torch.
The clip norm is the median of the units' norms, so that about half of the units are clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from dp_diffusers.benching.case import Case
from dp_diffusers.benching.engines import Engine, engine, unwarned
from dp_diffusers.benching.work import Work, work_of
from dp_diffusers.diffusion.objective import Draws

UNITS: Final = 4
_SILENT: Final = 0.01  # of the largest entry of all tensors: below it, a tensor's own scale is rounding


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """Draws, and what the sum over units of clipped gradients is for them; `whole` is without a clip."""

    draws: Draws
    clip_norm: float
    clipped: list[Tensor]
    whole: list[Tensor]


def tiny(case: Case) -> Case:
    """The case at which gradients are compared: few units, rows of a unit where the case has them."""
    return replace(case, units=UNITS, noise_draws=min(case.noise_draws, 3), dtype="float32")


def oracle_of(case: Case, *, device: torch.device) -> Oracle:
    """The oracle of a tiny case; the same draws for every engine."""
    work = work_of(case, device=device, tiny=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        draws = work.draws()
    gradients = [_of_unit(work, draws, unit) for unit in range(case.units)]
    norms = torch.stack([torch.cat([g.flatten() for g in unit]).norm() for unit in gradients])
    clip_norm = float(norms.median())
    factors = [min(1.0, clip_norm / norm) for norm in norms.tolist()]
    clipped = [sum(f * g for f, g in zip(factors, tensors)) for tensors in zip(*gradients)]
    whole = [sum(tensors) for tensors in zip(*gradients)]
    return Oracle(draws=draws, clip_norm=clip_norm, clipped=clipped, whole=whole)


def _of_unit(work: Work, draws: Draws, unit: int) -> list[Tensor]:
    """The mean gradient of the rows of one unit, each in a batch of one, in float64."""
    slots = work.noise_draws
    total = [torch.zeros_like(p, dtype=torch.float64) for p in work.parameters]
    for row in range(unit * slots, (unit + 1) * slots):
        one = Draws(
            timesteps=draws.timesteps[row : row + 1],
            noise=draws.noise[row : row + 1],
            drop_label=draws.drop_label[row : row + 1],
        )
        loss = work.losses_of(work.clean[unit : unit + 1], work.labels[unit : unit + 1], one).sum()
        for so_far, gradient in zip(total, torch.autograd.grad(loss / slots, work.parameters)):
            so_far += gradient
    return total


def gradient_error(name: str, case: Case, oracle: Oracle, *, device: torch.device) -> float:
    """The largest error of any entry of the engine's sum, relative to the largest entry of its tensor.

    Raises what the engine raises.
    """
    return error_of(engine(name, work_of(case, device=device, tiny=True)), oracle)


def error_of(tried: Engine, oracle: Oracle) -> float:
    """The error of an engine that is built already."""
    with unwarned():
        found = tried.clipped_sum(oracle.draws, oracle.clip_norm)
    return relative_error(found, oracle.clipped if tried.clips else oracle.whole)


def relative_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Of the tensor that is worst."""
    floor = _SILENT * max(float(tensor.abs().max()) for tensor in wanted)
    pairs = zip(found, wanted, strict=True)
    return max(float((a.detach() - b).abs().max()) / max(float(b.abs().max()), floor) for a, b in pairs)
