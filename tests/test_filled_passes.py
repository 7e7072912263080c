"""Passes of one number of rows in bfloat16: who else is there does not change how anyone's row is rounded."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.rows import Rows, RowTable
from dp_diffusers.training import Loop

sys.path.insert(0, str(Path(__file__).parent / "planted"))
from planted_support import toy_images, toy_loop

UNITS, CLIP = 64, 1e-2  # from 64 rows on a U-Net of diffusers lays its memory out in another way


def unet() -> Family:
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=16,
    )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("to_" in name)
    return family_of(Base(network=network, scheduler=DDPMScheduler()))


def loop_of(data: PrivateImages, expected: int = UNITS, **runtime: Any) -> Loop:
    mechanism = SimpleNamespace(expected_units=expected, mean_noise_std=lambda _: 0.0)
    plan: Any = SimpleNamespace(mechanism=mechanism, noise_multiplier=1.0)
    return toy_loop(data, plan=plan, runtime={"rows_per_pass": 64, **runtime})


def clipped_sum(units: np.ndarray) -> torch.Tensor:
    """Of these units of 64, in clip norms."""
    rng = np.random.default_rng(0)
    images = PrivateImages(
        images=rng.integers(0, 255, (UNITS, 8, 8, 1), dtype=np.uint8),
        labels=None,
        class_names=None,
        owner=np.arange(UNITS),
        unit_count=UNITS,
    )
    family = unet()
    mechanism = SimpleNamespace(expected_units=UNITS, mean_noise_std=lambda _: 0.0)
    plan: Any = SimpleNamespace(mechanism=mechanism, noise_multiplier=1.0)
    runtime = {"dtype": "bfloat16", "rows_per_pass": UNITS}
    loop = toy_loop(images, plan=plan, runtime=runtime, family=family)
    keys = RunKeys.for_tests(0)
    box = PrivateGradient(
        family.network,
        clip_norm=CLIP,
        noise_multiplier=1.0,
        expected_units=UNITS,
        keys=keys,
        plan_fingerprint="plan",
    )
    loop.collect(box, 0, units)
    sums, _ = box._sum.take()
    return torch.cat([total.flatten() for total in sums]) / CLIP


def moved_by_the_last() -> tuple[float, float]:
    """How far unit 63 moves the sum, and how far the others moved because of it."""
    with_it, without, alone = (
        clipped_sum(units) for units in (np.arange(UNITS), np.arange(UNITS - 1), np.array([UNITS - 1]))
    )
    return float((with_it - without).norm()), float((with_it - without - alone).norm())


def test_guarantee_in_bfloat16_nobody_s_absence_changes_the_rounding_of_others() -> None:
    moved, others = moved_by_the_last()
    assert others < 1e-4  # the margin of the noise
    assert moved <= 1 + 1e-4


def test_planted_the_last_pass_has_as_many_rows_as_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "filled", lambda self, count: self)
    _, others = moved_by_the_last()
    assert others > 1e-2


@pytest.mark.parametrize(
    ("runtime", "expected", "sizes"),
    [
        ({"dtype": "float32"}, 64, [64, 6]),
        ({"dtype": "bfloat16"}, 64, [64, 64]),
        ({"dtype": "bfloat16"}, 30, [30, 30, 30]),  # no pass is larger than what is expected of a step
    ],
)
def test_how_many_rows_a_pass_has(runtime: dict[str, Any], expected: int, sizes: list[int]) -> None:
    loop = loop_of(toy_images(70), expected, **runtime)
    assert [len(rows.owner) for rows in loop.passes(0, np.arange(70))] == sizes


@pytest.mark.parametrize("draws", [1, 3])
def test_what_fills_a_pass_up_adds_nothing(draws: int) -> None:
    owner = np.array([0, 0, 1, 2, 2, 2])
    table = RowTable(owner, noise_draws=draws, max_images=3)
    for rows in table.passes(RunKeys.for_tests(0), 0, np.arange(3), 7):
        filled = rows.filled(7)
        assert len(filled.owner) == 7
        assert filled.complete == rows.complete
        both = (np.bincount(each.owner, each.weight, minlength=3) for each in (rows, filled))
        np.testing.assert_array_equal(*both)
        assert set(filled.owner) == set(rows.owner)


def test_a_step_without_units_has_no_pass() -> None:
    assert list(loop_of(toy_images(5), dtype="bfloat16").passes(0, np.arange(0))) == []
