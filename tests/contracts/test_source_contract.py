"""What every source of images must do; a new line in `SOURCES` needs an example, and inherits all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dp_diffusers.data import assembly, captions, csv_tables, dicom, unit_ids
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.sources import SOURCES, RawImages, kind_of
from dp_diffusers.data.traces import Traces
from dp_diffusers.errors import DataError, ExitCode
from dp_diffusers.leaks.scan import Secrets, leaks
from source_support import KINDS, Kind, Row, serve

CLASSES = ["well", "ill"]
ROWS = (
    Row(name="film-a-0815.png", shade=10, label="ill", unit="patient-0002", caption="a shadow on the left"),
    Row(name="film-b-0816.png", shade=20, label="well", unit="patient-0001"),
    Row(
        name="film-c-0817.png", shade=30, label="ill", unit="patient-0002", caption="after six weeks of care"
    ),
    Row(name="film-d-0818.png", shade=40, label="well", unit="patient-0003"),
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    serve(tmp_path, monkeypatch.setattr)
    return KINDS[str(request.param)]


def opened(kind: Kind, path: str, **options: Any) -> PrivateImages:
    named = {"label": kind.label, "unit": kind.unit, "caption_column": kind.caption, "classes": CLASSES}
    return PrivateImages.open(path, **{**named, **options})


def refused(kind: Kind, root: Path, rows: Sequence[Row], message: str, **options: Any) -> DataError:
    """One line and a hint, exit code 2, nothing of anybody's id or text."""
    with pytest.raises(DataError, match=message) as caught:
        opened(kind, kind.write(root, rows), **options)
    error = caught.value
    assert error.exit_code == ExitCode.BAD_INPUT
    assert "\n" not in error.message
    assert error.hint
    said = error.message + error.hint
    assert not [row.unit for row in rows if row.unit and row.unit in said]
    assert not [row.caption for row in rows if row.caption and row.caption in said]
    return error


def with_row(**changed: Any) -> list[Row]:
    return [*ROWS, Row(name="film-e-0819.png", **changed)]


def test_every_source_has_an_example() -> None:
    assert {kind.source for kind in KINDS.values()} == set(SOURCES)


def test_it_is_known_by_what_lies_there(kind: Kind, tmp_path: Path) -> None:
    assert kind_of(kind.write(tmp_path, ROWS)) == kind.source


def test_guarantee_pixels_labels_owners_and_texts_stay_together(kind: Kind, tmp_path: Path) -> None:
    path = kind.write(tmp_path, ROWS)
    data = opened(kind, path)
    assert data.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40]
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert data.class_names == tuple(CLASSES)
    assert data.owner.tolist() == [0, 1, 0, 2]
    assert data.unit == kind.unit
    assert data.captions == tuple(row.caption for row in ROWS)
    again = opened(kind, path)
    assert (again.images == data.images).all(), "the order is fixed"
    assert again.captions == data.captions


def test_a_method_of_its_own_opens_the_same(kind: Kind, tmp_path: Path) -> None:
    make = getattr(PrivateImages, f"from_{kind.source}")
    label = {"labels" if kind.source == "folder" else "label": kind.label}
    data = make(kind.write(tmp_path, ROWS), unit=kind.unit, classes=CLASSES, caption="{label}", **label)
    assert data.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40]
    assert (data.caption, data.captions) == ("{label}", None)


def test_nothing_but_images_is_needed(kind: Kind, tmp_path: Path) -> None:
    data = opened(kind, kind.write(tmp_path, ROWS), label=None, unit=None, caption_column=None, classes=None)
    assert (data.labels, data.class_names, data.captions) == (None, None, None)
    assert data.owner.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("missing", [None, " NaN"])
def test_guarantee_an_image_of_unknown_owner_is_refused(
    kind: Kind, missing: str | None, tmp_path: Path
) -> None:
    refused(kind, tmp_path, with_row(unit=missing), rf"unit column '{kind.unit}' is (missing|empty)")


def test_a_missing_text_is_refused(kind: Kind, tmp_path: Path) -> None:
    refused(kind, tmp_path, with_row(caption=None), rf"caption column '{kind.caption}' is (missing|empty)")


def test_a_missing_label_is_refused(kind: Kind, tmp_path: Path) -> None:
    refused(kind, tmp_path, with_row(label=None), rf"label column '{kind.label}' is (null|empty)")


def test_a_label_outside_the_declared_classes_is_refused(kind: Kind, tmp_path: Path) -> None:
    error = refused(kind, tmp_path, with_row(label="i11"), r"the label in row \d .* is not in data.classes")
    assert "i11" not in f"{error.message} {error.hint}"


