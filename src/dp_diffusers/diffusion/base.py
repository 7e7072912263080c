"""A base model: the network that is trained, its noise schedule, and what stands around it in a pipeline.

Guarantee: what is saved here opens with stock diffusers, and the fingerprint covers all that decides what the
model computes. May import torch and diffusers, never the engine or the accountant. The layout on disk is that
of the diffusers pipeline which holds the network; `loading` opens it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from torch import nn

from dp_diffusers.diffusion import merged_from
from dp_diffusers.diffusion.merged_from import Origin
from dp_diffusers.diffusion.patch import Patch
from dp_diffusers.diffusion.schedules import plain_schedule
from dp_diffusers.errors import ModelError

CLASSES_FILE = "classes.json"
# parts that judge or decorate a finished image: no training needs them, and they are not loaded
NOT_NEEDED: Final = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass(kw_only=True)
class Base:
    """A public diffusion model, whole.

    network: what strategies adapt and the loop trains. component: its name in the pipeline, `unet` or
    `transformer`. pipeline: the diffusers class that holds it. parts: the pipeline's other components by
    name (autoencoder, text encoders, tokenizers), never trained. options: its settings that are no
    component, such as what stands for an empty prompt. patch, class_names: of our sidecars, as is
    merged_from: the releases whose adapters are in its weights, none for a public model. source: what opens
    it again, the full path of its folder or a hub id.
    """

    network: nn.Module
    scheduler: Any
    component: str = "unet"
    pipeline: str = "DDPMPipeline"
    parts: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    patch: Patch = field(default_factory=Patch)
    class_names: tuple[str, ...] | None = None
    merged_from: tuple[Origin, ...] = ()
    identity: str = "in-memory"
    sha256: str | None = None
    in_memory: bool = True
    source: str | None = None

    @property
    def classes(self) -> int:
        """Number of real classes; 0 for an unconditional model and for one that takes text.

        Without names, the last embedding is the null class.
        """
        if not self.embeddings:
            return 0
        return len(self.class_names) if self.class_names else self.embeddings - 1

    @property
    def embeddings(self) -> int:
        """Number of class embeddings; one more than classes when the last is the null class."""
        config = config_of(self.network)
        if config.get("num_embeds_ada_norm"):  # DiT counts its classes without the null class, which it has
            return int(config["num_embeds_ada_norm"]) + 1
        return int(config.get("num_class_embeds") or 0)

    def with_classes(self, names: Sequence[str] | None) -> Base:
        """The base of a folder without class names, taken to know exactly the classes that are declared.

        That is so where there is one embedding for each of them; otherwise nothing changes.
        """
        if self.class_names or not names or len(names) != self.embeddings:
            return self
        return replace(self, class_names=tuple(names))

    def whole(self) -> Any:
        """The diffusers pipeline around the network; what it was opened without is None."""
        holder = getattr(diffusers, self.pipeline)
        given = {self.component: self.network, "scheduler": self.scheduler, **self.parts, **self.options}
        taken = inspect.signature(holder.__init__).parameters
        for name, parameter in taken.items():
            if name != "self" and parameter.default is inspect.Parameter.empty:
                given.setdefault(name, None)
        if "requires_safety_checker" in taken:
            given["requires_safety_checker"] = False
        return holder(**given)

    def save(self, folder: Path) -> None:
        """Writes the diffusers folder with its sidecars."""
        self.whole().save_pretrained(folder)
        self.patch.save(folder)
        merged_from.save(folder, self.merged_from)
        if self.class_names is not None:
            (folder / CLASSES_FILE).write_text(json.dumps(list(self.class_names)) + "\n")


def config_of(network: nn.Module) -> Any:
    """The configuration that diffusers keeps with a network."""
    return network.config


def side_of(network: nn.Module) -> int:
    """Height and width of what the network sees. Raises `ModelError` where they differ, or none is told."""
    sample = config_of(network).get("sample_size")
    sides = {sample} if isinstance(sample, int) else set(sample or ())
    if len(sides) != 1:
        raise ModelError(
            f"expected a {type(network).__name__} of square samples of a known size, "
            f"got sample_size {sample}",
            hint="a base with one number as sample_size in the config.json of its network",
        )
    return int(sides.pop())


def fingerprint(base: Base) -> str:
    """sha256 of all that decides what the model computes, the same in memory and from a folder.

    Configurations, names, types, shapes and bytes of all weights, noise schedule, vocabularies, patch size,
    class names; not the version that wrote them, nor where they lie. Raises `ModelError` for a scheduler of a
    kind that no training here could follow.
    """
    facts = {
        base.component: _settings(config_of(base.network)),
        "scheduler": _settings(_schedule(base.scheduler)),
        "patch": base.patch.size,
        "classes": base.class_names,
    }
    if base.parts:
        facts["parts"] = {name: _facts(part) for name, part in sorted(base.parts.items())}
    if base.options:
        facts["options"] = dict(sorted(base.options.items()))
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=_plain).encode())
    for name, value in weights_of(base):
        add_tensor(digest, name, value)
    return digest.hexdigest()


def add_tensor(digest: Any, name: str, value: torch.Tensor) -> None:
    """Adds a name, type, shape and bytes to a hash."""
    digest.update(f"\0{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _schedule(scheduler: Any) -> Any:
    """The configuration of the noise schedule alone, whichever sampler the pipeline came with."""
    plain = plain_schedule(scheduler)
    known = inspect.signature(type(plain).__init__).parameters  # what other samplers add is theirs
    return {name: value for name, value in plain.config.items() if name in known}


def weights_of(base: Base) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of the network and of its parts, by name, buffers included."""
    yield from sorted(base.network.state_dict().items())
    for name, part in sorted(base.parts.items()):
        if isinstance(part, nn.Module):
            yield from ((f"{name}/{key}", value) for key, value in sorted(part.state_dict().items()))


def _facts(part: Any) -> Any:
    """What a component is, besides its weights."""
    if hasattr(part, "get_vocab"):
        return [type(part).__name__, sorted(part.get_vocab().items()), part.model_max_length]
    config: Any = getattr(part, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else config
    return [type(part).__name__, None if settings is None else _settings(settings)]


def _settings(config: Any) -> dict[str, Any]:
    """What a configuration says about the model: names that begin with `_` are about its file."""
    about_files = {"transformers_version", "torch_dtype", "dtype", "name_or_path", "architectures"}
    found = {name: value for name, value in dict(config).items() if not name.startswith("_")}
    return {name: value for name, value in found.items() if name not in about_files}


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
