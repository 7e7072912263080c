"""The noise in a released adapter, through the whole path, has the size that the accountant was told.

One SGD step with two expected units: the B matrices of LoRA begin at zero, so a released B is the learning
rate times the released gradient, and nearly all of that is noise (signal: below 1 % of a coordinate).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import stats

from dp_diffusers.finetuning import train
from dp_diffusers.recipe import Recipe
from loop_support import cheap_trainings

ALARM = 1e-6
RATE, EXPECTED, CLIP = 0.5, 2, 0.1
ONE_STEP = [
    "mechanism.steps=1",
    f"mechanism.expected_units={EXPECTED}",
    "strategy.rank=64",
    "strategy.targets=all",
    "training.optimizer=sgd",
    f"training.learning_rate={RATE}",
    "training.ema=0",
    "training.noise_draws=1",
    "budget.epsilon=1",  # at this size of noise the accountant is quick
    "budget.cap=null",
]


def released_values(recipe: Path, name: str) -> tuple[np.ndarray, float]:
    """All values of the released B matrices, and the standard deviation that the plan promises them."""
    settings = Recipe.load(recipe, ONE_STEP)
    with pytest.MonkeyPatch.context() as patch:
        cheap_trainings(patch.setattr)
        train(settings, recipe.parent / name)
        sigma = settings.plan().noise_multiplier * (1 + 1e-4)
    tensors = load_file(recipe.parent / name / "release" / "adapter" / "adapter_model.safetensors")
    values = np.concatenate([value.ravel() for key, value in tensors.items() if ".lora_B." in key])
    return values.astype(np.float64), RATE * sigma * CLIP / EXPECTED


def has_std(values: np.ndarray, std: float) -> bool:
    """The property: within 5 % of the promised size, and normal."""
    return abs(values.std() / std - 1) < 0.05 and stats.kstest(values / std, "norm").pvalue > ALARM


def unrelated(first: np.ndarray, second: np.ndarray) -> bool:
    """The property: two runs share no noise."""
    return bool(abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(len(first)))


@pytest.mark.slow
def test_guarantee_released_weights_carry_the_accounted_noise(tiny_recipe: Path) -> None:
    first, std = released_values(tiny_recipe, "one")
    second, _ = released_values(tiny_recipe, "two")
    assert len(first) >= 20_000
    assert has_std(first, std)
    assert has_std(second, std)
    for wrong in (0.9, 1.1):
        assert not has_std(first, wrong * std), "the test must be able to tell"
    assert abs(first.mean()) < 5 * std / np.sqrt(len(first))
    assert unrelated(first, second)
    assert not unrelated(first, first + second), "the test must be able to tell"
