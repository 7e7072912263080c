"""`data.base_classes`: which class of the base each declared one starts from, and who goes by it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dp_diffusers as dpd
from dp_diffusers.classes.base_classes import base_numbers
from dp_diffusers.classes.class_numbers import numbered_for
from dp_diffusers.classes.conditions import classes_of, numbers_by_name
from dp_diffusers.classes.released_classes import ReleasedClasses, names_for_base, released_classes
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.public_images import load_public
from dp_diffusers.drawing.images_out import write_parquet
from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.queries.class_histogram import class_positions
from dp_diffusers.recipe import Recipe
from dp_diffusers.recipe.queries import require_base_classes
from dp_diffusers.studying.stand_in import StandIn, _replaced

BASE = ("n01443537 goldfish", "n03126707 crane", "n02012849 crane", "n04285008 sports car", "tabby")
OWN = ("automobile", "bird", "tabby")  # the base knows a tabby, and it is not meant
ENTRIES = ["sports car", 2, "n01443537 goldfish"]
NUMBERS = (3, 2, 0)


def data(names: tuple[str, ...] | None, labels: list[int]) -> PrivateImages:
    count = len(labels)
    return PrivateImages(
        images=np.zeros((count, 8, 8, 1), np.uint8),
        labels=np.array(labels),
        class_names=names,
        owner=np.arange(count),
        unit_count=count,
    )


def test_names_and_numbers_are_classes_of_the_base() -> None:
    assert base_numbers(ENTRIES, 5, BASE) == NUMBERS
    assert base_numbers(["tabby", "n03126707 crane"], 5, BASE) == (4, 1)
    assert base_numbers(["a"], 2, ("n00000001 a", "a")) == (1,), "a whole name comes first"
    assert base_numbers([999, 0], 1000, None) == (999, 0), "a stock model of ImageNet names none"


@pytest.mark.parametrize(
    ("entries", "count", "names", "says", "hint"),
    [
        (["sprots car"], 5, BASE, "has no class 'sprots car'", "did you mean 'sports car'?"),
        (["crane"], 5, BASE, "has no class 'crane'", "crane'?"),
        (["crane"], 3, ("crane", "heron", "crane"), "has 2 classes 'crane'", "give a number: 0, 2"),
        (["zzz"], 5, BASE, "has no class 'zzz'", "its classes: "),
        ([5], 5, BASE, "from 0 to 4, got 5", "the base has 5 classes"),
        ([1000], 1000, None, "from 0 to 999, got 1000", "the last embedding is of no class"),
        (["car"], 1000, None, "holds 'car', and the base does not name", "numbers, 0 to 999"),
        (["sports car", 3], 5, BASE, "distinct classes of the base, got 3 for two", "give each its own"),
        ([0], 0, None, "the base has none", "leave it out"),
    ],
)
def test_what_is_no_class_of_the_base_is_refused(
    entries: list[Any], count: int, names: tuple[str, ...] | None, says: str, hint: str
) -> None:
    with pytest.raises(ParameterError, match=says) as caught:
        base_numbers(entries, count, names)
    assert hint in str(caught.value.hint)


def test_a_base_takes_its_names_from_the_public_files(tmp_path: Path) -> None:
    images = np.zeros((5, 8, 8, 1), np.uint8)
    write_parquet(images, np.arange(5), BASE, tmp_path / "public.parquet")
    source = {"source": "files", "path": str(tmp_path / "public.parquet")}
    assert load_public([source], 8, 1, 0).class_names == BASE


def test_declared_names_that_the_base_knows_in_part_are_refused() -> None:
    """Before the images are opened: their labels are told the same when they are."""
    with pytest.raises(ParameterError, match=r"some of the images' classes but not 'zebra'$") as caught:
        released_classes(5, BASE, ["tabby", "zebra"])
    assert str(caught.value.hint).startswith("data.classes: either names of the base's (n01443537 goldfish, ")
    with pytest.raises(ParameterError, match=r"not all that the file names$"):
        released_classes(5, BASE, ["tabby", "zebra"], from_data=True)


CRANES = ("crane", "cat", "crane")


def test_a_declared_name_of_two_classes_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"^data\.classes: the base has 2 classes 'crane'$") as caught:
        released_classes(3, CRANES, ["cat", "crane"])
    assert str(caught.value.hint) == "say which in data.base_classes: 0, 2"
    with pytest.raises(ParameterError, match=r"several classes of one name that the file gives$"):
        released_classes(3, CRANES, ["cat", "crane"], from_data=True)
    found = released_classes(3, CRANES, ["cat"])
    assert found is not None
    assert found.labels == (1,)


def test_released_names_are_distinct_where_those_of_the_base_are_not() -> None:
    def names_of(names: tuple[str, ...]) -> tuple[str, ...] | None:
        found = released_classes(len(names), names, None)
        assert found is not None
        assert ReleasedClasses.from_dict({**found.to_dict(), "names": list(names)}) == found
        return found.names

    assert names_of(CRANES) == ("crane (0)", "cat", "crane (2)")
    assert names_of(("a", "b")) == ("a", "b")
    assert names_of(("a", "a", "a (0)")) == ("a (0)", "a (1)", "a (0) (2)")


def mapped() -> ReleasedClasses:
    found = released_classes(5, BASE, OWN, ENTRIES)
    assert found is not None
    return found


def test_the_released_classes_have_the_private_names_and_the_numbers_of_the_base() -> None:
    assert mapped().to_dict() == {"labels": list(NUMBERS), "names": list(OWN), "declared": True}


def test_histogram_and_votes_find_each_image_in_its_declared_class() -> None:
    """Both count by the place of an image's number among the released ones."""
    labels, classes = [2, 0, 1, 1, 2], mapped()
    numbers = dict(zip(OWN, classes.labels, strict=True))
    found, notes = numbered_for(data(OWN, labels), 5, BASE, numbers)
    assert found.labels is not None
    assert found.labels.tolist() == [NUMBERS[label] for label in labels]
    assert class_positions(found, classes).tolist() == labels
    assert notes == []


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (("bird", "automobile"), [0, 1], [2, 3]),
        ((BASE[3], BASE[0]), [0, 1], [3, 0]),
        (("0", "1", "2"), [0, 1, 2], list(NUMBERS)),
        (None, [2, 0], [0, 3]),
    ],
)
def test_public_images_have_private_names_or_those_of_the_base_or_their_places(
    names: tuple[str, ...] | None, labels: list[int], expected: list[int]
) -> None:
    numbers = dict(zip(OWN, NUMBERS, strict=True))
    found, _ = numbered_for(data(names, labels), 5, BASE, numbers)
    assert found.labels is not None
    assert found.labels.tolist() == expected


