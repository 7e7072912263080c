"""An outside opinion: Opacus in functorch mode gives the same gradients per row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine_support import assert_close, fast_gradients


@pytest.mark.filterwarnings("ignore")
def test_gradients_agree_with_opacus() -> None:
    opacus = pytest.importorskip("opacus")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(36, 6),
        nn.LayerNorm(6),
        nn.Linear(6, 1),
    )
    x = torch.randn(5, 2, 6, 6)
    found = fast_gradients(net, lambda: net(x).square().flatten(), torch.arange(5), torch.ones(5))
    wrapped = opacus.GradSampleModule(net, force_functorch=True, loss_reduction="sum")
    wrapped(x).square().sum().backward()
    assert_close(found, [parameter.grad_sample for parameter in net.parameters()])
