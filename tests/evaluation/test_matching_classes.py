"""Classes of two sets meet by name, by number where one set has no names, and never by position unsaid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dp_diffusers.errors import DataError
from dp_diffusers.evaluation.reading import LabelledImages
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
