"""Passes of one number of rows: who else is there does not change how anyone's row is rounded."""

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
from dp_diffusers.engine.clipping import ClippedSum
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.postponed import Postponed
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError
from dp_diffusers.loop.rows import Rows, RowTable
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.recipe import TrainingSettings
from dp_diffusers.runtime.pass_curve import rows_of_each_pass
from engine_support import make_box
from latent_support import tiny_latent_base

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


def plan_of(expected: int, population: int, unit: str = "image") -> Any:
    """What a loop and the size of its passes ask of a plan."""
    mechanism = DPSGD(steps=1, expected_units=expected, population=population)
    return SimpleNamespace(mechanism=mechanism, noise_multiplier=1.0, budget=SimpleNamespace(unit=unit))


def a_loop(dtype: str) -> Any:
    """One that trains a U-Net on 64 units of one image, all in one pass."""
    rng = np.random.default_rng(0)
    images = PrivateImages(
        images=rng.integers(0, 255, (UNITS, 8, 8, 1), dtype=np.uint8),
        labels=None,
        class_names=None,
        owner=np.arange(UNITS),
        unit_count=UNITS,
    )
    runtime = {"dtype": dtype, "rows_per_pass": UNITS}
    return toy_loop(images, plan=plan_of(UNITS, UNITS), runtime=runtime, family=unet())


def clipped_sum(units: np.ndarray) -> torch.Tensor:
    """Of these units of 64 in bfloat16, in clip norms."""
    loop = a_loop("bfloat16")
    box = PrivateGradient(
        loop.family.network,
        clip_norm=CLIP,
        noise_multiplier=1.0,
        expected_units=UNITS,
        keys=RunKeys.for_tests(0),
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


def first_loss(units: np.ndarray) -> float:
    """Of unit 0 beside these in float32."""
    loop = a_loop("float32")
    (rows,) = loop.passes(0, units)
    return float(loop.row_losses(rows, 0)[0].detach())


def test_guarantee_in_bfloat16_nobody_s_absence_changes_the_rounding_of_others() -> None:
    moved, others = moved_by_the_last()
    assert others < 1e-4  # the margin of the noise
    assert moved <= 1 + 1e-4


def test_guarantee_in_float32_a_loss_is_the_same_to_the_last_bit_in_any_company() -> None:
    assert len({first_loss(np.arange(count)) for count in (1, 2, 5, 30, UNITS)}) == 1


@pytest.mark.planted
def test_planted_the_last_pass_has_as_many_rows_as_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "filled", lambda self, count: self)
    _, others = moved_by_the_last()
    assert others > 1e-2
    assert len({first_loss(np.arange(count)) for count in (1, 2, 5, 30, UNITS)}) > 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_passes_have_as_many_rows_whatever_came(dtype: str) -> None:
    runtime = {"dtype": dtype, "rows_per_pass": 64}
    loop = toy_loop(toy_images(70), plan=plan_of(400, 800), runtime=runtime)
    assert [len(rows.owner) for rows in loop.passes(0, np.arange(70))] == [64, 64]


@pytest.mark.parametrize(
    ("expected", "population", "draws", "most", "processes", "rows"),
    [
        (4096, 60_000, 1, 10_000, 1, 4405),  # one pass of all that can come: 8 % more than is expected
        (4096, 60_000, 1, 256, 1, 256),  # as many as fit
        (
            4,
            400,
            1,
            256,
            1,
            8,
        ),  # all that can come would be too many more: as starting and filling cost least
        (64, 1000, 1, 256, 1, 32),
        (64, 1000, 8, 256, 1, 88),  # whole units
        (64, 1000, 8, 50, 1, 48),
        (64, 1000, 8, 5, 1, 5),  # which do not fit
        (64, 64, 1, 256, 1, 64),  # nobody is left out: what is expected is what comes
        (4096, 60_000, 1, 10_000, 4, 1102),  # a fourth in each of four processes
    ],
)
def test_passes_have_one_public_size(
    expected: int, population: int, draws: int, most: int, processes: int, rows: int
) -> None:
    training = TrainingSettings(noise_draws=draws)
    assert rows_of_each_pass(plan_of(expected, population), training, most, processes) == rows


