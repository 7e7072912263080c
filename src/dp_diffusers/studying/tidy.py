"""The runs of a study as tidy tables: CSV and parquet, one line for each run, with the same columns.

Guarantees that a column has one type; a setting that is text in one cell and a number in another is text in
all. May import pyarrow when called. Tidy data: Wickham (2014).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

WHOLE: Final = (
    "seed",
    "steps",
    "expected_rows_at_most",
    "trainable_parameters",
    "images",
    "rank",
    "noise_draws",
    "expected_units",
)
TEXT: Final = ("cell", "strategy", "targets")
NUMBERS: Final = (
    "epsilon",
    "delta",
    "accuracy",
    "seconds",
    "fid",
    "kid",
    "kid_standard_error",
    "precision",
    "recall",
    "density",
    "coverage",
    "clip_norm",
    "learning_rate",
)


def csv_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The rows as CSV with a head; None is empty, true and false as in a recipe."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _written(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def _written(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, bool) else value


def parquet_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], notes: Mapping[str, str]) -> bytes:
    """The rows as a parquet file, whose schema carries `notes`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays, fields = [], []
    for name in columns:
        kind, values = _typed(name, [row.get(name) for row in rows])
        arrays.append(pa.array(values, getattr(pa, kind)()))
        fields.append(pa.field(name, arrays[-1].type))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=dict(notes))), sink)
    return bytes(sink.getvalue().to_pybytes())


def _typed(name: str, values: list[Any]) -> tuple[str, list[Any]]:
    """The type of a column, as pyarrow calls it, and its values in it."""
    for kind, names in (("int64", WHOLE), ("string", TEXT), ("float64", NUMBERS)):
        if name in names:
            return kind, values
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return "bool_", values
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return ("int64" if all(isinstance(value, int) for value in known) else "float64"), values
    return "string", [_text(value) for value in values]


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
