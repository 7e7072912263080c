"""Encoded prompts as tables: one row for each prompt, and one more for no prompt.

Guarantees: a row is a function of its own prompt and of public weights, since prompts are encoded one at a
time; a table kept in a folder is used again for the very prompts and model that it was made of. May import
numpy and torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dp_diffusers.whole_files import write_text

Encoding = Mapping[str, torch.Tensor]
_NOTE = "prompts.json"
_KEPT_EVERY = 64  # prompts: what a kill loses at most


@dataclass(frozen=True, kw_only=True)
class PromptTable:
    """`columns`: by name, `[P + 1, ...]` of what the network takes of each prompt, in memory or in files."""

    columns: Mapping[str, np.ndarray]

    def rows(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[R, ...]` of each column, on the device of `labels` `[R]`."""
        index = labels.cpu().numpy()
        found = {name: torch.from_numpy(np.array(column[index])) for name, column in self.columns.items()}
        return {name: value.to(labels.device) for name, value in found.items()}


def encoded(prompts: Sequence[str], encode: Callable[[str | None], Encoding]) -> PromptTable:
    """The table of the prompts in memory. encode: one prompt, or None for no prompt, without a batch."""
    rows = [_arrays(encode(prompt)) for prompt in (*prompts, None)]
    return PromptTable(columns={name: np.stack([row[name] for row in rows]) for name in rows[0]})


def kept(
    prompts: Sequence[str], encode: Callable[[str | None], Encoding], folder: Path, model: str
) -> PromptTable:
    """The table in files of `folder`, which is of the safe where prompts are private; goes on after a kill.

    model: what tells the model that encodes them from all others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = (*prompts, None)
    key = hashlib.sha256(json.dumps([model, *texts]).encode()).hexdigest()
    done, columns = _started(folder, key, len(texts))
    for place in range(done, len(texts)):
        for name, value in _arrays(encode(texts[place])).items():
            if name not in columns:
                columns[name] = _new_file(folder / f"{name}.npy", value, len(texts))
            columns[name][place] = value
        if (place + 1) % _KEPT_EVERY == 0 or place + 1 == len(texts):
            _note(folder, key, place + 1, columns)
    return PromptTable(columns={name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in columns})


def _arrays(encoding: Encoding) -> dict[str, np.ndarray]:
    """On the CPU, in float32 where they are floating."""
    plain = {name: value.detach().cpu() for name, value in encoding.items()}
    return {
        name: (value.float() if value.is_floating_point() else value).numpy() for name, value in plain.items()
    }


def _started(folder: Path, key: str, count: int) -> tuple[int, dict[str, np.ndarray]]:
    """How many rows are in the files already, and the files; a folder that is not whole is begun again."""
    try:
        found = json.loads((folder / _NOTE).read_text())
        if found["key"] == key:
            columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in found["columns"]}
            if all(len(column) == count for column in columns.values()):
                return int(found["done"]), columns
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        pass  # cut off, or none yet: encoding again costs time only
    for path in (folder / _NOTE, *folder.glob("*.npy")):
        path.unlink(missing_ok=True)
    return 0, {}


def _new_file(path: Path, value: np.ndarray, count: int) -> np.ndarray:
    table: np.ndarray = np.lib.format.open_memmap(path, "w+", dtype=value.dtype, shape=(count, *value.shape))
    return table


def _note(folder: Path, key: str, done: int, columns: Mapping[str, np.ndarray]) -> None:
    for column in columns.values():
        if isinstance(column, np.memmap):
            column.flush()
    write_text(folder / _NOTE, json.dumps({"key": key, "done": done, "columns": sorted(columns)}))
