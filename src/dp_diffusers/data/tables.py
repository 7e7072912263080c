"""Images in tables of Arrow's types: encoded bytes in a column; labels, units and captions in others.

Guarantees that a missing or null unit id is refused (an unknown owner cannot be protected) and that nothing
is cached on disk. May import pyarrow. Layout: Hugging Face's Image feature, `{bytes, path}`, or raw bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from dp_diffusers.data.captions import checked_captions
from dp_diffusers.data.sources import RawImages, no_column
from dp_diffusers.data.unit_ids import checked_ids
from dp_diffusers.errors import DataError


class Table(Protocol):
    """One file of a set that is read in order. `place`: what errors call it."""

    @property
    def place(self) -> str: ...
    @property
    def schema(self) -> pa.Schema: ...
    @property
    def rows(self) -> int: ...
    def column(self, name: str) -> list[Any]:
        """Every value of a column, or of the field `a.b` of one as `{b: value}`."""
        ...

    def batches(self, name: str) -> Iterator[list[Any]]:
        """The values of a column, some at a time."""
        ...


def read_tables(
    path: str, tables: Sequence[Table], *, label: str | None, unit: str | None, caption: str | None
) -> RawImages:
    """The images of `tables`, which are what lies at `path`. `label`, `unit`, `caption`: columns, or None.

    Raises: `DataError` for a damaged or empty table, a column that is not there, null labels, ids or texts.
    """
    schema = tables[0].schema
    image = _image_column(path, schema)
    for kind, name in (("label", label), ("unit", unit), ("caption", caption)):
        for table in tables if name is not None else ():
            if name not in table.schema.names:
                raise no_column(table.place, kind, str(name), table.schema.names)
    count = sum(table.rows for table in tables)
    if count == 0:
        raise DataError(f"no images in {path}", hint="it has no rows")
    return RawImages(
        count=count,
        encoded=lambda: _encoded(tables, image),
        labels=None if label is None else _labels(path, label, _column(tables, label)),
        class_names=_declared_names(schema, label),
        units=None if unit is None else checked_ids(path, unit, _column(tables, unit)),
        captions=None if caption is None else checked_captions(path, caption, _column(tables, caption)),
        names=_names(tables, image),
    )


def _names(tables: Sequence[Table], image: str) -> list[str]:
    """What `{bytes, path}` calls its images, as far as it does."""
    kind = tables[0].schema.field(image).type
    if not (pa.types.is_struct(kind) and any(field.name == "path" for field in kind)):
        return []
    cells = _column(tables, f"{image}.path")
    return [str(cell["path"]) for cell in cells if cell is not None and cell["path"] is not None]


def _column(tables: Sequence[Table], name: str) -> list[Any]:
    values: list[Any] = []
    for table in tables:
        try:
            values += table.column(name)
        except (pa.ArrowException, OSError) as error:
            message = f"{table.place}: column {name!r} is damaged"
            raise DataError(message, hint="write or copy it again") from error
    return values


def _image_column(path: str, schema: pa.Schema) -> str:
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


def _encoded(tables: Sequence[Table], column: str) -> Iterator[tuple[str, bytes]]:
    for table in tables:
        row = 0
        try:
            for batch in table.batches(column):
                for value in batch:
                    data = value["bytes"] if isinstance(value, dict) else value
                    yield f"{table.place}, row {row}", data or b""
                    row += 1
        except (pa.ArrowException, OSError, KeyError) as error:
            message = f"{table.place}: damaged after row {row} (counted from 0)"
            raise DataError(message, hint="write or copy it again") from error


def _labels(path: str, name: str, values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values}
    if kinds in ({int}, {str}, {bool}):
        return [int(value) for value in values] if kinds == {bool} else values
    # as pandas writes what had gaps once
    if kinds == {float} and all(value.is_integer() for value in values):
        return [int(value) for value in values]
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
