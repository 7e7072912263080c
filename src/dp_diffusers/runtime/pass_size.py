"""How many rows a pass may have, found by trying: `runtime.rows_per_pass: auto`.

Guarantees: the answer depends on random tensors, the model, the device and public numbers alone; weights,
gradients, hooks and random numbers are left as they were. May import torch, and the plan and the family that
it is given; no private byte is read, and no ledger touched.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import torch

from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.errors import counted
from dp_diffusers.recipe import RuntimeSettings, TrainingSettings
from dp_diffusers.runtime.compiled_parts import as_compiled
from dp_diffusers.runtime.device_memory import DeviceMemory, give_back, memory_of
from dp_diffusers.runtime.out_of_memory import fits
from dp_diffusers.runtime.pass_curve import Curve, Reading, rows_needed

UNMEASURED: Final = 256
"""Rows of a pass where the memory of the device cannot be measured."""
SHARE: Final = 0.8
"""Of the memory that is free; the rest is for fragments, and for whoever else uses the device."""
KEPT_PER_WEIGHT: Final = 24
"""Bytes that a training holds for each trained weight beside its passes: gradient, optimiser, average."""


@dataclass(frozen=True, kw_only=True)
class PassSize:
    """rows: of a pass, at most. bytes: what the process holds then, seconds: of a row; None if not known."""

    rows: int
    bytes: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        about = "" if self.bytes is None else f", about {self.bytes / 1e9:.1f} GB"
        return f"{counted(self.rows, 'row')} at a time{about}"


def pass_size(
    family: Family,
    plan: Any,
    training: TrainingSettings,
    runtime: RuntimeSettings,
    *,
    memory: DeviceMemory | None = None,
) -> PassSize:
    """The largest pass that fits and is needed; on a CPU, none that is slower a row than a smaller one.

    family: adapted, on its device, rehearsed. memory: that of the device, unless given. Of a number of rows
    that the settings give it finds out as well what they take; it is lower where they do not fit.
    """
    given = runtime.rows_per_pass
    device = next(family.network.parameters()).device
    memory = memory or memory_of(device)
    if memory is None:
        return PassSize(rows=UNMEASURED if given == "auto" else given)
    together = training.noise_draws * training.augmentations
    room = SHARE * (memory.free() - _kept_later(family, plan, device))
    most = rows_needed(plan, training)
    curve = Curve(
        most=most if given == "auto" else min(most, given),
        together=together,
        room=int(room),
        by_time=given == "auto" and device.type == "cpu",
    )
    give_back()
    held = memory.used()
    trial = _Trial(family=family, plan=plan, dtype=runtime.dtype, together=together, memory=memory, held=held)
    chance = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with chance, as_compiled(runtime.compile):
        curve.climb(trial.reading)
    memory.restart()  # what is shown as the peak from here on is that of the training
    best = curve.best()
    return PassSize(rows=best.rows, bytes=held + best.bytes, seconds=best.seconds / best.rows)


def sized(
    runtime: RuntimeSettings, family: Family, plan: Any, training: TrainingSettings, progress: Any
) -> RuntimeSettings:
    """The settings with a number for `auto`, which is told as well; others as they are."""
    if runtime.rows_per_pass != "auto":
        return runtime
    found = pass_size(family, plan, training, runtime)
    progress(message=str(found))
    return runtime.model_copy(update={"rows_per_pass": found.rows})


def _kept_later(family: Family, plan: Any, device: torch.device) -> int:
    """Bytes that are not there yet: what a training keeps for its weights, and images on the CPU's side."""
    trained = sum(p.numel() for p in family.network.parameters() if p.requires_grad)
    images = plan.mechanism.population * family.size**2 * family.channels if device.type == "cpu" else 0
    return int(KEPT_PER_WEIGHT * trained + images)


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """Two passes, as a step has them: the second while the gradients of the first are still open."""

    family: Family
    plan: Any
    dtype: str
    together: int
    memory: DeviceMemory
    held: int  # before any of them: an allocator that gives nothing back does not hide what a pass takes

    def reading(self, rows: int) -> Reading | None:
        """Peak bytes above what was held, and the times of the quicker pass; None where memory ran out."""
        seconds: list[float] = []
        costs: list[float] = []
        box = self.plan.private_gradient(self.family.network, self.plan.fresh_keys())

        def both() -> None:
            clean, labels, draws = random_rows(self.family, rows)
            owner = torch.arange(rows, device=clean.device) // self.together
            weight = torch.full((rows,), 1.0 / self.together, device=clean.device)
            for number in range(2):
                began, spent = _now(clean.device), time.process_time()
                box.accumulate(self.losses(clean, labels, draws), owner + number * rows, weight)
                seconds.append(_now(clean.device) - began)
                costs.append(time.process_time() - spent)

        self.memory.restart()
        if not fits(both, box.start_over):
            return None
        taken = max(0, self.memory.peak() - self.held)
        return Reading(rows=rows, bytes=taken, seconds=min(seconds), cost=min(costs))

    def losses(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> torch.Tensor:
        """`[R]`, in the precision of the run."""
        kind = getattr(torch, self.dtype)
        with torch.autocast(clean.device.type, dtype=kind, enabled=kind is not torch.float32):
            return self.family.row_losses(clean, labels, draws)


def random_rows(family: Family, rows: int) -> tuple[torch.Tensor, torch.Tensor | None, Draws]:
    """Rows of random tensors on the device of the network: encoded images, labels and draws."""
    generator = torch.Generator().manual_seed(rows)
    device = next(family.network.parameters()).device
    draws = Draws(
        timesteps=torch.randint(family.objective.level_count, (rows,), generator=generator),
        noise=torch.randn(rows, *family.shape, generator=generator),
        drop_label=torch.zeros(rows, dtype=torch.bool),
    )
    labels = torch.arange(rows, device=device) % family.classes if family.classes else None
    clean = torch.randn(rows, *family.shape, generator=generator).clamp(-1, 1)
    return clean.to(device), labels, draws.to(device)


def _now(device: torch.device) -> float:
    """Seconds of a clock, once the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
