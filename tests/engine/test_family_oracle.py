"""Gradients of units on every family, with everything trainable, against batches of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dp_diffusers.engine.dry_run import Losses
from dp_diffusers.strategies import strategy_of
from engine_support import fast_gradients, oracle
from family_support import CASES, example, images_for, prepared, rows, stir

OWNER = torch.tensor([4, 4, 9, 7])  # one unit with two rows
WEIGHT = torch.tensor([0.25, 0.75, 1.0, 1.0])


def _losses(family: Any) -> Losses:
    """One loss for each of four rows."""
    clean, labels, draws = rows(family, *images_for(family), [0, 1, 2, 3])

    def losses(index: torch.Tensor) -> torch.Tensor:
        chosen = replace(
            draws,
            timesteps=draws.timesteps[index],
            noise=draws.noise[index],
            drop_label=draws.drop_label[index],
        )
        return torch.as_tensor(
            family.row_losses(clean[index], None if labels is None else labels[index], chosen)
        )

    return losses


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_guarantee_unit_gradients_of_every_layer_are_those_of_a_batch_of_one(
    tiny_base: Callable[..., Any], name: str, options: dict[str, Any]
) -> None:
    base = example(tiny_base, name, options)
    stir(base.network)
    family = prepared(base)
    strategy_of({"name": "full"}).apply(family.network)
    losses = _losses(family)
    found = fast_gradients(family.network, lambda: losses(torch.arange(4)), OWNER, WEIGHT)
    expected = oracle(family.network, losses, OWNER, WEIGHT)
    largest = max(float(want.abs().max()) for want in expected)
    for (label, _), got, want in zip(_trained(family), found, expected, strict=True):
        scale = max(float(want.abs().max()), 0.01 * largest)
        assert float((got.double() - want.double()).abs().max()) <= 1e-5 * scale, label


def _trained(family: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [item for item in family.network.named_parameters() if item[1].requires_grad]
