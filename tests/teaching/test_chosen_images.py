"""Which of the drawn images are kept: so many, in proportion to weights."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusers.errors import ParameterError
from dp_diffusers.teaching.chosen_images import chosen_images, inclusion

COUNT = 6000
WEIGHTS = np.where(np.arange(COUNT) % 2 == 0, 3.0, 1.0)


def test_as_many_as_wanted_in_proportion_to_the_weights() -> None:
    found = chosen_images(WEIGHTS, 900, 0)
    assert len(np.unique(found)) == len(found) == 900, "none is kept twice"
    assert (np.diff(found) > 0).all()
    heavy = int((WEIGHTS[found] == 3).sum())
    assert abs(heavy - 675) <= 1, "systematic: by chance it would be off by 13"
    assert found.tolist() == chosen_images(WEIGHTS, 900, 0).tolist()
    assert found.tolist() != chosen_images(WEIGHTS, 900, 1).tolist()


def test_no_image_without_a_weight() -> None:
    weights = np.where(np.arange(COUNT) % 4 == 0, 1.0, 0.0)
    assert weights[chosen_images(weights, 1400, 0)].all()
    with pytest.raises(ParameterError, match="no image drawn lies where"):
        chosen_images(np.zeros(5), 2, 0)


@pytest.mark.parametrize("count", [30, 45, 60])
def test_too_few_images_are_kept_again_and_evenly(count: int) -> None:
    weights = np.where(np.arange(COUNT) < 30, 1.0, 0.0)
    times = np.bincount(chosen_images(weights, count, 0), minlength=COUNT)
    assert times.sum() == count
    assert times[30:].sum() == 0
    assert times[:30].max() - times[:30].min() == (0 if count % 30 == 0 else 1)


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_chances_add_up_and_are_proportional_below_one(spread: float) -> None:
    weights = np.exp(spread * np.random.default_rng(0).normal(size=300))
    found = inclusion(weights, 120)
    assert found.sum() == pytest.approx(120)
    assert found.max() <= 1.0
    assert found.min() > 0
    below = found < 1
    assert (found[below] / weights[below]).std() == pytest.approx(0, abs=1e-9)
    assert weights[~below].min(initial=np.inf) >= weights[below].max(initial=0)
