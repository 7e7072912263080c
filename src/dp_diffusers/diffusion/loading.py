"""Opens a base model: a diffusers folder, a hub id, or a pipeline that is open already.

Guarantee: what is opened is checked first, so that a missing or damaged folder is one clear line. May import
torch and diffusers, never the engine or the accountant. Any diffusers pipeline is a holder of a denoising
network (`unet` or `transformer`), a noise schedule and further parts.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from torch import nn

from dp_diffusers.classes.base_classes import names_of_index
from dp_diffusers.diffusion import merged_from
from dp_diffusers.diffusion.base import CLASSES_FILE, NOT_NEEDED, Base, fingerprint
from dp_diffusers.diffusion.layout import unusual
from dp_diffusers.diffusion.patch import Patch
from dp_diffusers.diffusion.quiet import quiet
from dp_diffusers.errors import ModelError, ParameterError

COMPONENTS: Final = ("unet", "transformer")
# of a pipeline's settings, those that are about parts which are not loaded
_ABOUT_OTHERS: Final = ("requires_safety_checker", "add_watermarker")
_AGAIN: Final = "make or download it again"


def load_base(source: str | Path) -> Base:
    """Opens a diffusers folder or hub id.

    Raises `ModelError` when it is not there, damaged, of a kind without a denoising network, or laid out in a
    way that is not opened.
    """
    folder = local_folder(source)
    base = replace(_opened(folder), **_sidecars(folder))
    _refuse_non_finite(base, folder)
    _align(base)
    is_folder = Path(source).exists()
    base = replace(
        base,
        identity=Path(source).name if is_folder else str(source),
        in_memory=False,
        source=str(Path(source).resolve()) if is_folder else str(source),
    )
    return replace(base, sha256=fingerprint(base))


def base_of_pipeline(pipeline: Any) -> Base:
    """A diffusers pipeline as a base; one that came from a folder keeps the folder's sidecars and its path.

    Raises `ParameterError` for what has no denoising network or no `scheduler`.
    """
    name = getattr(pipeline, "name_or_path", None) or getattr(pipeline, "_name_or_path", None)
    folder = Path(name) if name and (Path(name) / "model_index.json").exists() else None
    base = replace(_taken_apart(pipeline), identity=str(name or type(pipeline).__name__))
    if folder is not None:
        base = replace(
            base,
            **_sidecars(folder),
            identity=folder.name,
            source=str(folder.resolve()),
        )
    return replace(base, sha256=fingerprint(base))


def as_base(base: Any) -> Base:
    """What was given, as a base with the fingerprint that it has before any adapter is in it."""
    if isinstance(base, str | Path):
        return load_base(base)
    if not isinstance(base, Base):
        return base_of_pipeline(base)
    return base if base.sha256 else replace(base, sha256=fingerprint(base))


def _taken_apart(pipeline: Any) -> Base:
    parts = dict(getattr(pipeline, "components", {}))
    component = next((name for name in COMPONENTS if isinstance(parts.get(name), nn.Module)), None)
    if component is None or parts.get("scheduler") is None:
        kind = type(pipeline).__name__
        raise ParameterError(f"expected a pipeline with a unet or transformer and a scheduler, got {kind}")
    network, scheduler = parts.pop(component), parts.pop("scheduler")
    kept = {name: part for name, part in parts.items() if _needed(name, part)}
    return Base(
        network=network,
        scheduler=scheduler,
        component=component,
        pipeline=type(pipeline).__name__,
        parts=kept,
        options=_options(pipeline),
    )


def _options(pipeline: Any) -> dict[str, Any]:
    """The settings of a pipeline that are no component."""
    taken = inspect.signature(type(pipeline).__init__).parameters
    kept = {
        name: value
        for name, value in dict(getattr(pipeline, "config", {})).items()
        if name in taken and name not in _ABOUT_OTHERS
    }
    return {name: value for name, value in kept.items() if isinstance(value, bool | int | float | str)}


def _needed(name: str, part: Any) -> bool:
    return name not in NOT_NEEDED and part is not None and not isinstance(part, bool | int | float | str)


def local_folder(source: str | Path) -> Path:
    """The diffusers folder on this machine that a path or a hub id means.

    Raises `ModelError` where there is none.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / "model_index.json").exists():
            raise _no_model(path)
        return path
    if path.is_absolute() or str(source).startswith(".") or str(source).count("/") != 1:
        raise ModelError(
            f"base model {source} is not there", hint="put it back, or make one with `dp-diffusers pretrain`"
        )
    return _from_hub(str(source))


