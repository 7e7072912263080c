"""Parquet files of a data set of the Hugging Face Hub, read into memory.

Guarantees that no byte of it is written on this machine: files are streamed into memory, past the cache of
the Hub's client. May import huggingface_hub (inside functions) and pyarrow. Where a data set is not of
parquet files itself, the Hub's own conversion of it is read, the branch `refs/convert/parquet`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from dp_diffusers.data.parquet import ParquetTable
from dp_diffusers.data.sources import HUB
from dp_diffusers.errors import DataError

_CONVERTED = "@refs%2Fconvert%2Fparquet"
_WRITTEN = "write it as hf://owner/name, or hf://owner/name:split; the split is train if none is named"


@dataclass(frozen=True, kw_only=True)
class HubName:
    """A data set of the Hub, which split of it, and which configuration where it has several."""

    name: str
    split: str = "train"
    configuration: str | None = None

    def owns(self, file: str) -> bool:
        """Whether a file, named relative to the data set, is of this split and configuration."""
        *folders, last = PurePosixPath(file).parts
        named = last.split("-")[0].removesuffix(".parquet") == self.split
        if self.configuration is not None and self.configuration not in folders:
            return False
        return named or self.split in folders


def parsed(path: str) -> HubName:
    """`hf://owner/name[:[configuration/]split]`. Raises: `DataError` for anything else."""
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?::(?:([\w.-]+)/)?([\w.-]+))?", path)
    if found is None:
        raise DataError(f"expected hf://owner/name[:split], got {path}", hint=_WRITTEN)
    name, configuration, split = found.groups()
    return HubName(name=name, split=split or "train", configuration=configuration)


def hub_tables(path: str) -> list[ParquetTable]:
    """The parquet files of `hf://owner/name[:split]`, in the order of their names.

    Raises: `DataError` where the data set cannot be reached or read, or has no such split.
    """
    wanted = parsed(path)
    system = _file_system()
    try:
        files = _parquet_files(system, wanted)
        _require_one(path, wanted, files)
        contents = [(file, _content(system, file)) for file in files if wanted.owns(_relative(file, wanted))]
    except DataError:
        raise
    except Exception as error:  # the client raises what its transport, cache and server like
        raise _unreachable(path, error) from error
    return [ParquetTable(f"{HUB}{_relative(file, wanted)}", content) for file, content in contents]


def _file_system() -> Any:
    """The Hub as a file system: opening its files in blocks of 0 streams them into memory."""
    from huggingface_hub import HfFileSystem

    return HfFileSystem(skip_instance_cache=True)


def _parquet_files(system: Any, wanted: HubName) -> list[str]:
    """Of the data set itself, else of its conversion."""
    for root in (f"datasets/{wanted.name}", f"datasets/{wanted.name}{_CONVERTED}"):
        try:
            found = sorted(str(file) for file in system.find(root) if str(file).endswith(".parquet"))
        except FileNotFoundError:
            if root.endswith(_CONVERTED):
                return []
            raise
        if found:
            return found
    return []


def _require_one(path: str, wanted: HubName, files: list[str]) -> None:
    """Raises: `DataError` unless the files of the split are there and of one configuration."""
    names = [_relative(file, wanted) for file in files]
    if not names:
        raise DataError(
            f"{path} holds no parquet file", hint="download it, and give the folder of its images"
        )
    own = [name for name in names if wanted.owns(name)]
    if not own:
        shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        raise DataError(f"{path} has no split {wanted.split!r} among {shown}", hint=_WRITTEN)
    places = sorted({_configuration(name, wanted.split) for name in own})
    if len(places) > 1:
        raise DataError(
            f"{path} has several configurations: {', '.join(places)}",
            hint=f"name one, as in {HUB}{wanted.name}:{places[0]}/{wanted.split}",
        )


def _configuration(name: str, split: str) -> str:
    """The folder that a file lies in, the split's own left out."""
    folders = [part for part in PurePosixPath(name).parts[:-1] if part != split]
    return folders[-1] if folders else "data"


def _relative(file: str, wanted: HubName) -> str:
    """A file's name inside the data set: the Hub's answers may carry the revision or not."""
    revision = "(@refs/convert/parquet|@[^/]*)?"
    return re.sub(rf"^datasets/{re.escape(wanted.name)}{revision}/", "", file)


def _content(system: Any, file: str) -> pa.Buffer:
    with system.open(file, "rb", block_size=0) as stream:
        return pa.py_buffer(stream.read())


def _unreachable(path: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(
            f"data set not found: {path}", hint="check its name; one that is not public needs a login"
        )
    return DataError(
        f"{path} cannot be reached ({type(error).__name__})",
        hint="the Hub needs the network; or give a folder, a parquet file or a folder of save_to_disk",
    )
