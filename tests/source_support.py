"""The same few images as every kind of source: what one row says is what each kind must read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dp_diffusers.data import hub


@dataclass(frozen=True, kw_only=True)
class Row:
    """An image of one shade, and what is said of it, None for nothing. broken: bytes that are no image."""

    name: str
    shade: int = 0
    size: int = 8
    label: str | None = "well"
    unit: str | None = "patient-0001"
    caption: str | None = "a film of the chest, taken upright"
    broken: bool = False

    @property
    def encoded(self) -> bytes:
        stream = io.BytesIO()
        Image.new("L", (self.size, self.size), self.shade).save(stream, "PNG")
        return b"not an image" if self.broken else stream.getvalue()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a kind of source is written, what its columns are called, and the source that reads it."""

    source: str
    write: Callable[[Path, Sequence[Row]], str]
    label: str = "finding"
    unit: str = "person"
    caption: str = "text"


COLUMNS = ("finding", "person", "text")


def _cells(rows: Sequence[Row]) -> dict[str, list[str | None]]:
    return {
        "finding": [row.label for row in rows],
        "person": [row.unit for row in rows],
        "text": [row.caption for row in rows],
    }


def _write_csv(path: Path, image: str, rows: Sequence[Row], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow([image, *COLUMNS])
        writer.writerows([row.name, row.label or "", row.unit or "", row.caption or ""] for row in rows)


def folder(root: Path, rows: Sequence[Row]) -> str:
    for row in rows:
        (root / row.name).write_bytes(row.encoded)
    _write_csv(root / "metadata.csv", "file_name", rows)
    return str(root)


def manifest(root: Path, rows: Sequence[Row], suffix: str = ".csv") -> str:
    (root / "films").mkdir()
    for row in rows:
        (root / "films" / row.name).write_bytes(row.encoded)
    listed = [Row(**{**vars(row), "name": f"films/{row.name}"}) for row in rows]
    _write_csv(root / f"list{suffix}", "path", listed, "\t" if suffix == ".tsv" else ",")
    return str(root / f"list{suffix}")


def tabs(root: Path, rows: Sequence[Row]) -> str:
    return manifest(root, rows, ".tsv")


def table(rows: Sequence[Row]) -> pa.Table:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": row.encoded, "path": row.name} for row in rows]
    texts = {name: pa.array(cells, pa.string()) for name, cells in _cells(rows).items()}
    return pa.table({"image": pa.array(images, kind), **texts})


def parquet(root: Path, rows: Sequence[Row]) -> str:
    pq.write_table(table(rows), root / "images.parquet")
    return str(root / "images.parquet")


def saved(root: Path, rows: Sequence[Row]) -> str:
    """As `save_to_disk` writes it, in two files."""
    half = len(rows) // 2
    names = [f"data-{part:05}-of-00002.arrow" for part in range(2)]
    for name, part in zip(names, (rows[:half], rows[half:])):
        found = table(part)
        with pa.ipc.new_stream(str(root / name), found.schema) as stream:
            stream.write_table(found, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (root / "state.json").write_text(json.dumps(state))
    (root / "dataset_info.json").write_text("{}")
    return str(root)


def on_a_hub(root: Path, rows: Sequence[Row]) -> str:
    """As the Hub serves it; `serve` stands in for the network."""
    place = root / "datasets/clinic/films/data"
    place.mkdir(parents=True)
    pq.write_table(table(rows), place / "train-00000-of-00001.parquet")
    return "hf://clinic/films"


def serve(root: Path, setattr_: Callable[..., None]) -> None:
    """Has the Hub's file system read below `root`, through fsspec's own file systems."""
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    setattr_(hub, "_file_system", lambda: DirFileSystem(str(root), LocalFileSystem()))


def dicom(root: Path, rows: Sequence[Row]) -> str:
    for row in rows:
        file = root / Path(row.name).with_suffix(".dcm")
        if row.broken:
            dicom_file(file, np.zeros((8, 8), np.uint8), **_said(row))
            file.write_bytes(file.read_bytes()[:-60])
        else:
            dicom_file(file, np.full((row.size, row.size), row.shade, np.uint8), **_said(row))
    return str(root)


def _said(row: Row) -> dict[str, Any]:
    said = {"SeriesDescription": row.label, "PatientID": row.unit, "ImageComments": row.caption}
    return {keyword: value for keyword, value in said.items() if value is not None}


def dicom_file(path: Path, pixels: np.ndarray, **header: Any) -> None:
    """A DICOM file of `[H, W]` or `[H, W, 3]` pixels; `header` adds to what it says, or replaces it."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    bits = 8 * pixels.itemsize
    colours = pixels.shape[2] if pixels.ndim == 3 and pixels.shape[2] == 3 else 1
    plain = {
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": colours,
        "PhotometricInterpretation": "RGB" if colours == 3 else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(np.issubdtype(pixels.dtype, np.signedinteger)),
        "PixelData": pixels.tobytes(),
        **({"PlanarConfiguration": 0} if colours == 3 else {}),
    }
    for keyword, value in {**plain, **header}.items():
        if value is not None:
            setattr(file, keyword, value)
    if "PixelData" in file:
        file["PixelData"].VR = "OB" if bits == 8 else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


KINDS: dict[str, Kind] = {
    "csv": Kind(source="csv", write=manifest),
    "tsv": Kind(source="csv", write=tabs),
    "dicom": Kind(
        source="dicom",
        write=dicom,
        label="SeriesDescription",
        unit="PatientID",
        caption="ImageComments",
    ),
    "folder": Kind(source="folder", write=folder),
    "hf": Kind(source="hf", write=saved),
    "hub": Kind(source="hf", write=on_a_hub),
    "parquet": Kind(source="parquet", write=parquet),
}