@pytest.mark.parametrize("draws", [1, 3])
def test_what_fills_a_pass_up_is_nobodys(draws: int) -> None:
    owner = np.array([0, 0, 1, 2, 2, 2])
    table = RowTable(owner, noise_draws=draws, max_images=3)
    for rows in table.passes(RunKeys.for_tests(0), 0, np.arange(3), 7):
        filled = rows.filled(7)
        own = len(rows.owner)
        assert (len(filled.owner), filled.filling) == (7, 7 - own)
        assert filled.complete == rows.complete
        np.testing.assert_array_equal(filled.owner[:own], rows.owner)
        assert not set(filled.owner[own:]) & set(rows.owner)
        assert not filled.weight[own:].any()


def test_a_filled_pass_folds_as_the_others_do() -> None:
    table = RowTable(np.arange(5), noise_draws=4, max_images=1)
    (rows,) = table.passes(RunKeys.for_tests(0), 0, np.arange(5), 32)
    owners = RowOwners.of(torch.from_numpy(rows.filled(32).owner))
    assert (owners.fold, owners.count, owners.count_without(12)) == (4, 8, 5)


@pytest.mark.parametrize("owner", [[0, 1, 1, 1], [1, 2, 0, 0], [0, 0, 0, 0]])
def test_guarantee_rows_of_anyone_fill_nothing_up(owner: list[int]) -> None:
    with pytest.raises(GuaranteeError, match="come last, under larger owners"):
        RowOwners.of(torch.tensor(owner)).count_without(2)


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_guarantee_what_fills_up_is_in_no_sum_and_may_be_anything(clipping: str) -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    inputs = torch.randn(6, 3)
    inputs[4:] = torch.tensor([float("nan"), 1e30, 1.0])
    sums = []
    for count, filling in ((4, 0), (6, 2)):
        box = make_box(net, clipping=clipping)
        for first in (0, 10):  # in two passes: nobody comes back
            owner = first + torch.arange(count)
            losses = net(inputs[:count]).square().sum(1)
            box.accumulate(losses, owner, torch.ones(count), complete=True, filling=filling)
        totals, surplus = box._sum.take()
        sums.append(torch.cat([*(total.flatten() for total in totals), torch.tensor([surplus])]))
    assert torch.allclose(*sums, rtol=1e-6, atol=1e-12)


def test_a_step_without_units_has_no_pass() -> None:
    loop = toy_loop(toy_images(5), plan=plan_of(4, 8), runtime={"dtype": "bfloat16"})
    assert list(loop.passes(0, np.arange(0))) == []


@pytest.mark.parametrize("count", [5, 64, 70])
def test_guarantee_each_chunk_of_images_is_encoded_as_if_all_were_whole(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    family = family_of(tiny_latent_base(autoencoder="kl"))
    vae = family.base.parts["vqvae"]
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda part: sizes.append(len(part)) or encode(part))
    side = family.size
    images = np.random.default_rng(0).integers(0, 255, (count, side, side, family.channels), dtype=np.uint8)
    assert len(family.encode(images)) == count
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("fold", [1, 4])
def test_what_fills_up_is_dropped_from_large_layers_too(fold: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(256, 256)
    inputs = torch.randn(6 * fold, 2, 256)
    owner = torch.arange(6).repeat_interleave(fold)
    kinds, add = set(), ClippedSum.add

    def noted(self: ClippedSum, ids: list[int], gradients: Any, usable: torch.Tensor, **more: Any) -> None:
        kinds.update(map(type, gradients))
        add(self, ids, gradients, usable, **more)

    monkeypatch.setattr(ClippedSum, "add", noted)
    sums = []
    for count, filling in ((4 * fold, 0), (6 * fold, 2 * fold)):
        box = make_box(net)
        losses = net(inputs[:count]).square().sum((1, 2))
        box.accumulate(losses, owner[:count], torch.full((count,), 1 / fold), filling=filling)
        sums.append(torch.cat([total.flatten() for total in box._sum.take()[0]]))
    assert Postponed in kinds
    assert float((sums[0] - sums[1]).norm() / sums[0].norm()) < 1e-5