def test_other_classes_than_the_declared_ones_are_refused() -> None:
    numbers = dict(zip(OWN, NUMBERS, strict=True))
    with pytest.raises(DataError, match="not 'boat'"):
        numbered_for(data(("bird", "boat"), [0]), 5, BASE, numbers)
    with pytest.raises(DataError, match="3 classes are declared"):
        numbered_for(data(None, [3]), 5, BASE, numbers)


def family(takes_text: bool, names: tuple[str, ...] | None = BASE, classes: int = 5) -> Any:
    return SimpleNamespace(takes_text=takes_text, classes=classes, base=SimpleNamespace(class_names=names))


def test_a_base_that_learns_from_texts_takes_none() -> None:
    settings = {"data": {"classes": list(OWN), "base_classes": ENTRIES, "caption": "a {label}"}}
    with pytest.raises(ParameterError, match=r"data\.base_classes has no effect.*texts"):
        classes_of(family(True), settings)


@pytest.mark.parametrize("at_the_top", [False, True])
def test_recipes_and_calls_of_finetune_say_it(at_the_top: bool) -> None:
    keys: dict[str, Any] = {"classes": list(OWN), "base_classes": ENTRIES}
    settings = keys if at_the_top else {"data": keys}
    assert numbers_by_name(family(False), settings) == dict(zip(OWN, NUMBERS, strict=True))
    assert names_for_base(settings) is None, "names in another order than the base's classes"
    del keys["base_classes"]
    assert numbers_by_name(family(False), settings) is None
    assert names_for_base(settings) == list(OWN)


@pytest.mark.parametrize(
    ("entries", "from_data", "says"),
    [
        ([0, 1], True, "needs declared class names"),
        ([0], False, "2 entries, .*got 1"),
        ([], False, "2 entries, .*got 0"),
        ("ab", False, "to be a list"),
        (7, False, "to be a list"),
    ],
)
def test_a_call_in_python_is_refused_before_the_base_is_opened(
    entries: Any, from_data: bool, says: str, tmp_path: Path
) -> None:
    images = replace(data(("a", "b"), [0, 1]), class_names_from_data=from_data)
    plan = dpd.Plan.calibrate(None, NonPrivate(steps=1, expected_units=1, population=2))
    with pytest.raises(ParameterError, match=says):
        dpd.finetune(tmp_path / "none", images, plan, out=tmp_path / "run", base_classes=entries)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    text = (
        "base: base\ndata: {path: images, classes: [a, b], base_classes: [tabby, 0]}\n"
        "budget: {epsilon: 1}\nmechanism: {population: 1000}\n"
    )
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "unet" / "config.json").write_text(json.dumps({"num_class_embeds": 6}))
    (tmp_path / "recipe.yaml").write_text(text)
    return Recipe.load(tmp_path / "recipe.yaml")


def test_a_plan_is_checked_against_the_folder_of_the_base(recipe: Recipe) -> None:
    base = Path(recipe.base)
    with pytest.raises(ParameterError, match="does not name its classes"):
        recipe.plan()
    (base / "classes.json").write_text(json.dumps(BASE))
    require_base_classes(recipe)
    (base / "text_encoder").mkdir()
    with pytest.raises(ParameterError, match="learns from texts"):
        recipe.plan()
    require_base_classes(recipe.model_copy(update={"base": "owner/of-the-hub"}))


def test_a_plan_knows_the_names_that_a_pipeline_keeps_in_its_index(recipe: Recipe) -> None:
    index = {"id2label": {str(place): name for place, name in enumerate(BASE)}}
    (Path(recipe.base) / "model_index.json").write_text(json.dumps(index))
    require_base_classes(recipe)


def test_a_stand_in_with_other_classes_has_no_use_for_it(recipe: Recipe, tmp_path: Path) -> None:
    for classes, kept in ((("b", "a"), ["tabby", 0]), (BASE, None)):
        made = StandIn(images=1000, reference=9, classes=classes, of_the_base=True)
        assert _replaced(recipe, tmp_path, made).data.base_classes == kept
