"""Noisy sums of a side query in the safe, so that a later start need not pay for them again.

Guarantee: a file names the lane that paid for it and what it was made of; one that does not is refused. May
import numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dp_diffusers.errors import RunFolderError
from dp_diffusers.tensor_file import read_tensors, write_tensors


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptSums:
    """tensors: the sums under `released`, and what belongs to them; made_of: in one word."""

    tensors: Mapping[str, np.ndarray]
    lane: str
    made_of: str

    @property
    def released(self) -> np.ndarray:
        """The sums with their noise."""
        return self.tensors["released"]

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        write_tensors(path, self.tensors, {"lane": self.lane, "made_of": self.made_of})


def kept_sums(path: Path, *names: str) -> KeptSums | None:
    """What an earlier start kept, with tensors of these names; None where nothing is.

    Raises `RunFolderError` for a damaged file.
    """
    if not path.exists():
        return None
    tensors, metadata = read_tensors(path)
    if {"lane", "made_of"} <= set(metadata) and {"released", *names} <= set(tensors):
        return KeptSums(tensors=tensors, lane=metadata["lane"], made_of=metadata["made_of"])
    raise RunFolderError(
        f"{path} is damaged",
        hint="restore it, or give another --out; what this run was charged stays charged",
    )
