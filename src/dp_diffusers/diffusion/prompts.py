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
from typing import Final

import numpy as np
import torch

from dp_diffusers.loop.row_store import Block, RowStore

Encoding = Mapping[str, torch.Tensor]
BLOCK: Final = 16  # prompts that are noted together
MOST_PLACED: Final = 2**30  # bytes of encoded prompts beside a network that draws


@dataclass(frozen=True, kw_only=True)
class PromptTable:
    """`columns`: by name, `[P + 1, ...]` of what the network takes of each prompt, in memory."""

    columns: Mapping[str, np.ndarray]

    def rows(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[R, ...]` of each column, on the device of `labels` `[R]`."""
        index = labels.cpu().numpy()
        found = {name: torch.from_numpy(np.array(column[index])) for name, column in self.columns.items()}
        return {name: value.to(labels.device) for name, value in found.items()}


@dataclass(frozen=True, kw_only=True)
class StoredPrompts:
    """The same in files, of which the rows that are asked for are read."""

    store: RowStore

    def rows(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[R, ...]` of each column, on the device of `labels` `[R]`."""
        index = labels.cpu().numpy()
        found = {name: torch.from_numpy(self.store.take(name, index)) for name in self.store.names}
        return {name: value.to(labels.device) for name, value in found.items()}


@dataclass(frozen=True, kw_only=True)
class PlacedPrompts:
    """`columns`: as those of a `PromptTable`, on one device."""

    columns: Mapping[str, torch.Tensor]

    def rows(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[R, ...]` of each column. labels: `[R]`, on that device."""
        return {name: column[labels] for name, column in self.columns.items()}


def placed(table: PromptTable, device: torch.device) -> PromptTable | PlacedPrompts:
    """The table on the device; as it is where it takes more than `MOST_PLACED` bytes."""
    if sum(column.nbytes for column in table.columns.values()) > MOST_PLACED:
        return table
    found = {name: torch.from_numpy(np.array(column)) for name, column in table.columns.items()}
    return PlacedPrompts(columns={name: value.to(device) for name, value in found.items()})


def encoded(prompts: Sequence[str], encode: Callable[[str | None], Encoding]) -> PromptTable:
    """The table of the prompts in memory. encode: one prompt, or None for no prompt, without a batch."""
    return PromptTable(columns=_stacked([encode(prompt) for prompt in (*prompts, None)]))


def kept(
    prompts: Sequence[str], encode: Callable[[str | None], Encoding], folder: Path, model: str
) -> StoredPrompts:
    """The table in files of `folder`, which is of the safe where prompts are private; goes on after a kill.

    model: what tells the model that encodes them from all others.
    """
    texts = (*prompts, None)
    key = hashlib.sha256(json.dumps([model, *texts]).encode()).hexdigest()
    store = RowStore(folder=folder, key=key, count=len(texts), block=BLOCK)
    store.fill(lambda start, stop: _stacked([encode(text) for text in texts[start:stop]]))
    return StoredPrompts(store=store)


def _stacked(encodings: Sequence[Encoding]) -> Block:
    """By column, `[P, ...]` on the CPU, in float32 where it is floating."""
    rows = [{name: _array(value) for name, value in encoding.items()} for encoding in encodings]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _array(value: torch.Tensor) -> np.ndarray:
    plain = value.detach().cpu()
    array: np.ndarray = (plain.float() if plain.is_floating_point() else plain).numpy()
    return array
