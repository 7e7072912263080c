"""A study without a reference is about public images alone: no private one is opened, noise is as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from apart_support import films
from dp_diffusers.data.public_images import PublicImages
from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.errors import DataError, ParameterError, RunFolderError
from dp_diffusers.evaluation.reading import read_images
from dp_diffusers.recipe.sections.public import PublicSettings
from dp_diffusers.recipe.sections.teacher import TeacherSettings
from dp_diffusers.recipe.study import LoadedStudy, load_study
from dp_diffusers.studying import pictures, runs, stand_in, study
from dp_diffusers.studying.public_split import split
from dp_diffusers.studying.stand_in import on_stand_in
from loop_support import cheap_trainings

NAMES = ("dark", "grey", "light")


def public(count: int = 300, seed: int = 5) -> PublicImages:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = random.integers(0, 60, (count, 8, 8, 1)) + 60 * labels[:, None, None, None]
    return PublicImages(images=images.astype(np.uint8), labels=labels, class_names=NAMES)


def quiet(**_: Any) -> None:
    """Progress that nobody sees."""


@pytest.fixture
def loaded(tiny_recipe: Path, tmp_path: Path) -> LoadedStudy:
    """A study whose private images are not there at all."""
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    path = tmp_path / "study.yaml"
    document = {"recipe": tiny_recipe.name, "seeds": [0], "evaluate": {"seeds": 2, "passes": 1}}
    path.write_text(yaml.safe_dump({**document, "proxy": "public"}))
    return load_study(path)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[PublicImages]:
    """Public images without files; the first one of the list is what is loaded."""
    images = [public()]
    monkeypatch.setattr(stand_in, "loaded", lambda sources, recipe: images[0])
    return images


def test_a_split_is_by_pixels_whatever_the_order_and_equal_pictures_are_on_one_side() -> None:
    images = public(600)
    doubled = replace(
        images,
        images=np.concatenate([images.images, images.images[::-1]]),
        labels=np.concatenate([images.labels, images.labels[::-1]]),
    )
    first, second = split(images, None, 10**6)
    assert len(first.images) + len(second.images) == 600
    assert 80 <= len(second.images) <= 160, "a fifth"
    sides = [{image.tobytes() for image in part.images} for part in split(doubled, None, 10**6)]
    assert not sides[0] & sides[1]
    assert sides == [{image.tobytes() for image in part.images} for part in (first, second)]
    few, same = split(images, None, 50)
    assert len(few.images) == 50
    assert {image.tobytes() for image in few.images} <= sides[0]
    assert len(same.images) == len(second.images)
    turned = replace(images, images=images.images[::-1], labels=images.labels[::-1])
    chosen = {image.tobytes() for image in split(turned, None, 50)[0].images}
    assert chosen == {image.tobytes() for image in few.images}, "which are left out depends on no order"


def test_a_split_has_the_classes_of_the_recipe_and_refuses_to_lack_one() -> None:
    images = public()
    first, second = split(images, ["light", "dark"], 1000)
    assert first.class_names == second.class_names == ("light", "dark")
    assert first.images[first.labels == 0].min() >= 120
    assert split(images, ["pneumonia", "dark"], 1000)[0].class_names == NAMES
    alone = replace(images, labels=np.where(np.arange(300) == 7, 1, 0))
    with pytest.raises(DataError, match=r"no image to (train|test) on of class 'grey'|of class 'light'"):
        split(alone, None, 1000)
    with pytest.raises(DataError, match="1 class, a classifier needs two"):
        split(replace(images, labels=np.zeros(300, np.int64), class_names=("all",)), None, 1000)


def test_cells_are_on_public_images_with_the_recipes_noise(
    loaded: LoadedStudy, given: list[PublicImages], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    placed, images = on_stand_in(loaded, out, quiet)
    (recipe,) = placed.cells[0].recipes
    assert recipe.data.path == str((out / "proxy" / "images.parquet").resolve())
    assert recipe.mechanism == loaded.cells[0].recipes[0].mechanism, "as many images as the population"
    assert pq.read_table(recipe.data.path).num_rows == 30
    reference = read_images(str(placed.settings.evaluate.reference))
    assert reference.class_names == NAMES
    assert images.public_stand_in
    assert "no private image" in images.note
    assert "underestimated" not in images.note
    again, same = on_stand_in(loaded, out, quiet)
    assert again.cells == placed.cells
    assert same == images
    given[0] = public(seed=6)
    assert on_stand_in(loaded, out, quiet)[0].cells == placed.cells, "written once"


def test_a_smaller_stand_in_keeps_the_sampling_probability_and_says_so(
    loaded: LoadedStudy, given: list[PublicImages], tmp_path: Path
) -> None:
    recipe = loaded.cells[0].recipes[0]
    many = recipe.mechanism.model_copy(update={"population": 6000, "expected_units": 600})
    larger = replace(loaded.cells[0], recipes=(recipe.model_copy(update={"mechanism": many}),))
    placed, images = on_stand_in(replace(loaded, cells=(larger,)), tmp_path, quiet)
    found = placed.cells[0].recipes[0].mechanism
    assert 200 < found.population < 300
    assert found.expected_units == round(found.population / 10)
    assert "scaled down alike" in images.note
    assert "gains are underestimated" in images.note
    # 6000 / 15 expected of them is 16 of about 240; 6000 / 150 would be 1.6, which is no number of units
    rare = many.model_copy(update={"expected_units": 40})
    cell = replace(larger, recipes=(recipe.model_copy(update={"mechanism": rare}),))
    asked = r"2 expected of these is a sampling probability of 0\.008\d*, the recipe's is 0\.00667"
    with pytest.raises(ParameterError, match=asked):
        on_stand_in(replace(loaded, cells=(cell,)), tmp_path / "rare", quiet)
    assert not (tmp_path / "rare" / "proxy").exists()
    limited = many.model_copy(update={"max_units": 800})
    cell = replace(larger, recipes=(recipe.model_copy(update={"mechanism": limited}),))
    with pytest.raises(ParameterError, match="max_units does not scale"):
        on_stand_in(replace(loaded, cells=(cell,)), tmp_path / "other", quiet)


def test_what_no_stand_in_can_be_made_for_is_refused(
    loaded: LoadedStudy, given: list[PublicImages], tmp_path: Path
) -> None:
    on_stand_in(loaded, tmp_path, quiet)
    other = loaded.settings.model_copy(update={"proxy": ["elsewhere"]})
    with pytest.raises(RunFolderError, match=r"made for another proxy\.data"):
        on_stand_in(replace(loaded, settings=other), tmp_path, quiet)
    unnamed = loaded.settings.model_copy(update={"proxy": None})
    with pytest.raises(DataError, match="does not say which public images it was trained on"):
        on_stand_in(replace(loaded, settings=unnamed), tmp_path / "other", quiet)
    cell, recipe = loaded.cells[0], loaded.cells[0].recipes[0]
    captioned = recipe.model_copy(update={"data": recipe.data.model_copy(update={"caption_column": "text"})})
    with pytest.raises(ParameterError, match="no column of texts"):
        on_stand_in(replace(loaded, cells=(replace(cell, recipes=(captioned,)),)), tmp_path / "o", quiet)
    more = recipe.mechanism.model_copy(update={"population": 40})
    two = replace(cell, name="b", recipes=(recipe.model_copy(update={"mechanism": more}),))
    with pytest.raises(ParameterError, match=r"one mechanism\.population for all cells on a stand-in"):
        on_stand_in(replace(loaded, cells=(cell, two)), tmp_path / "o", quiet)
    (tmp_path / "proxy" / "proxy.json").write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        on_stand_in(loaded, tmp_path, quiet)


def test_the_images_that_the_base_was_trained_on_are_the_default(
    loaded: LoadedStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(stand_in, "loaded", lambda sources, recipe: asked.append(sources) or public())
    record = {"model": {"size": 8, "channels": 1}, "data": [{"source": "drawn_digits"}]}
    document = {"recipe": {**record, "training": {"seed": 3}}}
    (tmp_path / "base" / "pretraining.json").write_text(json.dumps(document))
    settings = loaded.settings.model_copy(update={"proxy": None})
    _, images = on_stand_in(replace(loaded, settings=settings), tmp_path, quiet)
    assert asked == [{"data": record["data"], "seed": 3, "size": 8, "channels": 1}]
    assert "the base learnt from them already" in images.note


def _link(root: Path) -> tuple[str, str]:
    (root / "link").symlink_to(root / "films")
    return "link", "films"


def _hard_link(root: Path) -> tuple[str, str]:
    (root / "open").mkdir()
    (root / "films.parquet").write_bytes(b"private")
    (root / "open" / "a.parquet").hardlink_to(root / "films.parquet")
    return "open", "films.parquet"


# how public images may be the private ones: (public, private) below a folder with films
MET: dict[str, Callable[[Path], tuple[str, str]]] = {
    "itself": lambda root: ("films", "films"),
    "a folder of it": lambda root: ("films/class 0", "films"),
    "the folder that a manifest lists": lambda root: ("films", "films.csv"),
    "a link": _link,
    "another name of the file": _hard_link,
    "another split": lambda root: ("hf://a/b:train", "hf://a/b:test"),
}


@pytest.mark.parametrize(
    ("how", "named_by"),
    [
        *((how, "proxy") for how in MET),
        *(
            ("itself", name)
            for name in ("the base's data", "training.public.path", "teacher.public", "base:")
        ),
    ],
)
def test_guarantee_private_images_are_no_stand_in(
    loaded: LoadedStudy, given: list[PublicImages], tmp_path: Path, how: str, named_by: str
) -> None:
    """Named by the study, by the base's own record, or as public images beside them: nothing is opened."""
    films(tmp_path)
    public, private = (name if name.startswith("hf") else str(tmp_path / name) for name in MET[how](tmp_path))
    cell, recipe = loaded.cells[0], loaded.cells[0].recipes[0]
    update: dict[str, Any] = {"data": recipe.data.model_copy(update={"path": private})}
    proxy = {"proxy": [public], "the base's data": None}.get(named_by, ["elsewhere"])
    if named_by == "training.public.path":
        update["training"] = recipe.training.model_copy(update={"public": PublicSettings(path=public)})
    if named_by == "teacher.public":
        update["teacher"] = TeacherSettings(public=public)
    record = {"model": {"size": 8, "channels": 1}, "data": [{"source": "files", "path": public}]}
    document = {"recipe": {**record, "training": {"seed": 3}}}
    (tmp_path / "base" / "pretraining.json").write_text(json.dumps(document))
    # the second of two cells is it
    second = replace(cell, name="b", recipes=(recipe.model_copy(update=update),))
    settings = loaded.settings.model_copy(update={"proxy": proxy})
    given.clear()  # whoever loads them fails
    with pytest.raises(ParameterError, match=f"{named_by} .* is where the private images are"):
        on_stand_in(replace(loaded, settings=settings, cells=(cell, second)), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()


def test_images_of_a_stand_in_are_for_nobody_else(
    loaded: LoadedStudy, given: list[PublicImages], tmp_path: Path
) -> None:
    on_stand_in(loaded, tmp_path / "out", quiet)
    assert (tmp_path / "out" / "proxy").stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_guarantee_a_study_without_a_reference_opens_no_private_image(
    tiny_recipe: Path, tiny_parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The private file is there, and whoever opens it is named; files of a stand-in are read instead."""
    cheap_trainings(monkeypatch.setattr)
    stand = public()
    write_images(stand.images, stand.labels, NAMES, tmp_path / "public", format="parquet")
    opened: list[str] = []
    real = pq.ParquetFile.__init__

    def watched(self: Any, source: Any, *rest: Any, **more: Any) -> None:
        opened.append(str(source))
        real(self, source, *rest, **more)

    monkeypatch.setattr(pq.ParquetFile, "__init__", watched)
    path = tmp_path / "study.yaml"
    document = {"recipe": tiny_recipe.name, "seeds": [0], "evaluate": {"seeds": 2, "passes": 1}}
    path.write_text(yaml.safe_dump({**document, "proxy": "public"}))
    shutil.copy(tiny_parquet, tmp_path / "kept.parquet")
    tiny_parquet.write_bytes(b"not an image: whoever reads this fails")
    result = study(load_study(path, ["evaluate.passes=1"]), tmp_path / "out")
    assert result.complete
    assert len(result.records) == 2
    assert str(tiny_parquet) not in opened
    assert result.to_dict()["images"]["public_stand_in"] is True
    assert "no private image" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "results.parquet").exists()
    # the same study with a reference does open it
    document["evaluate"] = {"reference": "kept.parquet", "seeds": 2, "passes": 1}
    path.write_text(yaml.safe_dump({**document, "public_model": False}))
    with pytest.raises(DataError):
        study(load_study(path), tmp_path / "benchmark")


def test_distances_of_each_run_are_columns_and_change_no_earlier_result(
    tiny_recipe: Path, tiny_parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.yaml"
    scored = {"reference": str(tiny_parquet), "seeds": 2, "passes": 1}
    document = {"recipe": tiny_recipe.name, "seeds": [0], "public_model": False, "evaluate": scored}
    path.write_text(yaml.safe_dump(document))
    facts = {"epsilon": 5.0, "delta": 1e-3, "steps": 3, "trainable_parameters": 9, "expected_rows_at_most": 1}
    images: Any = SimpleNamespace(images=np.zeros((9, 8, 8, 1), np.uint8))
    base = "base"
    made = runs.Made(facts=facts, images=images, base=base)
    monkeypatch.setattr(runs, "_trained", lambda run, out: made)
    monkeypatch.setattr(pictures, "draw", lambda *_: [])
    monkeypatch.setattr(runs, "require_plans", lambda runs: None)
    monkeypatch.setattr("dp_diffusers.studying.kept.sha256_of_base", lambda path: base)
    asked: list[Any] = []

    def evaluated(*_: Any, features: Any, **__: Any) -> Any:
        asked.append(features)
        figures = {"fid": 3.0, "kid": 0.1, "kid_standard_error": 0.01, "precision": 0.5}
        distances = () if features is None else (SimpleNamespace(figures=figures),)
        schedule = {"classifier": "cnn-32-64-128", "passes": 1}
        return SimpleNamespace(accuracy=SimpleNamespace(mean=80.0), distances=distances, **schedule)

    monkeypatch.setattr(runs, "evaluate", evaluated)
    plain = study(load_study(path), tmp_path / "plain")
    assert plain.to_rows()[0]["fid"] is None
    stored = json.loads((tmp_path / "plain" / "cells" / "recipe" / "seed-0.json").read_text())
    assert stored["asked"]["evaluate"] == scored, "as results from before this key was there"
    study(load_study(path, ["evaluate.features=none"]), tmp_path / "plain")
    assert asked == [None]
    extractor = SimpleNamespace(frechet_name="FD-mine", sha256="1")
    monkeypatch.setattr(runs, "features_named", lambda name: extractor)
    with pytest.raises(RunFolderError, match=r"another evaluate\.features"):
        study(load_study(path, ["evaluate.features=mine"]), tmp_path / "plain")
    result = study(load_study(path, ["evaluate.features=mine"]), tmp_path / "far")
    (row,) = result.to_rows()
    assert (row["fid"], row["precision"], row["recall"], result.distances) == (3.0, 0.5, None, "FD-mine")
    extractor.sha256 = "2"
    with pytest.raises(RunFolderError, match=r"evaluate\.features mine has changed since"):
        study(load_study(path, ["evaluate.features=mine"]), tmp_path / "far")
