"""What `plan` says is still to decide: what a training would refuse, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dp_diffusers.cli.undecided import undecided
from dp_diffusers.recipe import Recipe

RECIPE = "base: base\ndata: {path: images}\nbudget: {epsilon: 1}\nmechanism: {population: 1000}\n"
NO_LABEL = "data.label is null and base has 10 classes"
KEYWORD = "of DICOM files, to a keyword such as BodyPartExamined"
NO_NAMES = "class names are not declared: training refuses text labels; set data.classes"


def said(folder: Path, *overrides: str) -> str:
    (folder / "recipe.yaml").write_text(RECIPE)
    return "\n".join(undecided(Recipe.load(folder / "recipe.yaml", overrides)))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The configuration of a base with ten classes and no names, and nothing else of it."""
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "unet" / "config.json").write_text(json.dumps({"num_class_embeds": 11}))
    return tmp_path / "base"


def test_labels_that_a_base_with_classes_needs(base: Path) -> None:
    found = said(base.parent, "data.label=null")
    assert found.startswith(NO_LABEL)
    assert KEYWORD in found


@pytest.mark.parametrize("label", ["folder", "finding", "auto"])
def test_names_where_the_base_has_none(base: Path, label: str) -> None:
    override = f"data.label={label}"
    assert said(base.parent, override) == f"{NO_NAMES}, in the order of the base's 10 classes"
    assert said(base.parent, override, "data.classes=[a, b]") == ""
    (base / "classes.json").write_text(json.dumps(list("abcdefghij")))
    assert said(base.parent, override) == ""


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("[b, a]", ""),
        (
            "[v, w, x, y]",
            "no class of the images has its name in the base: each starts from the one in its place, "
            "'v' from 'a', 'w' from 'b', 'x' from 'c', …; data.base_classes says otherwise",
        ),
        (
            "[a, y]",
            "the base has some of data.classes but not 'y': training refuses that; set data.base_classes",
        ),
        ("[r, s, t, u, v, w]", "data.classes are 6 and the base has 5 classes: training refuses that"),
    ],
)
def test_how_declared_classes_meet_those_of_a_base_with_names(
    base: Path, classes: str, expected: str
) -> None:
    (base / "classes.json").write_text(json.dumps(list("abcde")))
    assert said(base.parent, "data.label=finding", f"data.classes={classes}") == expected
    if classes == "[a, y]":
        mapped = ("data.label=finding", f"data.classes={classes}", "data.base_classes=[c, d]")
        assert said(base.parent, *mapped) == ""


@pytest.mark.parametrize("decided", ["base", "text", "missing"])
def test_a_base_without_classes_asks_for_nothing(base: Path, decided: str) -> None:
    (base / "unet" / "config.json").write_text("{}")
    if decided == "text":  # PixArt's configuration counts a thousand classes and takes none
        (base / "text_encoder").mkdir()
        (base / "transformer").mkdir()
        (base / "transformer" / "config.json").write_text(json.dumps({"num_embeds_ada_norm": 1000}))
    if decided == "missing":
        (base / "unet" / "config.json").unlink()
    for label in ("null", "folder", "finding"):
        assert said(base.parent, f"data.label={label}") == ""


@pytest.mark.parametrize("asks", ["data.path=list.csv", "data.caption='an x-ray, {label}'"])
def test_tables_of_text_and_captions_need_names_whatever_the_base(tmp_path: Path, asks: str) -> None:
    assert said(tmp_path, asks, "data.label=finding") == NO_NAMES
    assert said(tmp_path, asks, "data.label=finding", "data.classes=[a, b]") == ""
