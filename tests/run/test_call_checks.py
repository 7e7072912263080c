"""Settings of a call: mappings with the numbers that callers have at hand."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusers.errors import ParameterError
from dp_diffusers.recipe.sections import TrainingSettings
from dp_diffusers.run.call_checks import settings_of


def test_numbers_of_numpy_are_numbers() -> None:
    given = {"noise_draws": np.int64(2), "learning_rate": np.float32(0.5), "seed": np.arange(4)[3]}
    assert settings_of(TrainingSettings, training=given) == TrainingSettings(
        noise_draws=2, learning_rate=0.5, seed=3
    )


@pytest.mark.parametrize("value", [np.float64(2.5), np.array([1, 2]), np.bool_(True), "2"])
def test_what_is_no_integer_is_refused(value: object) -> None:
    with pytest.raises(ParameterError, match="noise_draws"):
        settings_of(TrainingSettings, training={"noise_draws": value})
