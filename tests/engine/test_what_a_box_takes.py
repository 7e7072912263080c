"""What a box is given by those with a loop of their own: refused in a line where it is something else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import ParameterError
from engine_support import make_box

GIVEN: dict[str, Any] = {
    "names too": lambda net: net.named_parameters(),
    "a dictionary": lambda net: dict(net.named_parameters()),
    "a text": lambda net: "linear",
    "none": lambda net: None,
}


def box(parameters: Any, keys: Any) -> PrivateGradient:
    return PrivateGradient(
        parameters, clip_norm=1.0, noise_multiplier=1.0, expected_units=4, keys=keys, plan_fingerprint="plan"
    )


@pytest.mark.parametrize("name", GIVEN)
def test_parameters_are_parameters(name: str) -> None:
    with pytest.raises(ParameterError, match=r"nn\.Module, or the parameters themselves"):
        box(GIVEN[name](nn.Linear(3, 2)), RunKeys.for_tests(0))


@pytest.mark.parametrize("keys", [None, b"s3cr3t" * 6])
def test_guarantee_keys_are_keys_and_are_never_shown(keys: Any) -> None:
    with pytest.raises(ParameterError, match="keys of a run") as refused:
        box(nn.Linear(3, 2), keys)
    assert "s3cr3t" not in f"{refused.value} {refused.value.hint}"


def test_a_pass_is_of_tensors() -> None:
    net = nn.Linear(3, 2)
    given: Any = [0, 1]
    with pytest.raises(ParameterError, match="as tensors"):
        make_box(net).accumulate(net(torch.ones(2, 3)).sum(1), given, given)
