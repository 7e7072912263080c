"""Synthetic images on disk: one parquet file that `datasets` opens as images, or a folder of PNG files.

Guarantees: pixels survive exactly; no two classes share a folder; a folder is either complete or absent under
its final name. May import numpy, pyarrow and PIL. The parquet schema carries the `huggingface` metadata that
makes a column an image.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dp_diffusers.errors import ParameterError

FORMATS = ("parquet", "imagefolder")
CARD = "README.md"
EMPTY = ".no-images"  # `datasets` and other readers pass over names with a dot
_TABLE = "metadata.csv"
PARQUET = "data/train-00000-of-00001.parquet"


def write_images(
    images: np.ndarray,
    labels: np.ndarray | None,
    names: Sequence[str] | None,
    folder: Path,
    *,
    format: str,
    card: str | None = None,
    check: Callable[[Path], None] = lambda _: None,
) -> None:
    """Writes uint8 `[N, H, W, C]` images with int64 `[N]` labels into `folder`, which must not exist yet.

    `card`: the text of a `README.md` beside them. `check` looks at the finished files before they get their
    name; what it raises leaves nothing behind.
    Raises `ParameterError` for an unknown format or a folder that is there.
    """
    require_writable(folder, format)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        build_images(images, labels, names, temporary, format=format, card=card)
        check(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    temporary.rename(folder)


def build_images(
    images: np.ndarray,
    labels: np.ndarray | None,
    names: Sequence[str] | None,
    folder: Path,
    *,
    format: str,
    card: str | None = None,
) -> None:
    """As `write_images`, straight into `folder`: the caller moves it to its final name when it is whole."""
    write = _write_parquet if format == "parquet" else _write_folder
    write(images, labels, names, folder)
    if card is not None:
        (folder / CARD).write_text(card, encoding="utf-8")


def require_writable(folder: Path, format: str) -> None:
    """Raises `ParameterError` for an unknown format or a folder that is there already."""
    if format not in FORMATS:
        raise ParameterError(f"unknown image format {format!r}", hint=f"one of {', '.join(FORMATS)}")
    if folder.exists():
        raise ParameterError(f"{folder} is there already", hint="give another --out, or delete it")
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    if not os.access(there, os.W_OK):
        raise ParameterError(f"cannot write into {there}", hint="give another --out")


def png(image: np.ndarray) -> bytes:
    """One image as PNG bytes."""
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, format="PNG")
    return stream.getvalue()


def _write_parquet(
    images: np.ndarray, labels: np.ndarray | None, names: Sequence[str] | None, folder: Path
) -> None:
    path = folder / PARQUET
    path.parent.mkdir(parents=True)
    write_parquet(images, labels, names, path)


def write_parquet(
    images: np.ndarray, labels: np.ndarray | None, names: Sequence[str] | None, path: Path
) -> None:
    """uint8 `[N, H, W, C]` images with int64 `[N]` labels as the file `path`, not in one stroke."""
    encoded = [{"bytes": png(image), "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(encoded, type=kind)}
    features: dict[str, dict[str, object]] = {"image": {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(labels, type=pa.int64())
        features["label"] = (
            {"names": list(names), "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
        )
    table = pa.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, path)


def _names_a_folder(name: str) -> bool:
    """Whether a class's name, which may be a prompt, can be that of a folder everywhere."""
    own = name.casefold() in (CARD.casefold(), _TABLE)
    return (
        not own
        and len(name.encode()) < 200
        and name == name.strip(" .")
        and not set(name) & set('/\\:*?"<>|\0\n')
    )


def _mark_empty(folders: Iterable[Path]) -> None:
    """Makes those that are not there, for classes without images, or others would take their numbers.

    Each with a file that is none: a release holds plain files alone.
    """
    for folder in folders:
        if not folder.exists():
            folder.mkdir()
            (folder / EMPTY).touch()


def _write_folder(
    images: np.ndarray, labels: np.ndarray | None, names: Sequence[str] | None, folder: Path
) -> None:
    folder.mkdir(parents=True)
    plain = all(map(_names_a_folder, names or ())) and len(set(names or ())) == len(names or ())
    rows = []
    for index, image in enumerate(images):
        label = None if labels is None else int(labels[index])
        place = "." if label is None else (names[label] if plain and names else str(label))
        (folder / place).mkdir(exist_ok=True)
        name = f"{index:06d}.png" if label is None else f"{place}/{index:06d}.png"
        (folder / name).write_bytes(png(image))
        rows.append([name] if label is None else [name, label])
    if labels is not None:
        every = range(len(names) if names else int(labels.max(initial=-1)) + 1)
        _mark_empty(folder / (names[number] if plain and names else str(number)) for number in every)
    with (folder / _TABLE).open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name"] if labels is None else ["file_name", "label"])
        writer.writerows(rows)
