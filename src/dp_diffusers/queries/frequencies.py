"""Images as the coarsest numbers of a cosine transform: what means and spreads are asked about.

Guarantees that the row of an image is a function of that image and of public numbers alone, and never longer
than 1. May import numpy and scipy. Sources: amplitudes of natural images fall as one over the frequency
(Field 1987), and differences of colour are about a third of those of brightness (Ruderman et al. 1998).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

from dp_diffusers.errors import ParameterError

AT_ONCE: Final = 2**22  # numbers of images that are transformed together; takes about 24 bytes of each
VERSION: Final = 1  # of what the numbers mean; kept sums are read by no other
SPREAD: Final = 0.15  # of pixels in [-1, 1]: a number at frequency f varies by about this times side / f
COLOUR: Final = 0.35  # of the spread of brightness
_OPPONENT: Final = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Frequencies:
    """The `dimensions` numbers of an image of `size` x `size` that usually vary most.

    places: int64 `[d]`, of a flattened `[channels, size, size]`; spread: float64 `[d]`, how much each usually
    varies, times the root of d.
    """

    size: int
    channels: int
    places: NDArray[np.int64]
    spread: Floats

    @classmethod
    def coarsest(cls, *, size: int, channels: int, dimensions: int) -> Frequencies:
        """Raises `ParameterError` for more dimensions than numbers, and for channels that are no colours."""
        if channels not in (1, 3):
            raise ParameterError(f"expected images of 1 or 3 channels, got {channels}")
        if dimensions > channels * size * size:
            raise ParameterError(
                f"expected dimensions <= {channels * size * size}, the numbers of an image, got {dimensions}"
            )
        frequency = np.hypot(*np.mgrid[:size, :size])
        usual = SPREAD * size / np.maximum(frequency, 0.5)
        spread = np.concatenate([usual.ravel() * part for part in (1.0, COLOUR, COLOUR)[:channels]])
        places = np.argsort(-spread, kind="stable")[:dimensions]
        return cls(
            size=size, channels=channels, places=places, spread=spread[places] * np.sqrt(float(dimensions))
        )

    @property
    def at_once(self) -> int:
        """How many images to transform together, so that memory does not grow with their size."""
        return max(1, AT_ONCE // (self.channels * self.size**2))

    def record(self) -> dict[str, int]:
        """What decides the numbers."""
        asked = {"size": self.size, "channels": self.channels, "dimensions": len(self.places)}
        return {"version": VERSION, **asked}

    @property
    def width(self) -> int:
        """Numbers of a row: the frequencies, and a constant."""
        return len(self.places) + 1

    def rows(self, images: NDArray[np.uint8]) -> Floats:
        """float64 `[N, d + 1]` of uint8 `[N, H, W, C]`: [v, 1] at length 1, v the numbers over their spread.

        Grey images are taken as colours where the model has them, as its family takes them.
        Each image is transformed by itself: whether another one is there does not change its row.
        """
        whole = np.broadcast_to(images, (*images.shape[:3], self.channels))
        numbers = np.moveaxis(np.asarray(whole, np.float64) / 127.5 - 1.0, 3, 1)
        if self.channels == 3:
            numbers = _turned(_OPPONENT, numbers)
        found = dctn(numbers, axes=(2, 3), norm="ortho").reshape(len(numbers), -1)[:, self.places]
        rows = np.concatenate([found / self.spread, np.ones((len(found), 1))], 1)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)  # at least 1, for the constant
        return rows

    def images(self, numbers: Floats) -> NDArray[np.uint8]:
        """uint8 `[N, H, W, C]` of float64 `[N, d]`, what `rows` has before the constant: blurred images."""
        whole = np.zeros((len(numbers), self.channels * self.size**2))
        whole[:, self.places] = numbers * self.spread
        pixels = idctn(whole.reshape(-1, self.channels, self.size, self.size), axes=(2, 3), norm="ortho")
        if self.channels == 3:
            pixels = _turned(_OPPONENT.T, pixels)
        scaled = np.clip(np.round((np.moveaxis(pixels, 1, 3) + 1.0) * 127.5), 0, 255)
        return np.asarray(scaled, np.uint8)


@dataclass(frozen=True, eq=False)
class DrawnImages:
    """Images that are made of their numbers, `[N, d]`, when asked for: all may be too many pixels."""

    frequencies: Frequencies
    numbers: Floats

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, which: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 `[n, H, W, C]`."""
        return self.frequencies.images(self.numbers[which])


def _turned(matrix: Floats, numbers: Floats) -> Floats:
    """Colours `[N, 3, H, W]` in other axes, written out: a product of matrices may round by block."""
    first, second, third = (numbers[:, channel] for channel in range(3))
    return np.stack([row[0] * first + row[1] * second + row[2] * third for row in matrix], 1)
