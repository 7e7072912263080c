"""Public pre-training: an autoencoder or none, then a diffusion model, saved as a diffusers folder.

Guarantee: nothing private is read here; the same recipe gives the same model on the same machine, stopped and
resumed in any stage or not. May import torch and diffusers, never the engine or the accountant. Latent
diffusion after Rombach et al. (2022), with the noise schedule of Nichol & Dhariwal (2021).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dp_diffusers.data.public_images import PublicImages, load_public
from dp_diffusers.diffusion.base import Base, fingerprint
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.diffusion.generation import Sampling, sample
from dp_diffusers.diffusion.latent import AUTOENCODER
from dp_diffusers.diffusion.latents import Latents
from dp_diffusers.errors import RunFolderError
from dp_diffusers.evaluation.feature_network import FeatureNetwork
from dp_diffusers.loop.augmentation import augment, variants
from dp_diffusers.loop.encoded_cache import EncodedCache
from dp_diffusers.loop.row_store import forget
from dp_diffusers.pictures import save_grid
from dp_diffusers.pretraining.autoencoder import AutoencoderLoss, fill_codebook, set_scale
from dp_diffusers.pretraining.diffusion import DiffusionLoss, Encoded
from dp_diffusers.pretraining.features import FeaturesLoss, new_features
from dp_diffusers.pretraining.networks import new_autoencoder, new_base
from dp_diffusers.pretraining.stage import Progress, Stage
from dp_diffusers.recipe import FeaturesSettings, PretrainRecipe
from dp_diffusers.recipe.new_keys import pretraining_with_new_keys
from dp_diffusers.run.folder import make_folder
from dp_diffusers.runtime.devices import device_of

__all__ = ["new_base", "pretrain"]

AUTOENCODER_STATE = "autoencoder.pt"
STATE = "pretraining.pt"
ENCODED = "encoded"
RECORD = "pretraining.json"
SHOWN = 40  # images in a picture of reconstructions


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
    device = device_of(recipe.runtime.device)
    progress(message="preparing public images")
    images = load_public(
        [source.model_dump() for source in recipe.data],
        *recipe.shape,
        recipe.training.seed,
    )
    for note in dict.fromkeys(images.notes):
        progress(message=note)
    work = _Work(recipe=recipe, images=images, out=out, device=device, progress=progress)
    if recipe.features is None:
        _write(work.diffusion_model(work.autoencoder()), out)
    else:
        work.feature_network(recipe.features).to("cpu").save(out)
    record = {"recipe": settings, "public_images": len(images.images)}
    _end(out, record)
    progress(message=f"saved {out}")
    return out


class _Work:
    """The stages of one recipe in one folder."""

    def __init__(
        self,
        *,
        recipe: PretrainRecipe,
        images: PublicImages,
        out: Path,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.recipe = recipe
        self.images = images
        self.out = out
        self.device = device
        self.progress = progress

    def autoencoder(self) -> nn.Module | None:
        """The first stage; done already, its last state gives the same autoencoder again."""
        settings, training = self.recipe.autoencoder, self.recipe.training
        if settings is None:
            return None
        self.progress(message="first stage: the autoencoder")
        vae = new_autoencoder(settings, self.recipe.model, seed=training.seed).to(self.device)
        loss = AutoencoderLoss(
            vae=vae, images=self.images, settings=settings, seed=training.seed, flip=training.flip
        )
        self._stage(
            vae, loss, settings, AUTOENCODER_STATE, before=lambda step: fill_codebook(loss, step)
        ).run()
        set_scale(vae, self.images, seed=training.seed)
        _draw_reconstructions(vae, self.images, self.out / "reconstructions.png", seed=training.seed)
        self.progress(message="second stage: the diffusion model on its latents")
        return vae

    def diffusion_model(self, autoencoder: nn.Module | None) -> Base:
        """The second stage, or the only one."""
        training = self.recipe.training
        base = new_base(
            self.recipe.model, self.images.class_names, seed=training.seed, autoencoder=autoencoder
        )
        base.network.to(self.device)
        family = family_of(base, timesteps=training.timesteps, label_dropout=training.label_dropout)
        loss = DiffusionLoss(
            family=family, images=self.images, encoded=self._encoded(family), training=training
        )
        self._stage(base.network, loss, training, STATE).run()
        return base

    def feature_network(self, settings: FeaturesSettings) -> FeatureNetwork:
        """The only stage of a recipe for features."""
        training = self.recipe.training
        network = new_features(settings, self.images, seed=training.seed).to(self.device)
        loss = FeaturesLoss(network=network, images=self.images, training=training)
        self._stage(network, loss, training, STATE).run()
        return network

    def _stage(self, module: nn.Module, loss: Any, settings: Any, state: str, **more: Any) -> Stage:
        document = self.recipe.model_dump(mode="json", exclude={"runtime"})
        return Stage(
            module=module,
            loss=loss,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            ema=settings.ema,
            path=self.out / state,
            settings=document,
            save_every_seconds=self.recipe.training.save_every_seconds,
            progress=self.progress,
            **more,
        )

    def _encoded(self, family: Family) -> Encoded:
        """What the network sees of the public images: latents are encoded once and kept."""
        shown = variants(("flip",) if self.recipe.training.flip else (), self.recipe.model.size)
        pixels = self.images.images
        if not family.encodes_once:
            return lambda image, variant: family.encode(augment(pixels[image], variant, shown))
        cache = EncodedCache(
            folder=self.out / ENCODED,
            key=fingerprint(replace(family.base, network=family.base.parts[AUTOENCODER], parts={})),
            encode=family.encode,
            images=pixels,
            variants=shown,
        )
        cache.fill(lambda text: self.progress(message=text))
        return cache.take


def _draw_reconstructions(vae: nn.Module, images: PublicImages, path: Path, *, seed: int) -> None:
    """Rows of public images, each with what the autoencoder makes of them below."""
    latents = Latents(vae=vae)
    rng = np.random.default_rng([seed, 2])
    shown = images.images[images.choose(rng, SHOWN)]
    again = latents.decode(latents.encode(shown))
    rows = [part[start : start + 10] for start in range(0, SHOWN, 10) for part in (shown, again)]
    save_grid(np.concatenate(rows), path, columns=10)


def _finished(out: Path, settings: Any) -> bool:
    record = out / RECORD
    if not record.exists():
        return False
    try:
        earlier = pretraining_with_new_keys(json.loads(record.read_text())["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{record} is damaged", hint="give another --out, or delete the folder"
        ) from error
    if earlier != settings:
        raise RunFolderError(
            f"{out} holds the model of another recipe", hint="give another --out, or delete it"
        )
    return True


def _write(base: Base, out: Path) -> None:
    base.network.eval()
    family = family_of(base)
    classes = min(base.classes, 16)
    labels = np.repeat(np.arange(classes), 10) if classes else None
    count_shown = 10 * classes if classes else SHOWN
    steps = min(Sampling.steps, family.objective.level_count)
    pictures = np.concatenate(list(sample(family, labels, count_shown, Sampling(steps=steps))))
    for module in (base.network, *base.parts.values()):
        module.to("cpu")
    base.save(out)
    save_grid(pictures, out / "samples.png", columns=10)


def _end(out: Path, record: dict[str, Any]) -> None:
    """What is written last, and what nobody needs any more."""
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    for state in (STATE, AUTOENCODER_STATE):
        (out / state).unlink(missing_ok=True)
    forget(out / ENCODED)
