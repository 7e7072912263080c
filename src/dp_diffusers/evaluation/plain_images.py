"""Images from disk whatever their labels are, for what looks at pixels alone.

Guarantees the order of the files, and that no cache is written. May import numpy and the readers of `data`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.data.decoding import Decoder, Resize
from dp_diffusers.data.dicom_pixels import Window
from dp_diffusers.data.sources import is_hub, kind_of, open_source


def plain_images(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    resize: Resize = "crop",
    window: Window | None = None,
) -> NDArray[np.uint8]:
    """uint8 `[N, H, W, C]`: all images at `path`, those of parquet files at any depth of a folder included.

    size, channels: None takes those of the first image; resize: how others become a square; window: of DICOM
    images, if there are any, see `Decoder`. Raises `DataError`.
    """
    folder = not is_hub(path) and Path(path).is_dir()
    files: list[str | Path] = [*sorted(Path(path).rglob("*.parquet"))] if folder else []
    squares = None if size is None else resize
    decoder = Decoder(size=size, channels=channels, resize=squares, window=window, needs_dicom=False)
    parts = []
    for file in files or [path]:
        raw = open_source(kind_of(file), file, label=None, unit=None)
        parts.append(decoder.decode(raw.encoded(), raw.count))
    return np.concatenate(parts)
