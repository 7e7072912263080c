"""Images of parquet files: encoded bytes in a column, labels and units in others.

Guarantees that a missing or null unit id is refused (an unknown owner cannot be protected) and that nothing
is cached on disk. May import pyarrow. Layout: Hugging Face's Image feature, `{bytes, path}`, or raw bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from dp_diffusers.data.sources import RawImages, no_column, source
from dp_diffusers.data.unit_ids import checked_ids
from dp_diffusers.errors import DataError

Opened: TypeAlias = tuple[Path, pq.ParquetFile]


@source("parquet")
def read_parquet(path: Path, *, label: str | None, unit: str | None) -> RawImages:
    """Images of a parquet file, or of all below a folder. `label`, `unit`: column names, or None.

    Raises: `DataError` for a damaged or empty file, a column that is not there, null labels or unit ids.
    """
    files = [_open(file) for file in parquet_files(path)]
    schema = files[0][1].schema_arrow
    image = _image_column(path, schema)
    for kind, name in (("label", label), ("unit", unit)):
        for place, file in files if name is not None else ():
            if name not in file.schema_arrow.names:
                raise no_column(place, kind, str(name), file.schema_arrow.names)
    count = sum(file.metadata.num_rows for _, file in files)
    if count == 0:
        raise DataError(f"no images in {path}", hint="it has no rows")
    return RawImages(
        count=count,
        encoded=lambda: _encoded(files, image),
        labels=None if label is None else _labels(path, label, _column(files, label)),
        class_names=_declared_names(schema, label),
        units=None if unit is None else checked_ids(path, unit, _column(files, unit)),
        names=_names(files, image),
    )


def parquet_files(path: Path) -> list[Path]:
    """`path` itself, or the parquet files below a folder, sorted. Raises: `DataError` where there is none."""
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not found:
        raise DataError(f"no parquet file in {path}")
    return found


def _names(files: list[Opened], image: str) -> list[str]:
    """What `{bytes, path}` calls its images, as far as it does."""
    kind = files[0][1].schema_arrow.field(image).type
    if not (pa.types.is_struct(kind) and any(field.name == "path" for field in kind)):
        return []
    cells = _column(files, f"{image}.path")
    return [str(cell["path"]) for cell in cells if cell is not None and cell["path"] is not None]


def _open(path: Path) -> Opened:
    if not path.is_file():
        raise DataError(f"file not found: {path}")
    try:
        return path, pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        message = f"{path}: not a parquet file, or a damaged one"
        raise DataError(message, hint="write or copy it again") from error


def _column(files: list[Opened], name: str) -> list[Any]:
    values: list[Any] = []
    for path, file in files:
        try:
            values += file.read(columns=[name]).column(0).to_pylist()
        except (pa.ArrowException, OSError) as error:
            message = f"{path}: column {name!r} is damaged"
            raise DataError(message, hint="write or copy it again") from error
    return values


def _image_column(path: Path, schema: pa.Schema) -> str:
    """`image` if there, else the only column that holds encoded images."""
    found = [field.name for field in schema if _holds_images(field.type)]
    if "image" in found or len(found) == 1:
        return "image" if "image" in found else str(found[0])
    hint = "expected a column `image` of bytes, or of {bytes, path} as Hugging Face writes it"
    raise DataError(f"{path}: no image column among {', '.join(schema.names)}", hint=hint)


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _encoded(files: list[Opened], column: str) -> Iterator[tuple[str, bytes]]:
    for path, file in files:
        row = 0
        try:
            for batch in file.iter_batches(batch_size=1024, columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield f"{path}, row {row}", (value["bytes"] if isinstance(value, dict) else value) or b""
                    row += 1
        except (pa.ArrowException, OSError, KeyError) as error:
            message = f"{path}: damaged after row {row} (counted from 0)"
            raise DataError(message, hint="write or copy it again") from error


def _labels(path: Path, name: str, values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values}
    if kinds in ({int}, {str}, {bool}):
        return [int(value) for value in values] if kinds == {bool} else values
    row = next((index for index, value in enumerate(values) if value is None), None)
    if row is not None:
        raise DataError(
            f"{path}: label column {name!r} is null in row {row} (counted from 0)",
            hint="remove or label that row",
        )
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise DataError(
        f"{path}: expected label column {name!r} to hold whole numbers or text, got {found}",
        hint="data.label names another column; null is none",
    )


def _declared_names(schema: pa.Schema, label: str | None) -> tuple[str, ...] | None:
    """Class names in the `huggingface` schema metadata, if it is there and sound."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if label is None or raw is None:
        return None
    try:
        names = json.loads(raw)["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None
