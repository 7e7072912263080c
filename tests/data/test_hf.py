"""Hugging Face data sets: what `save_to_disk` wrote, and parquet files of the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dp_diffusers.data import hub, tables, unit_ids
from dp_diffusers.data.hub import HubName, parsed
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import DataError
from source_support import Row, saved, serve, table

ROWS = [Row(name=f"{shade}.png", shade=shade, unit=f"patient-{shade // 20}") for shade in (0, 10, 20, 30)]
MADE_BY_DATASETS = """
import sys
import datasets
from PIL import Image
kinds = datasets.Features(
    image=datasets.Image(), label=datasets.ClassLabel(names=["well", "ill"]), person=datasets.Value("string")
)
columns = {
    "image": [Image.new("L", (8, 8), shade) for shade in (0, 10, 20, 30)],
    "label": [1, 0, 1, 0],
    "person": ["a", "a", "b", "c"],
}
made = datasets.Dataset.from_dict(columns, features=kinds)
made.save_to_disk(sys.argv[1], num_shards=2)
made.select([3, 1]).save_to_disk(sys.argv[2])
datasets.DatasetDict(train=made, test=made).save_to_disk(sys.argv[3])
"""


@pytest.mark.slow  # the library takes seconds to start
def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("all", "some", "splits")]
    subprocess.run(
        [sys.executable, "-c", MADE_BY_DATASETS, *places],
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        check=True,
    )
    images = PrivateImages.open(places[0], label="label", unit="person")
    assert images.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0, 1, 0]
    assert images.class_names == ("well", "ill")
    assert images.owner.tolist() == [0, 0, 1, 2]
    assert PrivateImages.from_hf(places[1]).images[:, 0, 0, 0].tolist() == [30, 10]
    with pytest.raises(DataError, match="holds several splits: test, train") as caught:
        PrivateImages.open(places[2])
    assert str(caught.value.hint).endswith(os.path.join(places[2], "train"))
    assert PrivateImages.open(os.path.join(places[2], "train"), label="label").unit_count == 4


def _state(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        state = json.loads((folder / "state.json").read_text())
        change(state)
        (folder / "state.json").write_text(json.dumps(state))

    return spoil


def _cut(folder: Path) -> None:
    file = next(folder.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:200])


BAD: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: (folder / "state.json").unlink(), "has no state.json"),
    (lambda folder: (folder / "state.json").write_text("{"), "state.json is damaged"),
    (_state(lambda state: state.pop("_data_files")), "state.json is damaged"),
    (_state(lambda state: state.update(_data_files=[])), "no images in"),
    (_state(lambda state: state.update(_indices_data_files=[{"filename": "i"}])), "selection of rows"),
    (lambda folder: (folder / "data-00000-of-00002.arrow").unlink(), "file not found: .*data-00000"),
    (_cut, "not an Arrow file, or a damaged one"),
    (lambda folder: (folder / "data-00001-of-00002.arrow").write_text("x"), "not an Arrow file"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[row[1][:24] for row in BAD])
def test_a_damaged_folder_is_one_clear_line(
    spoil: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    saved(tmp_path, ROWS)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        PrivateImages.open(tmp_path)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def _replaced(folder: Path, rows: Sequence[Row]) -> None:
    """As another process writes a data set anew: whole files take the places of those that are mapped."""
    (folder / "new").mkdir()
    saved(folder / "new", rows)
    for file in (folder / "new").glob("*.arrow"):
        os.replace(file, folder / file.name)


def _in_place(folder: Path, rows: Sequence[Row]) -> None:
    """The same, into the files themselves; they keep their length, and so the mapping its pages."""
    (folder / "new").mkdir()
    saved(folder / "new", rows)
    for file in (folder / "new").glob("*.arrow"):
        with (folder / file.name).open("r+b") as stream:
            stream.write(file.read_bytes())


@pytest.mark.parametrize("rewrite", [_replaced, _in_place])
@pytest.mark.parametrize("rows", [ROWS[::-1], ROWS[:2]], ids=["other order", "fewer"])
def test_guarantee_a_data_set_written_anew_while_it_is_read_gives_nobody_the_images_of_others(
    rows: list[Row],
    rewrite: Callable[[Path, Sequence[Row]], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if rewrite is _in_place and len(rows) < len(ROWS):
        rows = [*rows[::-1], *rows]  # fewer people, as many rows
    saved(tmp_path, ROWS)
    for file in tmp_path.glob("*.arrow"):
        os.utime(file, (0, 0))  # the clock of files stands still for some milliseconds
    ids = unit_ids.checked_ids

    def then_rewritten(*given: Any) -> list[object]:
        found = ids(*given)
        rewrite(tmp_path, rows)
        return found

    monkeypatch.setattr(tables, "checked_ids", then_rewritten)
    with pytest.raises(DataError, match="was changed while it was read") as caught:
        PrivateImages.open(tmp_path, unit="person")
    assert caught.value.hint


def test_names_of_the_hub() -> None:
    assert parsed("hf://me/x-rays") == HubName(name="me/x-rays")
    assert parsed("hf://me/x.1:test") == HubName(name="me/x.1", split="test")
    assert parsed("hf://me/x:v2/test") == HubName(name="me/x", split="test", configuration="v2")
    for wrong in ("hf://", "hf://me", "hf://me/x/y", "hf://me/x:", "hf://me/../x", "hf://me/x:a/b/c"):
        with pytest.raises(DataError, match=r"expected hf://owner/name\[:split\]"):
            parsed(wrong)


def served(root: Path, files: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one image, each of another shade, below the Hub's data sets."""
    for shade, name in enumerate(files):
        (root / "datasets" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table([Row(name="a.png", shade=shade)]), root / "datasets" / name)
    serve(root, monkeypatch.setattr)


