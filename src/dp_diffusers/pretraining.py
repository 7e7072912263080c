"""Public pre-training: a class-conditional diffusion model from public images, saved as a diffusers folder.

Guarantee: nothing private is read here; the same recipe gives the same model on the same machine, resumed or
not. May import torch and diffusers, never the engine or the accountant. Training is that of Ho et al. (2020)
with the cosine noise schedule of Nichol & Dhariwal (2021), label dropout for guidance, and an average of the
weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel

from dp_diffusers import checkpoint
from dp_diffusers.averaging import Average
from dp_diffusers.data.public_images import PublicImages, load_public
from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.generation import Sampling, sample
from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.diffusion.patch import Patch
from dp_diffusers.diffusion.pixel import PixelFamily
from dp_diffusers.errors import ModelError, RunFolderError
from dp_diffusers.pictures import save_grid
from dp_diffusers.recipe import ModelSettings, PretrainRecipe, PretrainTraining
from dp_diffusers.run_folder import make_folder

Progress = Callable[..., None]
STATE = "pretraining.pt"
RECORD = "pretraining.json"


def pretrain(recipe: PretrainRecipe, out: Path, progress: Progress) -> Path:
    """Runs a pre-training recipe; resumes an interrupted one; returns the diffusers folder.

    Raises `RunFolderError` when `out` holds the work of another recipe, `DataError` for unusable images.
    """
    settings = recipe.model_dump(mode="json", exclude={"runtime"})
    if _finished(out, settings):
        progress(message=f"{out} is already trained with this recipe")
        return out
    make_folder(out)
    if recipe.runtime.threads:
        torch.set_num_threads(recipe.runtime.threads)
    progress(message="preparing public images")
    images = load_public(
        [source.model_dump() for source in recipe.data],
        recipe.model.size,
        recipe.model.channels,
        recipe.training.seed,
    )
    base = new_base(recipe.model, images.class_names, seed=recipe.training.seed)
    _train(base, images, recipe.training, out, settings, progress)
    _write(base, out, settings, len(images.images))
    progress(message=f"saved {out}")
    return out


def new_base(model: ModelSettings, class_names: tuple[str, ...], *, seed: int) -> Base:
    """A freshly initialised base. Raises `ModelError` when sizes do not fit each other."""
    if model.size % (model.patch * 2 ** (len(model.widths) - 1)):
        raise ModelError(
            f"size {model.size} cannot be halved {len(model.widths) - 1} times on patches of {model.patch}",
            hint="fewer widths, or a smaller patch",
        )
    torch.manual_seed(seed)
    kinds = [("AttnDownBlock2D" if on else "DownBlock2D") for on in model.attention]
    unet = UNet2DModel(
        sample_size=model.size // model.patch,
        in_channels=model.channels * model.patch**2,
        out_channels=model.channels * model.patch**2,
        block_out_channels=tuple(model.widths),
        layers_per_block=model.layers,
        down_block_types=tuple(kinds),
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(kinds)),
        norm_num_groups=model.norm_groups,
        attention_head_dim=model.attention_head_dim,
        num_class_embeds=len(class_names) + 1 if class_names else None,
    )
    scheduler = DDPMScheduler(
        num_train_timesteps=model.train_steps,
        beta_schedule=model.schedule,
        prediction_type=model.prediction,
    )
    return Base(
        network=unet, scheduler=scheduler, patch=Patch(size=model.patch), class_names=class_names or None
    )


def _train(
    base: Base, images: PublicImages, training: PretrainTraining, out: Path, settings: Any, progress: Progress
) -> None:
    family = PixelFamily(base, timesteps=training.timesteps, label_dropout=training.label_dropout)
    network = base.network.train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=training.learning_rate, weight_decay=0.01, fused=True
    )
    average = Average(network.parameters(), training.ema)
    start = _resume(out, settings, network, optimizer, average)

    def state() -> dict[str, Any]:
        return {
            "settings": json.dumps(settings, sort_keys=True),
            "step": step + 1,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.state_dict(),
        }

    saver = checkpoint.Saver(
        path=out / STATE, state=state, seconds=training.save_every_seconds, every_step_below=0
    )
    for step in range(start, training.steps):
        began = time.monotonic()
        loss = _loss(family, images, training, step)
        optimizer.param_groups[0]["lr"] = training.learning_rate * _cosine(step, training)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update()
        saver.maybe_save()
        progress(step=step + 1, steps=training.steps, seconds=time.monotonic() - began, loss=loss.detach())
    average.copy_to()


def _loss(family: PixelFamily, images: PublicImages, training: PretrainTraining, step: int) -> torch.Tensor:
    """The mean loss of a step: batch and draws are a function of (seed, step) alone."""
    rng = np.random.default_rng([training.seed, step])
    chosen = images.choose(rng, training.batch_size)
    draws = _draws(family, rng, len(chosen), training.label_dropout)
    clean = family.encode(images.images[chosen])
    labels = torch.from_numpy(images.labels[chosen]) if family.classes else None
    return family.row_losses(clean, labels, draws).mean()


def _draws(family: PixelFamily, rng: np.random.Generator, count: int, dropout: float) -> Draws:
    """Public draws for `count` rows: timesteps stratified over the batch, which lowers their variance."""
    levels = family.objective.levels((rng.permutation(count) + rng.random(count)) / count)
    return Draws(
        timesteps=torch.from_numpy(levels),
        noise=torch.from_numpy(rng.standard_normal((count, *family.shape), dtype=np.float32)),
        drop_label=torch.from_numpy(rng.random(count) < dropout),
    )


def _cosine(step: int, training: PretrainTraining) -> float:
    if step < training.warmup_steps:
        return (step + 1) / (training.warmup_steps + 1)
    done = (step - training.warmup_steps) / max(training.steps - training.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * done))


def _resume(out: Path, settings: Any, network: Any, optimizer: Any, average: Average) -> int:
    state = checkpoint.load(out / STATE)
    if state is None:
        return 0
    if state["settings"] != json.dumps(settings, sort_keys=True):
        raise RunFolderError(
            f"{out} holds the work of another recipe", hint="give another --out, or delete it"
        )
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    average.load_state_dict(state["average"])
    return int(state["step"])


def _finished(out: Path, settings: Any) -> bool:
    record = out / RECORD
    if not record.exists():
        return False
    try:
        earlier = json.loads(record.read_text())["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{record} is damaged", hint="give another --out, or delete the folder"
        ) from error
    if earlier != settings:
        raise RunFolderError(
            f"{out} holds the model of another recipe", hint="give another --out, or delete it"
        )
    return True


def _write(base: Base, out: Path, settings: Any, count: int) -> None:
    base.network.eval()
    base.save(out)
    family = PixelFamily(base)
    classes = min(base.classes, 16)
    labels = np.repeat(np.arange(classes), 10) if classes else None
    pictures = np.concatenate(list(sample(family, labels, 10 * max(classes, 1), Sampling())))
    save_grid(pictures, out / "samples.png", columns=10)
    (out / RECORD).write_text(json.dumps({"recipe": settings, "public_images": count}, indent=2) + "\n")
    (out / STATE).unlink(missing_ok=True)
