"""A release as a whole model: the public pipeline's folder with the adapter in the network's weights.

Guarantees:
- what is written opens with stock diffusers, without peft and without this package, and computes what the
  adapter computes on its base, up to rounding;
- it comes from a release whose certificate verifies, and says which and under what bound, or NOT PRIVATE;
- the folder is there whole, or not at all.
May import torch, peft and diffusers inside functions: what is refused is refused before they are loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dp_diffusers.cards.merging_card import merged_card
from dp_diffusers.classes.merged_classes import name_classes
from dp_diffusers.classes.released_classes import names_for_base
from dp_diffusers.diffusion import merged_from
from dp_diffusers.errors import ModelError, ParameterError, VerificationError
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.files import CERTIFICATE_NAME, sha256_of_file
from dp_diffusers.run.folder import RunFolder, make_folder
from dp_diffusers.run.out_apart import lies_in_release
from dp_diffusers.whole_files import sync_folder

if TYPE_CHECKING:
    from dp_diffusers.diffusion.base import Base
    from dp_diffusers.release import Release

_INDEX: Final = "model_index.json"
# beside the pipeline's components: our sidecars, and the terms that the public model came under
_ALSO: Final = ("patch.json", "classes.json", "LICENSE*", "NOTICE*")


def merge(release: Release | str | Path, out: str | Path, *, base: str | Path | None = None) -> Path:
    """Writes the model of a release as one diffusers folder, its adapter merged; returns the folder.

    Merging is post-processing: it reads the release and the public model, and costs nothing.

    Args:
        release: a release, a run folder, or a release folder by itself.
        out: the folder to make; it may be there already if it is empty.
        base: folder or hub id of the public model; None takes what the run's recipe says.

    Raises:
        VerificationError: the certificate of the release does not verify.
        ParameterError: `out` is not free or lies in a release, there is no adapter, or no base is known.
        ModelError: the base is not the one that the certificate names, or the adapter cannot be merged.
    """
    from dp_diffusers.diffusion.family import family_of

    folder = _folder_of(release)
    target = Path(out)
    _require_free(target, folder)
    certificate = _verified(folder)
    opened = _adapted(folder, certificate, base)
    origins = [*certificate.base_model.get("merged_from", ()), _origin(certificate, folder)]
    with _placing(target.resolve()) as built:
        _write(opened, built)
        name_classes(built, certificate.classes)
        merged_from.save(built, origins)
        takes_text = family_of(opened).takes_text
        card = merged_card(certificate.to_dict(), origins, takes_text=takes_text)
        (built / "README.md").write_text(card, encoding="utf-8")
    return target


def _folder_of(release: Release | str | Path) -> Path:
    """The release folder of what was named. Raises `RunFolderError` where no training has finished."""
    path = Path(release if isinstance(release, str | Path) else release.path).resolve()  # `.` has no name
    certified = (path / CERTIFICATE_NAME).exists()
    in_run = certified and path.name == "release" and RunFolder(path.parent).recipe.exists()
    if certified and not in_run:
        return path  # it left its run: there is nothing beside it to ask
    run = RunFolder(path.parent if in_run else path)
    run.require_finished()
    return run.release


def _require_free(target: Path, release: Path) -> None:
    if target.resolve().is_relative_to(release.resolve()):
        raise ParameterError(
            f"{target} lies in the release, which holds what is certified and nothing else",
            hint="give another --out",
        )
    if lies_in_release(target):
        raise ParameterError(
            f"{target} lies in a release, whose certificate would not list it", hint="give another --out"
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ParameterError(f"{target} is there already", hint="give another --out, or delete it")


def _verified(release: Path) -> Certificate:
    if (release / "population").is_dir() and not (release / "adapter").exists():
        raise ParameterError(
            f"{release} holds a synthetic population and no adapter, so there is nothing to merge",
            hint="its images are what it releases: `dp-diffusers generate`",
        )
    found = Certificate.verify(release)
    if not found.valid:
        raise VerificationError(
            f"{release} is not valid, so it is not merged: {'; '.join(found.problems)}",
            hint="`dp-diffusers certificate verify` lists what is wrong",
        )
    return Certificate.read(release)


def _origin(certificate: Certificate, release: Path) -> Mapping[str, Any]:
    """What a merged model says of the release that is in it."""
    return {
        "certificate_sha256": sha256_of_file(release / CERTIFICATE_NAME),
        "adapter_sha256": certificate.adapter["sha256"],
        "not_private": certificate.not_private,
        "epsilon": certificate.epsilon,
        "delta": certificate.delta,
        "unit": certificate.unit,
        "adjacency": certificate.adjacency,
    }


def _adapted(release: Path, certificate: Certificate, base: str | Path | None) -> Base:
    """The base of the release, with the adapter in its weights."""
    from dp_diffusers.diffusion.loading import load_base
    from dp_diffusers.strategies.adapter import load_adapter
    from dp_diffusers.strategies.merging import fold

    known = {"id": certificate.base_model["id"], "sha256": certificate.base_model["sha256"]}
    hint = f"give --base, the folder or hub id of {known['id']!r}"
    source, names = _of_recipe(release, certificate)
    if base is None and source is None:
        raise ParameterError(f"{release} has no recipe beside it that leads to its base model", hint=hint)
    try:
        opened = load_base(base or source or "").with_classes(names)
    except ModelError as error:
        is_there = base is not None or Path(source or "").exists()
        raise ModelError(error.message, hint=error.hint if is_there else hint) from error
    if opened.sha256 != known["sha256"]:
        raise ModelError(f"{base or source} is not the model that the adapter was trained on", hint=hint)
    load_adapter(opened.network, release / "adapter")
    fold(opened.network)
    return opened


def _of_recipe(release: Path, certificate: Certificate) -> tuple[str | None, list[str] | None]:
    """Where the base lies, if a recipe says so, and the class names that it may have taken."""
    folder = RunFolder(release.parent)
    if folder.release == release and folder.recipe.exists():
        settings = folder.settings()
        return str(settings["base"]), names_for_base(settings)
    return None, (certificate.classes or {}).get("names")


def _write(base: Base, folder: Path) -> None:
    """The base's own files, but for the weights of its network."""
    from dp_diffusers.diffusion.loading import local_folder
    from dp_diffusers.diffusion.quiet import quiet

    source = local_folder(base.source or "")
    for name in _components(source):
        if name != base.component and (source / name).is_dir():
            shutil.copytree(source / name, folder / name)
    for pattern in (_INDEX, *_ALSO):
        for path in source.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    network: Any = base.network
    with quiet():
        network.save_pretrained(folder / base.component)
    # the one that was just written says where the base lay
    shutil.copyfile(source / base.component / "config.json", folder / base.component / "config.json")


def _components(source: Path) -> list[str]:
    """Names of folders below `source`: what the index calls a component and is no path out of it."""
    index = json.loads((source / _INDEX).read_text(encoding="utf-8"))
    named = [name for name, kind in index.items() if isinstance(kind, list) and kind and kind[0]]
    return [name for name in named if Path(name).name == name]


@contextlib.contextmanager
def _placing(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the block ends, and is gone where it fails."""
    built = target.with_name(f".{target.name}.{os.getpid()}.partial")
    make_folder(built)
    try:
        yield built
        for path in (*built.rglob("*"), built):
            sync_folder(path)
        built.replace(target)
    except BaseException:
        shutil.rmtree(built, ignore_errors=True)
        raise
    sync_folder(target.parent)
