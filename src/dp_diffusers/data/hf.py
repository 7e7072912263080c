"""Images of a Hugging Face data set: a folder of `save_to_disk`, or parquet files of the Hub.

Guarantees that nothing is cached or copied on disk: the Arrow files are mapped where they lie, and no caching
loader is used; and that all columns are of one writing of a file: one that changes meanwhile is refused.
May import pyarrow. Layout: Arrow's streaming format, the files named in `state.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dp_diffusers.data.hub import hub_tables, parsed
from dp_diffusers.data.real_paths import require_distinct
from dp_diffusers.data.sources import RawImages, is_hub, source
from dp_diffusers.data.tables import Table, read_tables
from dp_diffusers.errors import DataError

_AGAIN = "save or copy it again"


class ArrowTable:
    """A file of Arrow's streaming format; see `tables.Table`."""

    def __init__(self, path: Path) -> None:
        """Raises: `DataError` for a file that is not there, or not such a file."""
        self.place = str(path)
        self._path = path
        try:
            self._written = _state(path)
            # mapped once: ids and pixels of two writings of a file would give images to other people
            self._content = pa.memory_map(str(path)).read_buffer()
            with self._stream() as stream:
                self.schema = stream.schema
                self.rows = sum(batch.num_rows for batch in stream)
        except FileNotFoundError as error:
            raise DataError(f"file not found: {path}", hint=f"state.json names it: {_AGAIN}") from error
        except (pa.ArrowException, OSError) as error:
            message = f"{path}: not an Arrow file, or a damaged one"
            raise DataError(message, hint=_AGAIN) from error

    def column(self, name: str) -> list[Any]:
        """Every value of a column, or of the field `a.b` of one as `{b: value}`."""
        outer, _, inner = name.partition(".")
        if name in self.schema.names:
            outer, inner = name, ""
        values: list[Any] = []
        with self._stream() as stream:
            for batch in stream:
                found = batch.column(outer)
                # without the field `bytes`, which is as long as the file
                values += (pc.struct_field(found, inner) if inner else found).to_pylist()
        return [{inner: value} for value in values] if inner else values

    def batches(self, name: str) -> Iterator[list[Any]]:
        """The values of a column, some at a time. Raises: `DataError` at the end of a file that changed."""
        with self._stream() as stream:
            for batch in stream:
                yield batch.column(name).to_pylist()
        if _state(self._path) != self._written:  # what is written in place shows through the mapping
            raise DataError(
                f"{self.place} was changed while it was read", hint="read it again once it is written"
            )

    def _stream(self) -> Any:
        return pa.ipc.open_stream(pa.BufferReader(self._content))


def _state(path: Path) -> tuple[int, int, int]:
    """What tells one writing of a file from the next."""
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


@source("hf")
def read_hf(path: str | Path, *, label: str | None, unit: str | None, caption: str | None) -> RawImages:
    """Images of a folder of `save_to_disk`, or of `hf://owner/name[:split]`. `label`, `unit`, `caption`:
    columns, or None.

    Raises: `DataError` for a folder of several splits, a damaged or missing file, a data set that cannot be
    reached, a column that is not there, null labels, ids or texts.
    """
    tables: list[Table] = []
    if is_hub(path):
        tables += hub_tables(str(path))
    else:
        tables += [ArrowTable(Path(path) / name) for name in _files(Path(path))]
    raw = read_tables(str(path), tables, label=label, unit=unit, caption=caption)
    # what a folder's path is elsewhere: where the images lie
    return replace(raw, ids=[parsed(str(path)).name]) if is_hub(path) else raw


def _files(folder: Path) -> list[str]:
    """The Arrow files that `state.json` names, in its order."""
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        names = sorted(item.name for item in folder.iterdir() if (item / "state.json").is_file())
        raise DataError(
            f"{folder} holds several splits: {', '.join(names) or 'none'}",
            hint="data.path names one of them" + (f", as in {folder / names[-1]}" if names else ""),
        )
    state = folder / "state.json"
    try:
        found = json.loads(state.read_text(encoding="utf-8"))
        files = [str(item["filename"]) for item in found["_data_files"]]
    except FileNotFoundError as error:
        raise DataError(f"{folder} has no state.json", hint="it is what save_to_disk writes") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{state} is damaged", hint=_AGAIN) from error
    if found.get("_indices_data_files"):
        raise DataError(
            f"{folder} holds a selection of rows that was never written out",
            hint="call flatten_indices() before save_to_disk",
        )
    if not files:
        raise DataError(f"no images in {folder}", hint="it has no rows")
    require_distinct(folder, files)
    return files
