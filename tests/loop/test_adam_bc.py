"""Adam without the noise in its second moment: statistics against a gradient that is nothing but noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from dp_diffusers.errors import ParameterError
from dp_diffusers.loop.adam_bc import FLOOR, AdamBC, signal_square
from dp_diffusers.loop.steps import optimizer_of

STD, SIZE = 3e-5, 4_000


def second_moments(
    stds: list[float], signal: float = 0.0, *, told: list[float] | None = None
) -> torch.Tensor:
    """v-hat less the noise variance, without the floor, after steps of `signal` plus noise of these sizes."""
    parameter = nn.Parameter(torch.zeros(SIZE))
    optimizer = optimizer_of("adam_bc", [parameter], 1e-9, noise_std=stds[0])
    generator = torch.Generator().manual_seed(0)
    for std, believed in zip(stds, told or stds, strict=True):
        parameter.grad = signal + std * torch.randn(SIZE, generator=generator)
        optimizer.param_groups[0]["noise_std"] = believed
        optimizer.step()
    state = optimizer.state[parameter]
    corrected = 1 - 0.999 ** len(stds)
    return (state["square"].double() - state["noise"]) / corrected


def unbiased(found: torch.Tensor, expected: float, scale: float) -> bool:
    """Mean within six standard errors; a false alarm has a chance of about 2e-9."""
    error = float(found.std()) / math.sqrt(SIZE)
    return abs(float(found.mean()) - expected) < 6 * error + 1e-6 * scale


def test_the_second_moment_of_noise_alone_is_zero_on_average() -> None:
    found = second_moments([STD] * 40)
    assert unbiased(found, 0.0, STD**2)
    assert not unbiased(found + STD**2, 0.0, STD**2), "plain Adam's second moment is that of the noise"
    assert not unbiased(second_moments([STD] * 40, told=[0.97 * STD] * 40), 0.0, STD**2)


def test_the_second_moment_of_a_signal_is_its_square() -> None:
    assert unbiased(second_moments([STD] * 40, signal=STD / 2), STD**2 / 4, STD**2)


def test_noise_that_changes_from_step_to_step_is_followed() -> None:
    stds = [STD * (1 + step / 10) for step in range(40)]
    assert unbiased(second_moments(stds), 0.0, STD**2)
    assert not unbiased(second_moments(stds, told=[STD] * 40), 0.0, STD**2)


def test_the_floor_is_a_tenth_of_the_noise() -> None:
    state: dict[str, Any] = {"step": 1, "square": torch.tensor([0.0, 1e-3, 2e-2]), "noise": 1e-3 * 4}
    found = signal_square(state, 0.999)
    assert found.tolist() == pytest.approx([FLOOR * 4, FLOOR * 4, 20 - 4], rel=1e-4)


def test_a_step_is_the_mean_over_the_root_of_the_signal() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = AdamBC([parameter], 0.5, noise_std=0.3)
    parameter.grad = torch.tensor([2.0])
    optimizer.step()
    assert parameter.item() == pytest.approx(-0.5 * 2.0 / math.sqrt(4.0 - 0.09), rel=1e-5)


def test_it_resumes_exactly(tmp_path: Any) -> None:
    def trained(stop: int | None) -> torch.Tensor:
        parameter = nn.Parameter(torch.ones(5))
        optimizer = optimizer_of("adam_bc", [parameter], 0.1, noise_std=0.2)
        for step in range(6):
            if step == stop:
                torch.save(optimizer.state_dict(), tmp_path / "state")
                optimizer = optimizer_of("adam_bc", [parameter], 0.1, noise_std=9.0)
                optimizer.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
            parameter.grad = torch.sin(torch.arange(5.0) + step)
            optimizer.step()
        return parameter.detach()

    assert torch.equal(trained(None), trained(3))


def test_without_noise_there_is_nothing_to_correct() -> None:
    with pytest.raises(ParameterError, match="noise_std > 0, got 0") as caught:
        optimizer_of("adam_bc", [nn.Parameter(torch.zeros(1))], 1.0)
    assert "take adam" in str(caught.value.hint)