def _no_model(folder: Path) -> ModelError:
    """Of a folder without `model_index.json`, which a pre-training writes at its end."""
    from dp_diffusers.pretraining import AUTOENCODER_STATE, STATE

    if any((folder / state).exists() for state in (STATE, AUTOENCODER_STATE)):
        return ModelError(
            f"{folder} holds no model yet: its pre-training has not finished",
            hint="run the same `dp-diffusers pretrain` again, or `demo` where that began it: it goes on",
        )
    return ModelError(
        f"{folder} is not a diffusers folder: it has no model_index.json",
        hint="make one with `dp-diffusers pretrain`",
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # the hub client raises many kinds; each means the same to the user
        raise ModelError(
            f"base model {name} is neither a folder here nor reachable on the hub",
            hint="give the path of a diffusers folder, or make one with `dp-diffusers pretrain`",
        ) from error


def _opened(folder: Path) -> Base:
    """The pipeline of a folder, taken apart; parts that nothing needs are not loaded."""
    component = next((name for name in COMPONENTS if (folder / name).is_dir()), COMPONENTS[0])
    _read_config(folder, component)
    with quiet():
        holder = _holder(folder)
    unneeded = [name for name in NOT_NEEDED if name in inspect.signature(holder.__init__).parameters]
    try:
        with quiet():
            pipeline = holder.from_pretrained(
                folder,
                local_files_only=True,
                low_cpu_mem_usage=False,
                use_safetensors=True,
                **dict.fromkeys(unneeded),
            )
        return _taken_apart(pipeline)
    except ParameterError as error:
        raise ModelError(f"{folder}: {error}", hint="a text-to-image or class-conditional model") from error
    except Exception as error:  # safetensors, JSON and shape errors alike: the folder cannot be used
        damaged = ModelError(f"{folder} is damaged: {_first_line(error)}", hint=_AGAIN)
        raise unusual(folder, component) or damaged from error


def _read_config(folder: Path, component: str) -> None:
    """Raises `ModelError` where the network's configuration is not there, or of a kind that nobody knows."""
    try:
        kind = str(json.loads((folder / component / "config.json").read_text())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        damaged = ModelError(f"{folder} is damaged: {component}/config.json cannot be read", hint=_AGAIN)
        raise unusual(folder, component) or damaged from error
    if not hasattr(diffusers, kind):
        raise ModelError(
            f"{folder}: diffusers {diffusers.__version__} knows no network {kind}",
            hint="a pipeline with a UNet or a transformer of this version",
        )


def _holder(folder: Path) -> Any:
    """The pipeline class that the folder names."""
    try:
        name = str(json.loads((folder / "model_index.json").read_text())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} is damaged: model_index.json cannot be read", hint=_AGAIN) from error
    holder = getattr(diffusers, name, None)
    if holder is None:
        raise ModelError(
            f"{folder}: diffusers {diffusers.__version__} knows no {name}", hint="install another diffusers"
        )
    return holder


def _refuse_non_finite(base: Base, folder: Path) -> None:
    modules = [base.network, *(part for part in base.parts.values() if isinstance(part, nn.Module))]
    for module in modules:
        bad = [name for name, value in module.state_dict().items() if not torch.isfinite(value).all()]
        if bad:
            raise ModelError(f"{folder} is damaged: {bad[0]} holds values that are not finite", hint=_AGAIN)


def _align(base: Base) -> None:
    """A float view into a file is not 64-byte aligned: another kernel path would differ in the last bit."""
    for module in [base.network, *(part for part in base.parts.values() if isinstance(part, nn.Module))]:
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()


def _sidecars(folder: Path) -> dict[str, Any]:
    """What our files beside `model_index.json` say."""
    return {
        "patch": Patch.load(folder),
        "class_names": _class_names(folder),
        "merged_from": merged_from.load(folder),
    }


def _class_names(folder: Path) -> tuple[str, ...] | None:
    path = folder / CLASSES_FILE
    if not path.exists():
        return _names_of_index(folder)
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{path} is no list of class names", hint="make or download the model again")
    return tuple(names)


def _names_of_index(folder: Path) -> tuple[str, ...] | None:
    with contextlib.suppress(OSError, ValueError):
        return names_of_index(json.loads((folder / "model_index.json").read_text()))
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
