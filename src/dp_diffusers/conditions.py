"""What the images of a run are conditioned on: classes of the base, numbered the same in data and release.

Guarantee: what conditions mean is public and known before anything private is opened. May import the data
and the family that they meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dp_diffusers.class_numbers import numbered_for
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.family import Family
from dp_diffusers.released_classes import ReleasedClasses, declared_names, released_classes


def classes_of(family: Family, settings: Mapping[str, Any]) -> ReleasedClasses | None:
    """What images will be made of. settings: of the run, as a plain document."""
    return released_classes(family.classes, family.base.class_names, declared_names(settings))


def conditioned(family: Family, data: PrivateImages) -> tuple[PrivateImages, list[str]]:
    """The images with labels in the numbering of the family, and what to say about it.

    Raises `DataError` for labels that are missing, too many, or do not fit the family's.
    """
    return numbered_for(data, family.classes, family.base.class_names)
