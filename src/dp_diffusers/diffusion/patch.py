"""A patch transform: the cheapest autoencoder there is, and an exact one.

Guarantee: `inverse(forward(x))` is `x` bit for bit, and norms are kept, because the transform only moves
pixels into channels. May import torch only. It is the pixel-unshuffle of Shi et al. (2016), used in front of
a diffusion model so that the network works on a grid `size` times smaller.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from dp_diffusers.errors import ModelError

SIDECAR = "patch.json"
_HOLDS = 'it holds {"size": 2}; make or download the model again'


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Moves `size` × `size` blocks of pixels into channels; `size=1` does nothing."""

    size: int = 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]` to `[N, C·size², H/size, W/size]`; H and W must be multiples of `size`."""
        return functional.pixel_unshuffle(images, self.size) if self.size > 1 else images

    def inverse(self, patched: torch.Tensor) -> torch.Tensor:
        """`[N, C·size², h, w]` back to `[N, C, h·size, w·size]`."""
        return functional.pixel_shuffle(patched, self.size) if self.size > 1 else patched

    def save(self, folder: Path) -> None:
        """Writes `patch.json` beside `model_index.json`; a transform that does nothing leaves no file."""
        if self.size > 1:
            (folder / SIDECAR).write_text(json.dumps({"size": self.size}) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Patch:
        """The transform of a saved folder. Raises `ModelError` where `patch.json` is damaged."""
        path = folder / SIDECAR
        if not path.exists():
            return cls()
        try:
            size = json.loads(path.read_text())["size"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is damaged", hint=_HOLDS) from error
        if not isinstance(size, int) or size < 1:
            raise ModelError(f"{path}: expected an integer size >= 1, got {size!r}", hint=_HOLDS)
        return cls(size=size)
