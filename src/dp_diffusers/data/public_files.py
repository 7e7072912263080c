"""Public images of any kind of `data.sources`, as a source of `public_images`.

Guarantees grey or RGB images of the asked size, cut to squares where they are not. May import what
`data.sources` imports; never torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from dp_diffusers.data.decoding import Decoder
from dp_diffusers.data.labels import label_numbers
from dp_diffusers.data.public_images import PublicPart
from dp_diffusers.data.sources import kind_of, open_source

USUAL: Final = "label"  # the column that a recipe means where it names none


def public_source(settings: Mapping[str, Any], size: int, channels: int, seed: int) -> PublicPart:
    """Images at `settings["path"]`; keys: label, keep_labels, invert, resize. `seed` plays no role.

    label: a column, or `folder`; of a folder of pictures `label`, the default, means its class folders.
    Without labels, or with `keep_labels: false`, all images are one class named like the file.
    Raises `DataError`.
    """
    path = str(settings["path"])
    kind = kind_of(path)
    label = settings.get("label", USUAL)
    if kind == "folder" and label == USUAL:
        label = "folder"
    raw = open_source(kind, path, label=label, unit=None)
    labels, names = label_numbers(raw, None)
    unnamed = raw.labels is not None and isinstance(raw.labels[0], int) and raw.class_names is None
    decoder = Decoder(size=size, channels=channels, resize=settings.get("resize") or "crop")
    images = decoder.decode(raw.encoded(), raw.count)
    if labels is None or names is None or not settings.get("keep_labels", True):
        labels, names, unnamed = np.zeros(raw.count, np.int64), (Path(path).stem,), False
    if settings.get("invert", False):
        images = 255 - images
    return PublicPart(
        images=images,
        labels=labels,
        class_names=names,
        notes=(*raw.notes, *decoder.notes),
        unnamed=path if unnamed else None,
    )
