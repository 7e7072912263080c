from __future__ import annotations

import pytest
import torch
from torch import nn

from dp_diffusers.errors import ParameterError
from dp_diffusers.loop.averaging import Average
from dp_diffusers.loop.steps import optimizer_of, rate_factor


def test_sgd_moves_by_the_learning_rate_times_the_gradient() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, 2.0, -4.0])
    optimizer_of("sgd", [parameter], 0.5).step()
    assert torch.equal(parameter.detach(), torch.tensor([0.5, 0.0, 3.0]))


def test_unknown_optimizers_are_refused() -> None:
    with pytest.raises(ParameterError, match="adm") as caught:
        optimizer_of("adm", [], 1.0)
    assert caught.value.hint == "did you mean 'adam'?"


def test_schedules() -> None:
    warming = [rate_factor(step, 10, schedule="constant", warmup=3) for step in range(4)]
    assert warming == [0.25, 0.5, 0.75, 1.0]
    assert rate_factor(5, 10, schedule="linear", warmup=0) == 0.5
    assert rate_factor(5, 10, schedule="cosine", warmup=0) == pytest.approx(0.5)
    for schedule in ("constant", "linear", "cosine"):
        factors = [rate_factor(step, 10, schedule=schedule, warmup=2) for step in range(10)]
        assert all(0 < factor <= 1 for factor in factors)


def test_average_follows_and_resumes() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    average = Average([parameter], 0.9)
    with torch.no_grad():
        for value in range(1, 40):
            parameter.fill_(float(value))
            average.update()
    copy = Average([nn.Parameter(torch.zeros(1))], 0.9)
    copy.load_state_dict(average.state_dict())
    average.copy_to()
    expected = 0.0
    for step in range(1, 40):
        decay = min(0.9, step / (step + 9))
        expected = decay * expected + (1 - decay) * step
    assert parameter.item() == pytest.approx(expected, rel=1e-5)
    copy.copy_to()
    assert torch.equal(copy.parameters[0], parameter)


def test_average_of_zero_decay_is_the_last_value() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    average = Average([parameter], 0.0)
    with torch.no_grad():
        parameter.fill_(5.0)
    average.update()
    average.copy_to()
    assert parameter.item() == 5.0
