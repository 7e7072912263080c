"""Classes of two sets meet by name, by number where one set has no names, and never by position unsaid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.errors import DataError
from dp_diffusers.evaluation.reading import LabelledImages, read_images
from dp_diffusers.evaluation.sets import public_images, real_images, unlearnable

DIGITS = tuple("0123456789")


def _named(*names: str) -> LabelledImages:
    """One image of each class."""
    images = np.zeros((len(names), 4, 4, 1), np.uint8)
    return LabelledImages(images=images, labels=np.arange(len(names)), class_names=names)


@pytest.mark.parametrize(
    ("own", "names", "labels"),
    [
        (("cat", "dog", "owl"), ("owl", "cat"), [1, 0]),
        (("cat", "dog"), DIGITS, [0, 1]),
        (("0", "1"), ("cat", "dog"), [0, 1]),
        (("1",), ("cat", "dog"), [1]),
        (("cat", "dog"), ("1", "0"), [1, 0]),
        (("01", "03"), DIGITS, [1, 3]),
    ],
)
def test_classes_meet_by_name_or_else_by_number(
    own: tuple[str, ...], names: tuple[str, ...], labels: list[int]
) -> None:
    assert _named(*own).numbered_as(names).labels.tolist() == labels


def test_a_set_without_names_has_numbers() -> None:
    images = LabelledImages(images=np.zeros((2, 4, 4, 1), np.uint8), labels=np.array([2, 0]), class_names=())
    assert images.numbered_as(("a", "b", "c")).labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("own", "names"),
    [(("crane", "cat", "crane"), ("cat", "crane")), (("cat", "crane"), ("crane", "cat", "crane"))],
)
def test_a_name_of_two_classes_is_refused(own: tuple[str, ...], names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="these images: several classes are called 'crane'"):
        _named(*own).numbered_as(names)
    assert _named("cat", "owl", "owl").numbered_as(("cat",)).labels.tolist() == [0], "nobody asks for an owl"


def test_names_that_share_none_are_refused_with_both_in_the_hint() -> None:
    with pytest.raises(DataError, match="reference: no class has the name of a synthetic class") as error:
        real_images(_named("a", "b"), ("cat", "dog"), "reference")
    assert "classes of reference: a, b; synthetic classes: cat, dog" in str(error.value.hint)


def test_a_match_by_number_is_said_and_one_by_name_is_not() -> None:
    found = real_images(_named("a", "b"), DIGITS, "reference")
    assert found.notes == ("reference: classes matched by number: a is 0, b is 1",)
    assert _named("cat").numbered_as(("owl", "cat")).notes == ()


def test_numbers_that_meet_none_are_refused() -> None:
    with pytest.raises(DataError, match="no image has a class"):
        _named("11", "12").numbered_as(DIGITS)


def test_public_images_say_what_they_lack_and_what_was_left_out() -> None:
    found = public_images([_named("cat", "owl"), _named("cat")], None, (4, 4, 1), ("cat", "dog", "emu"))
    assert found is not None
    assert found.notes == (
        "public images: 1 image is left out, of classes that the synthetic images lack",
        "public images: no image of 2 of 3 synthetic classes (dog, emu)",
    )
    whole = public_images(_named("cat", "dog"), None, (4, 4, 1), ("dog", "cat"))
    assert whole is not None
    assert whole.notes == ()


def test_classes_that_cannot_be_learnt_are_counted() -> None:
    synthetic, reference = _named("cat", "dog", "emu"), _named("cat", "dog", "emu")
    assert unlearnable(synthetic, reference) == []
    one = replace(synthetic, images=synthetic.images[:1], labels=synthetic.labels[:1])
    assert unlearnable(one, reference) == [
        "the synthetic images are all of one class: a classifier has nothing to tell apart",
        "no synthetic image of 2 classes (dog, emu) that the reference has",
    ]
    assert unlearnable(reference, one) == [
        "no image of the reference of 2 classes (dog, emu) that the synthetic ones show"
    ]


@pytest.mark.parametrize("names", [("dark", "grey", "light"), ("a/1", "b", "c"), None])
def test_a_class_without_images_is_known_in_either_format(
    names: tuple[str, ...] | None, tmp_path: Path
) -> None:
    """As a teacher may leave one: other classes keep their numbers, and names that name no folder too."""
    labels = np.array([0, 2, 2, 0])
    found = {}
    for format in ("parquet", "imagefolder"):
        write_images(np.zeros((4, 4, 4, 1), np.uint8), labels, names, tmp_path / format, format=format)
        found[format] = read_images(tmp_path / format)
    in_folders = found["imagefolder"]
    if names is None or names[0] == "dark":
        assert in_folders.class_names == found["parquet"].class_names
    assert sorted(in_folders.labels.tolist()) == sorted(found["parquet"].labels.tolist())
    assert len(in_folders.class_names) == 3


def test_folders_that_hold_something_else_are_no_classes(tmp_path: Path) -> None:
    write_images(
        np.zeros((2, 4, 4, 1), np.uint8), np.arange(2), ("a", "b"), tmp_path / "x", format="imagefolder"
    )
    (tmp_path / "x" / "empty").mkdir()
    (tmp_path / "x" / "notes").mkdir()
    (tmp_path / "x" / "notes" / "text.txt").write_text("")
    assert read_images(tmp_path / "x").class_names == ("a", "b")
