"""The ε = 0 rows of a release: its base without the adapter, and the base's recorded public data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.errors import DataError
from dp_diffusers.evaluation.evaluating import evaluate
from dp_diffusers.evaluation.public_model import public_images_of, public_model_images, run_of
from dp_diffusers.evaluation.reading import LabelledImages

NAMES = ("class 0", "class 1", "class 2")


@pytest.fixture
def run(tiny_base: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with images of a release; opening it gives the tiny base, never an adapter."""
    from dp_diffusers import release
    from dp_diffusers.diffusion.family import family_of

    class Opened:
        teacher = None

        @classmethod
        def open(cls, path: Path) -> Opened:
            return cls()

        def settings(self) -> dict[str, Any]:
            return {"base": str(tmp_path / "base"), "generation": {"steps": 2}}

        def family(self, *, adapted: bool) -> Any:
            assert not adapted
            return family_of(tiny_base())

        def classes(self, family: Any, prompts: Any = None) -> None:
            assert prompts is None

    monkeypatch.setattr(release, "Release", Opened)
    root = tmp_path / "run"
    (root / "private").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1)).astype(np.uint8)
    (root / "release").mkdir()
    (root / "release" / "certificate.json").write_text("{}")
    write_images(images, np.arange(30) % 3, NAMES, root / "release" / "images", format="parquet")
    return root


def _like(labels: list[int]) -> LabelledImages:
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)
    return LabelledImages(images=images, labels=np.array(labels), class_names=NAMES)


def test_images_of_the_base_have_the_same_labels_and_are_kept(run: Path) -> None:
    first = public_model_images(run, _like([2, 0, 1, 1]))
    assert first.images.shape == (4, 8, 8, 1)
    assert first.labels.tolist() == [2, 0, 1, 1]
    assert (run / "private" / "public-model-images.npz").exists()
    assert np.array_equal(public_model_images(run, _like([2, 0, 1, 1])).images, first.images)
    assert len(public_model_images(run, _like([0, 1])).images) == 2


def test_classes_without_names_are_those_that_folders_number(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class of which no image is there, as a teacher may leave it, does not move the others."""
    from dp_diffusers import release

    numbered = ReleasedClasses(labels=(0, 1, 2))
    monkeypatch.setattr(release.Release, "classes", lambda *_: numbered)
    like = LabelledImages(
        images=np.zeros((2, 8, 8, 1), np.uint8), labels=np.array([0, 1]), class_names=("0", "2")
    )
    assert public_model_images(run, like).labels.tolist() == [0, 2]
    with np.load(run / "private" / "public-model-images.npz") as kept:
        assert json.loads(str(kept["key"]))[-1] == [0, 2], "the base's classes that were drawn"


def test_kept_images_are_whole_or_made_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = run / "private" / "public-model-images.npz"

    def cut(place: Any, **_: Any) -> None:
        if isinstance(place, Path):
            place.write_bytes(b"PK")
        else:
            place.write(b"PK")
        raise OSError(28, "no space left")

    with monkeypatch.context() as full:
        full.setattr(np, "savez", cut)
        with pytest.raises(OSError, match="no space"):
            public_model_images(run, _like([0, 1]))
    assert list(kept.parent.iterdir()) == []
    first = public_model_images(run, _like([0, 1]))
    kept.write_bytes(kept.read_bytes()[:50])
    assert np.array_equal(public_model_images(run, _like([0, 1])).images, first.images)


def test_classes_that_the_base_calls_otherwise_are_numbered_as_in_the_recipe(run: Path) -> None:
    images = np.zeros((2, 8, 8, 1), np.uint8)
    like = LabelledImages(images=images, labels=np.array([1, 0]), class_names=("normal", "pneumonia"))
    found = public_model_images(run, like)
    assert found.labels.tolist() == [1, 0]
    assert found.class_names == like.class_names


def test_evaluating_a_release_adds_the_public_model(run: Path) -> None:
    images = run / "release" / "images"
    scores = evaluate(images, images, features=None, seeds=2, passes=256)
    assert scores.public_model is not None
    assert [row.trained_on for row in scores.rows] == ["synthetic", "public model, ε = 0"]
    assert [row.images for row in scores.rows] == [30, 30]


def test_recorded_public_data_join_where_asked(run: Path, tmp_path: Path) -> None:
    assert public_images_of(run, 8, 1) is None
    (tmp_path / "base").mkdir()
    recipe = {"data": [{"source": "drawn_digits", "count": 30}], "training": {"seed": 0}}
    (tmp_path / "base" / "pretraining.json").write_text(json.dumps({"recipe": recipe}))
    public = public_images_of(run, 8, 1)
    assert public is not None
    assert public.images.shape == (30, 8, 8, 1)


def test_recorded_public_data_that_are_not_on_this_machine_are_a_note(run: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    elsewhere = {"data": [{"source": "files", "path": "/no/such/public.parquet"}], "training": {"seed": 0}}
    (tmp_path / "base" / "pretraining.json").write_text(json.dumps({"recipe": elsewhere}))
    images = run / "release" / "images"
    scores = evaluate(images, images, features=None, seeds=2, passes=8)
    assert [row.trained_on for row in scores.rows] == ["synthetic", "public model, ε = 0"]
    assert "no row of public images: images not found: /no/such/public.parquet" in scores.notes
    with pytest.raises(DataError, match=r"images not found: /no/such/public\.parquet"):
        evaluate(images, images, with_public=True, features=None, seeds=2, passes=8)


def test_public_data_of_a_run_that_maps_its_classes_are_those_that_it_started_from(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dp_diffusers import release
    from dp_diffusers.data.public_images import load_public

    (tmp_path / "base").mkdir()
    recipe: dict[str, Any] = {"data": [{"source": "drawn_digits", "count": 30}], "training": {"seed": 0}}
    (tmp_path / "base" / "pretraining.json").write_text(json.dumps({"recipe": recipe}))
    settings = {"base": str(tmp_path / "base"), "data": {"base_classes": ["7", 1]}}
    monkeypatch.setattr(release.Release, "settings", lambda _: settings)
    released = SimpleNamespace(classes={"labels": [7, 1], "names": ["seven", "0"]})
    monkeypatch.setattr(release.Release, "certificate", released, raising=False)
    found, every = public_images_of(run, 8, 1), load_public(recipe["data"], 8, 1, 0)
    assert found is not None
    assert found.class_names == ("seven", "0")
    for place, number in enumerate((7, 1)):
        assert np.array_equal(found.images[found.labels == place], every.images[every.labels == number])
    assert len(found.images) == np.isin(every.labels, (7, 1)).sum()


def test_images_elsewhere_belong_to_no_run(run: Path, tmp_path: Path) -> None:
    assert run_of(run / "release" / "images") == run
    assert run_of(tmp_path) is None
