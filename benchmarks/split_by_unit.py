"""Splits a parquet file of images into a training file and a held-out one, by unit.

Guarantee: all rows of a unit go the same way, decided by a fixed hash of its id alone, so that the split is
the same for everyone and for every order of rows. Needs pyarrow. The bytes of images, and the metadata that
make `datasets` open the file as it is, are kept.

    python benchmarks/split_by_unit.py chestxray64.parquet --unit patient_id --out xrays
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SALT = "held-out"


def is_held_out(unit: object, share: float) -> bool:
    """Whether a unit is held out: its hash, as a number in [0, 1), lies below `share`."""
    digest = hashlib.sha256(f"{SALT}/{unit}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split(path: Path, unit: str, share: float) -> tuple[pa.Table, pa.Table]:
    """The rows of the units that train, and of those that are held out; columns and order are kept."""
    table = pq.read_table(path)
    if unit not in table.column_names:
        raise SystemExit(f"error: {path} has no column {unit!r}; it has {', '.join(table.column_names)}")
    held_out = pa.array([is_held_out(value, share) for value in table[unit].to_pylist()])
    return table.filter(pc.invert(held_out)), table.filter(held_out)


def main() -> None:
    """Writes OUT-train.parquet and OUT-test.parquet, and says how many rows and units each has."""
    parser = argparse.ArgumentParser(description="Split a parquet file of images by unit.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--unit", required=True, help="column of the unit, such as patient_id")
    parser.add_argument("--share", type=float, default=0.2, help="part of the units that is held out")
    parser.add_argument("--out", required=True, help="start of the names of both files")
    options = parser.parse_args()
    parts = split(options.path, options.unit, options.share)
    for name, table in zip(("train", "test"), parts, strict=True):
        target = f"{options.out}-{name}.parquet"
        unfinished = f"{target}.unfinished"
        pq.write_table(table, unfinished)
        Path(unfinished).replace(target)
        units = len(table[options.unit].unique())
        print(f"{target}: {table.num_rows} images of {units} units")


if __name__ == "__main__":
    main()