@pytest.mark.parametrize("column", ["label", "unit", "caption"])
def test_an_unknown_column_names_the_nearest(kind: Kind, column: str, tmp_path: Path) -> None:
    known = getattr(kind, column)
    option = "caption_column" if column == "caption" else column
    error = refused(kind, tmp_path, ROWS, f"no {column} column '{known}x'", **{option: f"{known}x"})
    assert error.hint == f"did you mean {known!r}?"


def test_an_unreadable_image_is_named(kind: Kind, tmp_path: Path) -> None:
    refused(kind, tmp_path, with_row(broken=True), r"image cannot be read: .*(film-e-0819|row \d)")


def test_mixed_sizes_are_refused_with_what_to_do(kind: Kind, tmp_path: Path) -> None:
    error = refused(kind, tmp_path, with_row(size=9), "images of mixed sizes: 8x8 .* and 9x9")
    assert "data.resize" in str(error.hint)


def test_a_window_without_dicom_has_no_effect_and_is_refused(kind: Kind, tmp_path: Path) -> None:
    if kind.source == "dicom":
        data = opened(kind, kind.write(tmp_path, ROWS), window=[20, 20])
        assert data.images[:, 0, 0, 0].tolist() == [0, 128, 255, 255]
    else:
        refused(kind, tmp_path, ROWS, "data.window has no effect", window=[20, 20])


def test_guarantee_what_names_people_is_watched_in_a_release(kind: Kind, tmp_path: Path) -> None:
    traces = opened(kind, kind.write(tmp_path, ROWS)).traces
    (tmp_path / "release").mkdir()
    for text in ("film-a-0815", "patient-0002", "a shadow on the left"):
        assert _is_found(text, traces, tmp_path / "release"), text
    assert not _is_found("a film of nobody", traces, tmp_path / "release")


def _is_found(text: str, traces: Traces, folder: Path) -> bool:
    (folder / "README.md").write_text(f"an image of {text}, made up")
    return bool(list(leaks(folder, Secrets(traces=traces))))


def test_nothing_private_is_shown(kind: Kind, tmp_path: Path) -> None:
    data = opened(kind, kind.write(tmp_path, ROWS))
    shown = repr(data) + "".join(data.notes)
    assert "film" not in shown
    assert "patient" not in shown
    assert "shadow" not in shown


def test_guarantee_nothing_is_written_anywhere(tmp_path: Path) -> None:
    """In a process of its own, with an ear at every file that Python opens and every folder it makes."""
    jobs = []
    for name, kind in KINDS.items():
        (tmp_path / name).mkdir()
        jobs.append([str(tmp_path / name), kind.write(tmp_path / name, ROWS), *_columns(kind)])
    before = _files(tmp_path)
    home = {name: str(tmp_path) for name in ("HOME", "HF_HOME", "TMPDIR", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-B", str(Path(__file__).with_name("source_listener.py")), json.dumps(jobs)],
        env={**os.environ, **home, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"opened": len(KINDS), "written": [], "heard": True}
    assert _files(tmp_path) == before


def _columns(kind: Kind) -> tuple[str, str, str]:
    return kind.label, kind.unit, kind.caption


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _take_all_values(patch: pytest.MonkeyPatch) -> None:
    for module in (captions, csv_tables, dicom, unit_ids):
        patch.setattr(module, "is_missing", lambda value: False)


def _watch_no_text(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Traces, "add_captions", lambda traces, texts: None)


def _cross_texts(patch: pytest.MonkeyPatch) -> None:
    real = assembly.open_source

    def crossed(*given: Any, **named: Any) -> RawImages:
        raw = real(*given, **named)
        raw.captions = None if raw.captions is None else raw.captions[::-1]
        return raw

    patch.setattr(assembly, "open_source", crossed)


PLANTED: list[tuple[str, Callable[[pytest.MonkeyPatch], None], Callable[[Kind, Path], None]]] = [
    (
        "a missing owner taken for a person",
        _take_all_values,
        lambda kind, root: test_guarantee_an_image_of_unknown_owner_is_refused(kind, " NaN", root),
    ),
    ("a missing text taken for one", _take_all_values, test_a_missing_text_is_refused),
    ("texts that nobody watches", _watch_no_text, test_guarantee_what_names_people_is_watched_in_a_release),
    ("texts of others", _cross_texts, test_guarantee_pixels_labels_owners_and_texts_stay_together),
]


@pytest.mark.planted
@pytest.mark.parametrize(("name", "plant", "test"), PLANTED, ids=[row[0] for row in PLANTED])
@pytest.mark.parametrize("source", ["csv", "dicom", "parquet"])
def test_a_planted_defect_is_seen(
    source: str,
    name: str,
    plant: Callable[[pytest.MonkeyPatch], None],
    test: Callable[[Kind, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test(KINDS[source], tmp_path)
