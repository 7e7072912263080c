"""Labels in the base's numbering: by name, by position, or not at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dp_diffusers.classes.class_numbers import numbered_for
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import DataError

BASE = ("ant", "bee", "cat", "dog")


def _data(
    names: tuple[str, ...] | None, labels: list[int] | None = None, caption: str | None = None
) -> PrivateImages:
    chosen = list(range(len(names or ()))) if labels is None else labels
    return PrivateImages(
        images=np.zeros((len(chosen), 8, 8, 1), np.uint8),
        labels=np.array(chosen, np.int64),
        class_names=names,
        owner=np.arange(len(chosen)),
        unit_count=len(chosen),
        caption=caption,
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (BASE, [0, 1, 2, 3]),
        (("dog", "ant"), [3, 0]),
        (("cat", "bee", "ant", "dog"), [2, 1, 0, 3]),
        (("bee",), [1]),
    ],
)
def test_names_of_the_base_take_its_numbers(names: tuple[str, ...], expected: list[int]) -> None:
    found, notes = numbered_for(_data(names), 4, BASE)
    assert found.labels is not None
    assert found.labels.tolist() == expected
    assert found.class_names == BASE
    assert notes == []


def test_other_names_are_matched_by_position_and_that_is_said() -> None:
    found, notes = numbered_for(_data(("x", "y")), 4, BASE)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1]
    assert notes == [
        "no class of the images has its name in the base: each starts from the one in its place, "
        f"'x' from {BASE[0]!r}, 'y' from {BASE[1]!r}"
    ]


def test_guarantee_names_that_only_the_data_know_are_never_matched_by_position() -> None:
    """One image of a class `b` would turn the `c` of everyone else from 1 into 2."""
    found = replace(_data(("a", "c")), class_names_from_data=True)
    for names in (BASE, None):
        with pytest.raises(DataError, match="one image of a new class") as caught:
            numbered_for(found, 4, names)
        assert "set data.classes" in str(caught.value.hint)
    by_name, _ = numbered_for(replace(_data(("dog", "ant")), class_names_from_data=True), 4, BASE)
    assert not by_name.class_names_from_data, "the names used are the base's"


def test_a_side_without_names_is_matched_by_number() -> None:
    for data, names in ((_data(None, [2, 0]), BASE), (_data(("x", "y", "z"), [2, 0]), None)):
        found, notes = numbered_for(data, 4, names)
        assert found.labels is not None
        assert found.labels.tolist() == [2, 0]
        assert notes == []


@pytest.mark.parametrize("names", [("ant", "eel"), ("eel", "ant", "bee", "cat", "dog")])
def test_names_that_fit_in_part_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"classes but not 'eel'$") as caught:
        numbered_for(_data(names), 4, BASE)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("data.classes: ")


def test_guarantee_a_name_that_the_images_bring_is_not_repeated() -> None:
    """Its place is, as the source counts it: rows that were left out count."""
    read = replace(
        _data(("ant", "secret", "seen"), [0, 2, 0, 1]),
        class_names_from_data=True,
        dropped=np.array([0, 2]),
    )
    with pytest.raises(DataError, match=r"but not that of row 3 \(counted from 0\)$") as caught:
        numbered_for(read, 4, BASE)
    assert "secret" not in str(caught.value.hint)
    declared = replace(_data(("ant", "secret"), [0, 0]), names_in_file=True)
    with pytest.raises(DataError, match=r"but not all that the file names$"):
        numbered_for(declared, 4, BASE)


SHARED = ("crane", "bee", "crane")  # as ImageNet has a bird and a machine


def test_a_name_that_the_base_gives_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"several classes of one name: 'crane'$") as caught:
        numbered_for(_data(("bee", "crane")), 3, SHARED)
    assert "data.base_classes" in str(caught.value.hint)
    read = replace(_data(("bee", "crane"), [0, 1]), class_names_from_data=True)
    with pytest.raises(DataError, match=r"several classes of one name: that of row 1 \(counted from 0\)$"):
        numbered_for(read, 3, SHARED)
    found, _ = numbered_for(_data(("bee",)), 3, SHARED)
    assert found.labels is not None
    assert found.labels.tolist() == [1]


def test_a_mapping_says_which_of_the_two_is_meant() -> None:
    found, _ = numbered_for(_data(("crane", "bee")), 3, SHARED, {"crane": 2, "wasp": 1})
    assert found.labels is not None
    assert found.labels.tolist() == [2, 1]
    with pytest.raises(DataError, match="several classes of one name: 'crane'"):
        numbered_for(_data(("crane", "bee")), 3, SHARED, {"wasp": 1})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_data(("u", "v", "w", "x", "y")), "the base model has 4 classes"),
        (_data(None, [4]), "the base model has 4 classes"),
        (_data(("ant",), caption="an {label}"), "takes no captions"),
    ],
)
def test_what_the_base_cannot_take_is_refused(data: PrivateImages, message: str) -> None:
    with pytest.raises(DataError, match=message):
        numbered_for(data, 4, BASE)


def test_an_unconditional_base_ignores_labels() -> None:
    found, notes = numbered_for(_data(("x", "y")), 0, None)
    assert found.labels is None
    assert notes == []


@pytest.mark.planted
def test_a_planted_match_by_position_alone_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules[__name__], "numbered_for", lambda data, *_: (data, []))
    with pytest.raises(AssertionError):
        test_names_of_the_base_take_its_numbers(("dog", "ant"), [3, 0])
