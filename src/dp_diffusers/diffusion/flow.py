"""Families of flow matching: how the noise levels of a sampler depend on the size of the image.

Guarantee: a sampler takes the very levels that the stock pipeline takes. May import torch and diffusers,
never the engine. Source: Esser et al. (2024), the shift of the levels with the number of patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.pipelines.flux.pipeline_flux import calculate_shift


def shift_of_size(scheduler: Any, patches: int, *, most: float) -> Mapping[str, float]:
    """`mu` for a schedule that shifts its levels with the number of patches, nothing for another.

    most: the shift at the largest number of patches, where the schedule does not say.
    """
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return {}
    shift = calculate_shift(
        patches,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", most),
    )
    return {"mu": float(shift)}