def shades(path: str) -> list[int]:
    found: list[int] = PrivateImages.open(path).images[:, 0, 0, 0].tolist()
    return found


def test_a_split_is_found_in_either_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [f"me/a/data/{name}-0000{n}-of-00002.parquet" for name in ("train", "test") for n in (0, 1)]
    files += ["me/b/train.parquet", "me/b/test.parquet"]
    files += [f"me/c@refs%2Fconvert%2Fparquet/{where}/0000.parquet" for where in ("v1/train", "v1/test")]
    served(tmp_path, files, monkeypatch)
    assert shades("hf://me/a") == [0, 1]
    assert shades("hf://me/a:test") == [2, 3]
    assert shades("hf://me/b:test") == [5]
    served(tmp_path, ["clinic/x-rays/train.parquet"], monkeypatch)
    assert "clinic/x-rays" in PrivateImages.open("hf://clinic/x-rays").traces.ids, (
        "where images lie is private"
    )
    (tmp_path / "datasets/me/c").mkdir()
    assert shades("hf://me/c") == [6], "the Hub's conversion stands in where there is no parquet"
    assert shades("hf://me/c:v1/test") == [7]


def test_several_configurations_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(tmp_path, ["me/a/v1/train/0.parquet", "me/a/v2/train/0.parquet"], monkeypatch)
    with pytest.raises(DataError, match="several configurations: v1, v2") as caught:
        shades("hf://me/a")
    assert caught.value.hint == "name one, as in hf://me/a:v1/train"
    assert shades("hf://me/a:v2/train") == [1]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hf://me/a:valid", "has no split 'valid' among data/train-0.parquet"),
        ("hf://me/a:v1/train", "has no split 'train' among"),
        ("hf://me/none", "holds no parquet file"),
    ],
)
def test_what_the_hub_does_not_have(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(tmp_path, ["me/a/data/train-0.parquet"], monkeypatch)
    with pytest.raises(DataError, match=message) as caught:
        shades(path)
    assert caught.value.hint


def test_the_names_that_the_hub_answers_with_are_understood() -> None:
    wanted = HubName(name="me/c")
    for revision in ("", "@main", "@refs/convert/parquet", "@refs%2Fconvert%2Fparquet"):
        assert hub._relative(f"datasets/me/c{revision}/v1/train/0.parquet", wanted) == "v1/train/0.parquet"


def test_without_a_network_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"hf://me/x cannot be reached \(\w+\)") as caught:
        PrivateImages.open("hf://me/x", label="label")
    assert "\n" not in caught.value.message
    assert "network" in str(caught.value.hint)


def test_a_data_set_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def find(self, root: str) -> list[str]:
            raise FileNotFoundError(root)

    monkeypatch.setattr(hub, "_file_system", Nothing)
    with pytest.raises(DataError, match="data set not found: hf://me/x"):
        PrivateImages.open("hf://me/x")
