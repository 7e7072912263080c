"""The dry run: before anything is spent, the engine is tried on this very model with random tensors.

Guarantees that the loop may rely on: every trainable tensor has unit gradients equal to those of a batch of
one, and changing one row leaves the losses of the others as they were. May import torch; joins the engine's
check with a model family. No private byte is read. A network below float32 is refused before it, and an
autoencoder that overflows.
"""

from __future__ import annotations

import numpy as np
import torch

from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.latents import IN_FLOAT32
from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.engine.dry_run import Losses, dry_run
from dp_diffusers.errors import ModelError

ROWS = 4


def rehearse(family: Family) -> None:
    """Raises `ModelError` naming the layer that mixes rows or the tensor that the gradient rules miss."""
    dry_run(family.network, random_losses(family), rows=ROWS)


def require_float32(family: Family) -> None:
    """Raises `ModelError` for a network of a coarser number type, before an adapter takes that type over.

    In float16 an update underflows and Adam's epsilon is 0; in both half types kernels for another number of
    rows round by more than the noise's margin covers.
    """
    for name, value in family.network.named_parameters():
        if value.is_floating_point() and value.dtype.itemsize < torch.float32.itemsize:
            kind = str(value.dtype).removeprefix("torch.")
            raise ModelError(
                f"the {family.base.component} of the base is in {kind} ({name}), too coarse to train in",
                hint="open the pipeline with torch_dtype=torch.float32; runtime.dtype: bfloat16 saves memory",
            )


def require_finite_latents(family: Family) -> None:
    """Raises `ModelError` for an autoencoder that overflows on a black, a white or a random image.

    That of a private image is never told: the engine leaves its unit out.
    """
    if not family.encodes_once:
        return
    shape = (family.size, family.size, family.channels)
    noise = np.random.default_rng(0).integers(0, 256, shape)
    images = np.stack([np.zeros(shape), np.full(shape, 255), noise]).astype(np.uint8)
    if not family.encode(images).isfinite().all():
        raise ModelError("the autoencoder gives latents that are not finite", hint=IN_FLOAT32)


def random_losses(family: Family) -> Losses:
    """Losses of random rows by their numbers, 0 to `ROWS` - 1."""
    generator = torch.Generator().manual_seed(0)
    device = next(family.network.parameters()).device
    clean = torch.randn(ROWS, *family.shape, generator=generator).clamp(-1, 1).to(device)
    levels = family.objective.level_count
    draws = Draws(
        timesteps=torch.linspace(levels * 0.2, levels * 0.8, ROWS).long().to(device),
        noise=torch.randn(ROWS, *family.shape, generator=generator).to(device),
        drop_label=torch.zeros(ROWS, dtype=torch.bool, device=device),
    )
    labels = torch.arange(ROWS, device=device) % family.classes if family.classes else None

    def losses(rows: torch.Tensor) -> torch.Tensor:
        chosen = Draws(
            timesteps=draws.timesteps[rows], noise=draws.noise[rows], drop_label=draws.drop_label[rows]
        )
        return family.row_losses(clean[rows], None if labels is None else labels[rows], chosen)

    return losses
