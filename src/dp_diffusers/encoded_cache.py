"""Images encoded once: every variant of every image, in files that a killed process goes on with.

Guarantees: a shard is on disk whole or not at all; a shard whose bytes changed, and the cache of another
model, other images or other variants, is never used. May import numpy and torch. Where the images are
private the folder is too: whoever gives it keeps it in the safe.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch

from dp_diffusers.augmentation import Variant
from dp_diffusers.whole_files import replacing, write_text

INDEX: Final = "index.json"
SHARD: Final = 256  # images in a file
TENTHS: Final = 10

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
    _shards: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, init=False)

    def fill(self, say: Say = lambda text: None) -> None:
        """Encodes what is missing. `say` gets a line for each tenth, the same ones for every data set."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = self._known()
        wanted = list(self._wanted())
        said = 0
        for count, (variant, start) in enumerate(wanted, 1):
            name = _name(variant, start)
            if name not in known or not self._is_whole(name, known[name]):
                known[name] = self._write(name, variant, start)
                self._note(known)
            self._shards[variant, start // SHARD] = np.load(self.folder / name, mmap_mode="r")
            while said < count * TENTHS // len(wanted):
                said += 1
                say(f"encoding images: {said * 100 // TENTHS} %")

    def take(self, image: np.ndarray, variant: np.ndarray) -> torch.Tensor:
        """float32 `[R, c, h, w]` on the CPU. image, variant: int64 `[R]`. `fill` comes first."""
        places = zip(variant.tolist(), image.tolist(), strict=True)
        rows = [self._shards[which, number // SHARD][number % SHARD] for which, number in places]
        return torch.from_numpy(np.stack(rows))

    def remove(self) -> None:
        """Deletes every file."""
        self._shards.clear()
        forget(self.folder)

    def _wanted(self) -> Iterator[tuple[int, int]]:
        for variant in range(len(self.variants)):
            for start in range(0, len(self.images), SHARD):
                yield variant, start

    def _write(self, name: str, variant: int, start: int) -> str:
        """Encodes and writes one shard; returns the sha256 of its file."""
        shown = self.variants[variant].of(self.images[start : start + SHARD])
        encoded = self.encode(shown).numpy().astype(np.float32, copy=False)
        with replacing(self.folder / name) as stream:
            np.save(stream, encoded)
        return _digest(self.folder / name)

    def _known(self) -> dict[str, str]:
        """The shards of an earlier process with their digests; none of a cache of something else."""
        try:
            index = json.loads((self.folder / INDEX).read_text())
            if index["key"] == self._full_key:
                return dict(index["shards"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        shutil.rmtree(self.folder)
        self.folder.mkdir(mode=0o700)
        return {}

    def _note(self, known: dict[str, str]) -> None:
        write_text(self.folder / INDEX, json.dumps({"key": self._full_key, "shards": known}) + "\n")

    def _is_whole(self, name: str, digest: str) -> bool:
        path = self.folder / name
        return path.exists() and _digest(path) == digest

    @cached_property
    def _full_key(self) -> str:
        shown = [vars(variant) for variant in self.variants]
        facts = json.dumps([self.key, list(self.images.shape), shown])
        digest = hashlib.sha256(facts.encode())
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()


def forget(folder: Path) -> None:
    """Deletes a cache, if there is one."""
    shutil.rmtree(folder, ignore_errors=True)


def _name(variant: int, start: int) -> str:
    return f"{variant:03d}-{start // SHARD:06d}.npy"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
