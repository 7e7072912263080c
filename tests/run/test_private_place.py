"""A call in Python says where its private images lie, which decides what `data.path` of a recipe does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dp_diffusers as dpd
from dp_diffusers.data.traces import Traces
from dp_diffusers.errors import ParameterError
from dp_diffusers.leaks.scan import leaks
from dp_diffusers.release import known_secrets
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.run.out_apart import require_out_apart
from dp_diffusers.run.run_secrets import secrets_of
from dp_diffusers.teaching import prepared_teacher
from loop_support import cheap_trainings


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_trainings(monkeypatch.setattr)


def _images(folder: Path, seed: int = 0, count: int = 30) -> Path:
    """Images of three classes, in class folders."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        file = folder / f"class {number % 3}" / f"x{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(file)
    return folder


def _opened(folder: Path) -> dpd.PrivateImages:
    return dpd.PrivateImages.from_folder(folder, size=8, channels=1)


def _finetuned(base: Path, private: dpd.PrivateImages, **more: Any) -> Any:
    """A call of two steps beside `base`."""
    plan = dpd.Plan.calibrate(dpd.Budget(1.0, 1e-3), dpd.DPSGD(steps=2, expected_units=10, population=30))
    more = {"out": base.parent / "run", "ledger": base.parent / "own.ledger", **more}
    more["training"] = {"noise_draws": 1, **more.get("training", {})}
    return dpd.finetune(base, private, plan, runtime={"rows_per_pass": 256}, **more)


def test_guarantee_a_base_that_learnt_from_the_images_of_a_call_is_refused(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    private = _images(tmp_path / "films")
    source = {"source": "files", "path": str(private)}
    (tiny_base_folder / "pretraining.json").write_text(json.dumps({"recipe": {"data": [source]}}))
    with pytest.raises(ParameterError, match=r"base: .* learnt from .*, which is where the private images"):
        _finetuned(tiny_base_folder, _opened(private))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "own.ledger").exists()


def test_public_images_that_lie_where_those_of_a_call_do_are_refused(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    """Other images than the private ones: they are told by their place alone."""
    private = _images(tmp_path / "films")
    opened = _opened(private)
    public = _images(private / "public", seed=1)
    with pytest.raises(ParameterError, match=r"training\.public\.path .* is where the private images are"):
        _finetuned(tiny_base_folder, opened, training={"public": {"path": str(public), "batch_size": 4}})
    assert not (tmp_path / "run" / "private" / "run.json").exists()


def test_a_teacher_learns_nothing_public_where_the_images_of_a_call_lie(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"teacher\.public .* is where the private images are"):
        prepared_teacher._opened(str(tmp_path / "films" / "public"), Any, str(tmp_path / "films"))


def test_a_run_among_the_images_of_a_call_is_refused(tiny_base_folder: Path, tmp_path: Path) -> None:
    private = _images(tmp_path / "films")
    with pytest.raises(ParameterError, match=r"lies in data\.path, the folder of the private images"):
        _finetuned(tiny_base_folder, _opened(private), out=private / "class 0" / "run")
    assert not (private / "class 0" / "run").exists()


@pytest.mark.slow
def test_the_place_of_the_images_of_a_call_is_looked_for_in_its_release(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    private = _images(tmp_path / "st_mary_xrays")
    run = _finetuned(tiny_base_folder, _opened(private))
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "README.md").write_text(f"trained on {private}\n")
    assert str(private) in known_secrets(run).paths
    assert [name for name, _, _ in leaks(fake, known_secrets(run))]


def test_a_path_in_the_recipe_makes_nothing_public(tmp_path: Path) -> None:
    """The folder of a teacher's features says where something lies, as that of a base does."""
    folder, fake = RunFolder(tmp_path / "run"), tmp_path / "fake"
    folder.create()
    fake.mkdir()
    place = "/srv/hospital_north/xrays"
    folder.recipe.write_text(f"base: b\ndata: {{path: {place}}}\nteacher: {{features: {place}_network}}\n")
    (fake / "README.md").write_text(f"trained on {place}\n")
    assert list(leaks(fake, secrets_of(folder, Traces(), [])))


@pytest.mark.slow
@pytest.mark.parametrize("link", [False, True])
def test_guarantee_no_image_is_drawn_into_the_private_images_of_a_call(
    link: bool, tiny_base_folder: Path, tmp_path: Path
) -> None:
    private = _images(tmp_path / "films")
    if link:
        (private / "class 0").rename(tmp_path / "elsewhere")
        (private / "class 0").symlink_to(tmp_path / "elsewhere")
    run = _finetuned(tiny_base_folder, _opened(private))
    out = (tmp_path / "elsewhere" if link else private / "class 0") / "new"
    with pytest.raises(ParameterError, match=r"lies in data\.path, the folder of the private images"):
        dpd.generate(run, images=3, out=out, settings={"steps": 1})
    assert not out.exists()


@pytest.mark.parametrize("name", ["out", "linked/class 0/run", "deep/run"])
def test_nothing_is_written_behind_a_link_among_the_private_images(name: str, tmp_path: Path) -> None:
    private, out = tmp_path / "films" / "class 1", tmp_path / name
    private.mkdir(parents=True)
    (tmp_path / "deep").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "more").symlink_to(tmp_path / "deep")
    (tmp_path / "films" / "class 0").symlink_to(tmp_path / "linked")
    (private / "back").symlink_to(tmp_path / "films")
    settings = {"data": {"path": str(tmp_path / "films")}}
    if name == "out":
        require_out_apart(out, settings)
    else:
        with pytest.raises(ParameterError, match=r"lies in data\.path"):
            require_out_apart(out, settings)
