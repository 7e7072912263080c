"""Public images: sources, one numbering of classes, shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dp_diffusers.data.public_images import PublicPart, load_public, merged
from dp_diffusers.drawing.images_out import write_parquet
from dp_diffusers.errors import DataError, ParameterError

DIGITS = {"source": "drawn_digits", "count": 40, "fonts": 0.0}


def _folder(root: Path, classes: dict[str, int]) -> str:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (12, 10), 40 * index).save(root / name / f"{index}.png")
    return str(root)


def _part(names: tuple[str, ...], count: int) -> PublicPart:
    labels = np.arange(count, dtype=np.int64) % len(names)
    return PublicPart(images=np.zeros((count, 4, 4, 1), np.uint8), labels=labels, class_names=names)


def test_drawn_digits_alone() -> None:
    public = load_public([DIGITS], 16, 3, 0)
    assert public.images.shape == (40, 16, 16, 3)
    assert public.class_names == tuple("0123456789")
    assert np.bincount(public.labels).tolist() == [4] * 10
    assert "40x16x16x3" in repr(public)


def test_equal_arguments_give_equal_images_and_two_sources_differ() -> None:
    one, two = (load_public([DIGITS, DIGITS], 16, 1, 3) for _ in range(2))
    assert np.array_equal(one.images, two.images)
    assert not np.array_equal(one.images[:40], one.images[40:])


def test_new_classes_follow_and_equal_names_meet(tmp_path: Path) -> None:
    path = _folder(tmp_path / "extra", {"7": 2, "ka": 3})
    public = load_public([DIGITS, {"source": "files", "path": path, "label": "folder"}], 16, 1, 0)
    assert public.class_names == (*"0123456789", "ka")
    assert sorted(public.labels[40:].tolist()) == [7, 7, 10, 10, 10]
    assert public.images.shape == (45, 16, 16, 1)


def test_labels_not_kept_make_one_class_and_invert_swaps(tmp_path: Path) -> None:
    path = _folder(tmp_path / "extra", {"a": 1, "b": 1})
    item = {"source": "files", "path": path, "label": "folder", "keep_labels": False, "invert": True}
    public = load_public([item], 8, 1, 0)
    assert public.class_names == ("extra",)
    assert public.labels.tolist() == [0, 0]
    assert public.images.min() == 255


def _with_table(root: Path, classes: dict[str, int], finding: list[str]) -> str:
    """Class folders, and a column `finding` that says something else of the same pictures."""
    path = _folder(root, classes)
    names = [file.relative_to(path).as_posix() for file in sorted(Path(path).rglob("*.png"))]
    rows = [f"{name},{value}" for name, value in zip(names, finding, strict=True)]
    (root / "metadata.csv").write_text("\n".join(["file_name,finding", *rows]) + "\n")
    return path


def test_a_folder_has_the_labels_of_the_column_that_is_named(tmp_path: Path) -> None:
    item = {"source": "files", "path": _with_table(tmp_path, {"a": 1, "b": 2}, ["x", "y", "x"])}
    for label in ("label", "folder"):
        assert load_public([{**item, "label": label}], 8, 1, 0).class_names == ("a", "b")
    named = load_public([{**item, "label": "finding"}], 8, 1, 0)
    assert (named.class_names, named.labels.tolist()) == (("x", "y"), [0, 1, 0])
    with pytest.raises(DataError, match="no label column 'fnding'"):
        load_public([{**item, "label": "fnding"}], 8, 1, 0)


def test_numbers_without_names_that_meet_another_sources_classes_are_said(tmp_path: Path) -> None:
    pixels, labels = np.zeros((4, 8, 8, 1), np.uint8), np.arange(4)
    for name, names in (("one", None), ("two", None), ("named", ("a", "b", "c", "d"))):
        write_parquet(pixels, labels, names, tmp_path / f"{name}.parquet")
    one, two, named = (
        {"source": "files", "path": str(tmp_path / f"{name}.parquet")} for name in ("one", "two", "named")
    )
    public = load_public([named, one, two], 8, 1, 0)
    assert public.class_names == (*"abcd", *"0123")
    assert [note for note in public.notes if "numbers" in note] == [
        f"{two['path']}: labels are numbers without names, taken for the classes 0, 1, 2, 3 of other sources"
    ]
    assert any(
        f"{one['path']}: labels are numbers" in note for note in load_public([DIGITS, one], 8, 1, 0).notes
    )
    for apart in ([named, one], [DIGITS, DIGITS], [one, {**two, "keep_labels": False}]):
        assert not any("numbers" in note for note in load_public(apart, 8, 1, 0).notes)


def test_weights_decide_how_often_a_source_is_chosen() -> None:
    public = merged([_part(("a",), 1000), _part(("b",), 10)], [1.0, 3.0])
    chosen = public.choose(np.random.default_rng(0), 20_000)
    assert abs((chosen >= 1000).mean() - 0.75) < 0.02
    assert chosen.max() < 1010


@pytest.mark.parametrize(
    ("sources", "error", "match"),
    [
        ([], DataError, "no public source"),
        ([{"source": "drawn_digit"}], ParameterError, "unknown public source"),
        ([{"source": "files", "path": "/nowhere/x.parquet"}], DataError, "not found"),
        ([{**DIGITS, "weight": 0.0}], ParameterError, "weight"),
        ([{**DIGITS, "frame": "tigth"}], ParameterError, "unknown frame"),
    ],
)
def test_bad_sources(sources: list[dict[str, object]], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        load_public(sources, 16, 1, 0)
