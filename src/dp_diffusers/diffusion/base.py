"""A base model on disk: an ordinary diffusers folder, and the patch transform that may stand in front of it.

Guarantee: what is saved here opens with stock diffusers, and what is opened here is checked first, so that a
missing or damaged folder is one clear line. May import torch and diffusers, never the engine or the
accountant. The layout is that of diffusers' `DDPMPipeline`: `model_index.json`, `unet/`, `scheduler/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import nn

from dp_diffusers.diffusion.patch import Patch
from dp_diffusers.errors import ModelError, ParameterError

CLASSES_FILE = "classes.json"


@dataclass(kw_only=True)
class Base:
    """A public diffusion model: network, noise schedule, patch transform, class names, where it came from."""

    unet: nn.Module
    scheduler: Any
    patch: Patch = field(default_factory=Patch)
    class_names: tuple[str, ...] | None = None
    identity: str = "in-memory"
    sha256: str | None = None
    in_memory: bool = True
    source: str | None = None
    """What opens it again: the full path of its folder, or a hub id."""

    @property
    def channels(self) -> int:
        """Channels of an image, before the patch transform."""
        return int(config_of(self.unet).in_channels) // self.patch.size**2

    @property
    def size(self) -> int:
        """Height and width of an image in pixels, before the patch transform."""
        sample = config_of(self.unet).sample_size
        side = sample if isinstance(sample, int) else sample[0]
        return int(side) * self.patch.size

    @property
    def classes(self) -> int:
        """Number of real classes; 0 for an unconditional model.

        Without names, the last embedding is the null class.
        """
        if not self.embeddings:
            return 0
        return len(self.class_names) if self.class_names else self.embeddings - 1

    @property
    def embeddings(self) -> int:
        """Number of class embeddings; one more than classes when the last is the null class."""
        return int(config_of(self.unet).num_class_embeds or 0)

    def with_classes(self, names: Sequence[str] | None) -> Base:
        """The base of a folder without class names, taken to know exactly the classes that are declared.

        That is so where there is one embedding for each of them; otherwise nothing changes.
        """
        if self.class_names or not names or len(names) != self.embeddings:
            return self
        return replace(self, class_names=tuple(names))

    def save(self, folder: Path) -> None:
        """Writes the diffusers folder with its sidecars."""
        DDPMPipeline(unet=self.unet, scheduler=self.scheduler).save_pretrained(folder)
        self.patch.save(folder)
        if self.class_names is not None:
            (folder / CLASSES_FILE).write_text(json.dumps(list(self.class_names)) + "\n")


def config_of(network: nn.Module) -> Any:
    """The configuration that diffusers keeps with a network."""
    return network.config


def load_base(source: str | Path) -> Base:
    """Opens a diffusers folder or hub id.

    Raises `ModelError` when it is not there, damaged, or of another kind.
    """
    folder = _local_folder(source)
    unet, scheduler = _load_parts(folder)
    _refuse_non_finite(unet, folder)
    is_folder = Path(source).exists()
    base = Base(
        unet=unet,
        scheduler=scheduler,
        patch=Patch.load(folder),
        class_names=_class_names(folder),
        identity=Path(source).name if is_folder else str(source),
        in_memory=False,
        source=str(Path(source).resolve()) if is_folder else str(source),
    )
    return replace(base, sha256=fingerprint(base))


def base_of_pipeline(pipeline: Any) -> Base:
    """A diffusers pipeline as a base; one that came from a folder keeps the folder's sidecars and its path.

    Raises `ParameterError` for what has no `unet` and no `scheduler`.
    """
    if not hasattr(pipeline, "unet") or not hasattr(pipeline, "scheduler"):
        kind = type(pipeline).__name__
        raise ParameterError(f"expected a pipeline with a unet and a scheduler, got {kind}")
    name = getattr(pipeline, "name_or_path", None) or getattr(pipeline, "_name_or_path", None)
    folder = Path(name) if name and (Path(name) / "model_index.json").exists() else None
    base = Base(
        unet=pipeline.unet, scheduler=pipeline.scheduler, identity=str(name or type(pipeline).__name__)
    )
    if folder is not None:
        base = replace(
            base,
            patch=Patch.load(folder),
            class_names=_class_names(folder),
            identity=folder.name,
            source=str(folder.resolve()),
        )
    return replace(base, sha256=fingerprint(base))


def fingerprint(base: Base) -> str:
    """sha256 of all that decides what the model computes, the same in memory and from a folder.

    Configuration, names, types, shapes and bytes of the weights, noise schedule, patch size, class names; not
    the version that wrote them, nor where they lie.
    """
    facts = {
        "unet": _settings(base.unet.config),
        "scheduler": _settings(DDPMScheduler.from_config(base.scheduler.config).config),
        "patch": base.patch.size,
        "classes": base.class_names,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=_plain).encode())
    for name, value in sorted(base.unet.state_dict().items()):
        digest.update(f"\0{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _settings(config: Any) -> dict[str, Any]:
    """What a configuration says about the model: names that begin with `_` are about its file."""
    return {name: value for name, value in dict(config).items() if not name.startswith("_")}


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _local_folder(source: str | Path) -> Path:
    path = Path(source)
    if path.is_dir():
        if not (path / "model_index.json").exists():
            raise ModelError(
                f"{path} is not a diffusers folder: it has no model_index.json",
                hint="make one with `dp-diffusers pretrain`",
            )
        return path
    if path.is_absolute() or str(source).startswith(".") or str(source).count("/") != 1:
        raise ModelError(f"base model {source} is not there", hint="make one with `dp-diffusers pretrain`")
    return _from_hub(str(source))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # the hub client raises many kinds; each means the same to the user
        raise ModelError(
            f"base model {name} is neither a folder here nor reachable on the hub",
            hint="give the path of a diffusers folder, or make one with `dp-diffusers pretrain`",
        ) from error


def _load_parts(folder: Path) -> tuple[nn.Module, Any]:
    kind = _unet_kind(folder)
    if kind != "UNet2DModel":
        raise ModelError(f"{folder}: expected a UNet2DModel, found {kind}", hint="pixel models are supported")
    try:
        unet = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False, use_safetensors=True)
        scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    except Exception as error:  # safetensors, JSON and shape errors alike: the folder cannot be used
        raise ModelError(
            f"{folder} is damaged: {_first_line(error)}", hint="make or download it again"
        ) from error
    # A float view into the file is not 64-byte aligned: another kernel path would differ in the last bit.
    for parameter in unet.parameters():
        parameter.data = parameter.data.clone()
    return unet, scheduler


def _unet_kind(folder: Path) -> str:
    try:
        return str(json.loads((folder / "unet" / "config.json").read_text())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder} is damaged: unet/config.json cannot be read", hint="make or download it again"
        ) from error


def _refuse_non_finite(unet: nn.Module, folder: Path) -> None:
    bad = [name for name, value in unet.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        raise ModelError(
            f"{folder} is damaged: {bad[0]} holds values that are not finite",
            hint="make or download it again",
        )


def _class_names(folder: Path) -> tuple[str, ...] | None:
    path = folder / CLASSES_FILE
    if not path.exists():
        return None
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{path} is no list of class names", hint="make or download the model again")
    return tuple(names)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
