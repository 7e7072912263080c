from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dp_diffusers.diffusion.generation import Sampling, balanced_labels, sample
from dp_diffusers.diffusion.pixel import PixelFamily
from dp_diffusers.errors import ParameterError


def _all(family: Any, count: int, start: int = 0, **options: Any) -> np.ndarray:
    labels = balanced_labels(count, family.base.classes)
    return np.concatenate(list(sample(family, labels, count, Sampling(steps=4, **options), start=start)))


def test_labels_are_exactly_balanced() -> None:
    labels = balanced_labels(31, 10)
    assert labels is not None
    assert np.bincount(labels).tolist() == [4] + [3] * 9
    assert balanced_labels(5, 0) is None


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_guarantee_images_do_not_depend_on_the_batch(
    tiny_base: Callable[..., Any], sampler: str, guidance: float
) -> None:
    family = PixelFamily(tiny_base())
    options = {"sampler": sampler, "guidance": guidance}
    whole = _all(family, 7, batch=7, **options)
    assert whole.shape == (7, 8, 8, 1)
    parts = _all(family, 7, batch=2, **options)
    assert np.abs(whole.astype(int) - parts).max() <= 1
    resumed = _all(family, 7, start=4, batch=3, **options)
    assert np.abs(whole[4:].astype(int) - resumed).max() <= 1
    assert np.abs(whole.astype(int) - _all(family, 7, batch=7, seed=1, **options)).max() > 1


def test_a_perfect_denoiser_gives_back_the_image(tiny_base: Callable[..., Any]) -> None:
    """Samplers are right if a network that knows the one true image leads to it from any noise."""
    family = PixelFamily(tiny_base(prediction="epsilon"))
    truth = torch.rand(family.shape) - 0.5

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor, labels: Any) -> torch.Tensor:
        alpha = family.objective.signal.square()[timesteps].view(-1, 1, 1, 1)
        return (noisy - alpha.sqrt() * truth) / (1 - alpha).sqrt()

    family.predict = predict  # type: ignore[method-assign]
    for sampler in ("ddim", "dpmsolver++"):
        labels = balanced_labels(2, 3)
        images = np.concatenate(list(sample(family, labels, 2, Sampling(steps=10, sampler=sampler))))
        expected = family.decode(truth[None])
        assert np.abs(images.astype(int) - expected).max() <= 2, sampler


def test_guidance_without_a_null_class_is_refused(tiny_base: Callable[..., Any]) -> None:
    family = PixelFamily(tiny_base(classes=0))
    with pytest.raises(ParameterError, match="null class"):
        _all(family, 2, guidance=2.0)
    assert _all(family, 2).shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"batch": 0}, {"guidance": float("nan")}, {"sampler": "dddim"}]
)
def test_bad_sampling_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        Sampling(**options)
