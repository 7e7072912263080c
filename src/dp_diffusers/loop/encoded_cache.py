"""Images encoded once: every variant of every image, kept in a `RowStore`.

Guarantees: those of the store, and that the cache of another model, other images or other variants is never
used. May import numpy and torch. Where the images are private the folder is too: whoever gives it keeps it in
the safe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch

from dp_diffusers.engine.precision import exact_convolutions
from dp_diffusers.loop.augmentation import Variant, augment
from dp_diffusers.loop.row_store import Block, RowStore, forget
from dp_diffusers.tenths import by_tenths

BLOCK: Final = 256  # images encoded and noted together
_COLUMN: Final = "encoded"

Encode = Callable[[np.ndarray], torch.Tensor]
Say = Callable[[str], None]


@dataclass(kw_only=True)
class EncodedCache:
    """What `encode` makes of `images` `[N, H, W, C]` in each of `variants`, kept in `folder`.

    key: what `encode` is, such as the fingerprint of a model.
    """

    folder: Path
    key: str
    encode: Encode
    images: np.ndarray
    variants: Sequence[Variant]

    def fill(self, say: Say = lambda text: None) -> None:
        """Encodes what is missing. `say` gets a line for each tenth, the same ones for every data set."""
        self._store.fill(self._encoded, by_tenths(say, "encoding images"))

    def take(self, image: np.ndarray, variant: np.ndarray) -> torch.Tensor:
        """float32 `[R, c, h, w]` on the CPU. image, variant: int64 `[R]`. `fill` comes first."""
        return torch.from_numpy(self._store.take(_COLUMN, variant * len(self.images) + image))

    def remove(self) -> None:
        """Deletes every file."""
        forget(self.folder)

    @cached_property
    def _store(self) -> RowStore:
        count = len(self.variants) * len(self.images)
        return RowStore(folder=self.folder, key=self._full_key, count=count, block=BLOCK)

    def _encoded(self, start: int, stop: int) -> Block:
        """The rows `start` to `stop`: one variant of all images after the other."""
        variant, image = np.divmod(np.arange(start, stop), len(self.images))
        shown = augment(self.images[image], variant, self.variants)
        with exact_convolutions():
            return {_COLUMN: self.encode(shown).numpy().astype(np.float32, copy=False)}

    @cached_property
    def _full_key(self) -> str:
        shown = [vars(variant) for variant in self.variants]
        facts = json.dumps([self.key, list(self.images.shape), shown])
        digest = hashlib.sha256(facts.encode())
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()
