"""Canaries in gradient space: what each adds to the sum, by ordinary autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dp_diffusers.auditing.canaries import CLIPS, Evidence, GradientCanaries, usable_layers
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import ModelError
from dp_diffusers.strategies import strategy_of
from engine_support import make_box, release

CLIP = 0.5


def network() -> nn.Module:
    """Linear layers with and without a bias, convolutions of several kinds, and what a canary cannot use."""
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "linear": nn.Linear(5, 3),
            "plain": nn.Linear(4, 2, bias=False),
            "pointwise": nn.Conv2d(3, 4, 1),
            "padded": nn.Conv2d(2, 3, 3, padding=1),
            "valid": nn.Conv2d(2, 3, (3, 2), bias=False),
            "strided": nn.Conv2d(2, 3, 3, stride=2),
            "norm": nn.GroupNorm(1, 4),
        }
    )


def canaries(model: nn.Module, count: int, *, draws: int = 1) -> GradientCanaries:
    return GradientCanaries(model, count, clip_norm=CLIP, noise_draws=draws, random=np.random.default_rng(0))


def sum_of(model: nn.Module, held: GradientCanaries, units: np.ndarray) -> torch.Tensor:
    """float64 vector: the clipped sum of these units, without noise worth the name."""
    box = make_box(model, clip_norm=CLIP, keys=RunKeys.for_tests(0))
    for rows in held.passes(units, 7):
        box.accumulate(held.row_losses(rows), torch.from_numpy(rows.owner), torch.from_numpy(rows.weight))
    return release(box, 0)


def test_every_gradient_is_one_entry_and_no_two_share_one() -> None:
    model = network()
    held = canaries(model, 10_000)
    assert held.count == 15 + 8 + 12 + 54 + 36
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    entries = []
    for site in held.sites:
        for place in range(len(site.places)):
            output = site.outputs(np.array([site.first + place]))[0]
            found = torch.autograd.grad(output, parameters, allow_unused=True)
            flat = torch.cat(
                [torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(found, parameters)]
            )
            assert flat.count_nonzero() == 1
            assert flat.sum() == 1
            entries.append(int(flat.argmax()))
    assert len(set(entries)) == held.count


@pytest.mark.parametrize("draws", [1, 4])
def test_guarantee_each_included_canary_adds_the_clip_norm(draws: int) -> None:
    model = network()
    held = canaries(model, 60, draws=draws)
    total = sum_of(model, held, np.arange(held.unit_count))
    assert held.unit_count == int(held.included.sum()) > 10
    changed = total[total.abs() > CLIP / 2]
    assert len(changed) == held.unit_count
    torch.testing.assert_close(changed, torch.full_like(changed, CLIP), rtol=1e-4, atol=1e-4)


def test_scores_are_read_where_the_canaries_are() -> None:
    model = network()
    held = canaries(model, 60)
    sum_of(model, held, np.arange(held.unit_count))
    seen = held.read()
    np.testing.assert_array_equal(seen > seen.max() / 2, held.included)


def test_linear_layers_come_first() -> None:
    assert all(isinstance(layer, nn.Linear) for layer in usable_layers(network(), enough=20))
    assert any(isinstance(layer, nn.Conv2d) for layer in usable_layers(network(), enough=30))


def test_a_model_without_a_layer_for_canaries_is_refused() -> None:
    with pytest.raises(ModelError, match="no trainable linear or convolution layer"):
        canaries(nn.GroupNorm(1, 4), 10)


@pytest.mark.parametrize("targets", ["attention", "convolution", "all"])
def test_adapters_of_a_unet_hold_canaries(targets: str, tiny_base: Callable[..., Any]) -> None:
    model = tiny_base().network
    strategy_of({"name": "lora", "rank": 2, "targets": targets, "also": ["bias", "norm"]}).apply(model)
    held = canaries(model, 40)
    total = sum_of(model, held, np.arange(held.unit_count))
    assert int((total.abs() > CLIP / 2).sum()) == held.unit_count
    assert CLIPS * CLIP > 100


def test_the_score_is_the_logarithm_of_the_likelihood_ratio() -> None:
    q, sigma, seen = 0.3, 0.8, np.array([-1.0, 0.2, 1.7])
    evidence = Evidence(3, sampling_probability=q, noise_multiplier=sigma)
    evidence.add(seen)
    evidence.add(seen)

    def density(mean: float) -> np.ndarray:
        return np.exp(-((seen - mean) ** 2) / (2 * sigma**2))

    ratio = ((1 - q) * density(0) + q * density(1)) / density(0)
    np.testing.assert_allclose(evidence.scores, 2 * np.log(ratio))
    certain = Evidence(3, sampling_probability=1.0, noise_multiplier=sigma)
    certain.add(seen)
    np.testing.assert_allclose(certain.scores, (2 * seen - 1) / (2 * sigma**2))
