"""What the scan is told of: names and ids in every way that a source has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp_diffusers.data import traces as made
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.traces import Traces
from dp_diffusers.leaks.scan import Secrets, leaks
from source_support import Row, parquet


def _found(traces: Traces, text: str, root: Path) -> bool:
    (root / "release").mkdir(exist_ok=True)
    (root / "release" / "README.md").write_text(text, encoding="utf-8")
    return bool(list(leaks(root / "release", Secrets(traces=traces))))


def _folder(root: Path, name: str) -> Traces:
    (root / name).parent.mkdir(parents=True)
    (root / name).write_bytes(Row(name="", shade=1).encoded)
    return PrivateImages.from_folder(root, labels=None).traces


def test_guarantee_folders_of_patients_are_known_without_a_table(tmp_path: Path) -> None:
    traces = _folder(tmp_path / "films", "Mueller_Hans_195701/a.png")
    assert _found(traces, "made for Mueller_Hans_195701", tmp_path)


def test_guarantee_no_name_of_a_folder_hides_those_of_files(tmp_path: Path) -> None:
    traces = _folder(tmp_path / "ward 3, row 2", "mueller_hans, row B.png")
    assert _found(traces, "of mueller_hans, row B.png", tmp_path)


def test_a_row_of_a_table_is_no_file(tmp_path: Path) -> None:
    path = parquet(tmp_path, [Row(name="one_image.png"), Row(name="two_images.png")])
    names = PrivateImages.from_parquet(path, label=None).traces.names
    assert names == {"one_image", "one_image.png", "two_images", "two_images.png"}


@pytest.mark.parametrize("name", ["山田^太郎", "김^민수", "Иван", "Ng^Wei"])
def test_guarantee_names_in_short_scripts_are_distinctive(name: str, tmp_path: Path) -> None:
    traces = Traces.of_names([], [name])
    assert _found(traces, f"for {name} and", tmp_path)
    assert not _found(traces, "for the others", tmp_path)


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("00123456", "id 00123456"),
        ("01234567", "id 01234567,"),
        (1234567.0, "id 1234567 of"),
        (1234567.0, "id 1234567.0"),
    ],
)
def test_guarantee_numbers_of_records_are_found_as_they_are_written(
    unit: object, text: str, tmp_path: Path
) -> None:
    traces = Traces.of_names([], [unit])
    assert _found(traces, text, tmp_path)
    assert not _found(traces, "123,456 and 001234560 of 12345678, 0.00123456", tmp_path)


def test_windows_are_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time copies all there are: with a million images, most of an hour after the budget is spent."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    whole, parts = Traces(), Traces()
    whole.add_pixels(images)
    monkeypatch.setattr(made, "_CHUNK", 4)
    calls: list[int] = []
    add = Traces._add

    def counted(self: Traces, *found: np.ndarray) -> None:
        calls.append(len(found))
        add(self, *found)

    monkeypatch.setattr(Traces, "_add", counted)
    parts.add_pixels(images)
    assert len(calls) == 1
    assert set(map(bytes, parts.windows)) == set(map(bytes, whole.windows))
