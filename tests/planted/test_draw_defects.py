"""Each kind of draw in a step, taken by batch position from a public seed or a global generator.

Each unit alone looks innocent then: its gradient is clipped. But the absence of one shifts the draws of all
others, and the sum moves by many clip norms. As built, each draw is a function of (key, step, unit).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from planted_support import toy_images, toy_loop
from torch import nn

from dp_diffusers.engine import dry_run, noise, private_gradient, unit_grads
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.engine.sampling import PoissonSampler
from dp_diffusers.errors import ModelError
from unet_support import CLIP, bounded, clipped_sum, contribution, moved

UNITS = 40
KINDS = {
    "timestep": {"noise_draws": 1},
    "diffusion-noise": {"noise_draws": 4},
    "label-dropout": {"noise_draws": 1},
    "image-choice": {"noise_draws": 1, "max_images_per_unit": 2},
    "augmentation": {"noise_draws": 1, "augmentations": 2, "augment": ["flip", "shift"]},
}
Draw = Callable[..., np.ndarray]


def loop_of(kind: str) -> Any:
    """Three images for each unit, so that there is something to choose."""
    return toy_loop(toy_images(UNITS, owner=np.repeat(np.arange(UNITS), 3)), training=KINDS[kind])


def public_seed(seed: int, step: int) -> Any:
    return np.random.default_rng([seed, step])


def global_generator(seed: int, step: int) -> Any:
    """What `np.random.seed` at the start of a script makes of `np.random`."""
    np.random.seed(seed + step)
    return np.random.mtrand._rand


def by_position(kind: str, source: Callable[[int, int], Any], right: Draw) -> Draw:
    """The defect: for one kind, row i is for whoever stands in place i."""

    def draw(self: RunKeys, domain: str, step: int, units: np.ndarray, count: int) -> np.ndarray:
        if domain != kind:
            return right(self, domain, step, units, count)
        stream, shape = source(0, step), (len(units), count)
        normal = kind == "diffusion-noise"
        values = (
            stream.standard_normal(shape)
            if normal
            else stream.random_sample(shape)
            if isinstance(stream, np.random.RandomState)
            else stream.random(shape)
        )
        return values.astype(np.float32) if normal else np.asarray(values)

    return draw


@pytest.mark.parametrize("kind", KINDS)
def test_guarantee_no_draw_of_a_step_depends_on_who_else_is_there(kind: str) -> None:
    loop = loop_of(kind)
    assert contribution(loop, 0) > 0.999, "every unit is clipped"
    for leaves in (0, 7, UNITS - 1):
        assert bounded(moved(loop, range(UNITS), leaves=leaves))


@pytest.mark.planted
@pytest.mark.parametrize("source", [public_seed, pytest.param(global_generator, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_planted_draws_of_one_kind_by_position(
    kind: str, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = loop_of(kind)
    for method in ("uniform", "normal"):
        monkeypatch.setattr(RunKeys, method, by_position(kind, source, getattr(RunKeys, method)))
    assert bounded(contribution(loop, 0)), "each unit alone looks innocent"
    found = moved(loop, range(UNITS), leaves=0)
    print(f"{kind}: the sum moves by {found:.1f} C")
    assert found > 1.2


def last_leaves() -> float:
    """How far the sum of one step moves when the last unit, which is not in that step, leaves the data."""

    def joined(units: int, step: int) -> list[int]:
        found: list[int] = PoissonSampler(units, 0.5, RunKeys.for_tests(0)).units(step).tolist()
        return found

    step = next(step for step in range(100) if UNITS - 1 not in joined(UNITS, step))
    loop = toy_loop(toy_images(UNITS))
    before, after = (clipped_sum(loop, joined(units, step)) for units in (UNITS, UNITS - 1))
    return float((before - after).norm()) / CLIP


def test_guarantee_a_unit_outside_the_step_moves_nothing() -> None:
    assert last_leaves() == 0


@pytest.mark.planted
def test_planted_sampling_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    def shuffled(self: PoissonSampler, step: int) -> np.ndarray:
        order = np.random.default_rng([0, step]).permutation(self._unit_count)
        return np.sort(order[: round(self.probability * self._unit_count)])

    monkeypatch.setattr(PoissonSampler, "units", shuffled)
    found = last_leaves()
    print(f"sampling: the sum moves by {found:.1f} C")
    assert found > 2


def seeded_start() -> tuple[np.ndarray, np.ndarray]:
    """The noise and the batch of one step of a new process whose experiment seed is 0 everywhere."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    keys = RunKeys.fresh()
    released = private_gradient.noisy(torch.zeros(20_000, dtype=torch.float64), keys, 0, 1.0)
    joined = np.zeros(20_000, bool)
    joined[PoissonSampler(20_000, 0.5, keys).units(0)] = True
    return released.double().numpy(), joined.astype(float)


def secret() -> bool:
    """The property: two starts with one experiment seed share neither noise nor batch (alarm 4e-8)."""
    pairs = zip(seeded_start(), seeded_start())
    return all(abs(np.corrcoef(one, two)[0, 1]) < 5.5 / np.sqrt(len(one)) for one, two in pairs)


def test_guarantee_the_experiment_seed_decides_no_private_draw() -> None:
    assert secret()


GENERATORS: dict[str, Callable[[int], Any]] = {
    "torch.randn": lambda size: torch.randn(size, dtype=torch.float64),
    "np.random": lambda size: torch.from_numpy(np.random.standard_normal(size)),
    "a seeded generator": lambda size: torch.randn(
        size, generator=torch.Generator().manual_seed(23)
    ).double(),
}


@pytest.mark.planted
@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS.keys())
def test_planted_noise_from_a_public_generator(generator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def public(total: torch.Tensor, keys: RunKeys, step: int, std: float) -> torch.Tensor:
        return (total + std * generator(total.numel()).view(total.shape)).float()

    monkeypatch.setattr(private_gradient, "noisy", public)
    assert not secret()


@pytest.mark.planted
def test_planted_sampling_from_a_public_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def public(self: RunKeys, domain: str, step: int, count: int) -> np.ndarray:
        return np.random.default_rng(step).integers(0, 2**16, count, np.uint16)

    monkeypatch.setattr(RunKeys, "coarse_bits", public)
    assert not secret()


MIXING = {"dropout": lambda: nn.Dropout(0.3), "batch norm": lambda: nn.BatchNorm1d(4)}


def refused(extra: nn.Module) -> bool:
    """The property: the rehearsal on random tensors stops such a model before anything is spent."""
    network = toy_loop(toy_images(UNITS), extra=extra).family.network
    pixels = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4) % 3

    def losses(rows: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(network(pixels[rows], labels[rows])).square().sum(1)

    try:
        dry_run.dry_run(network.train(), losses)
    except ModelError:
        return True
    return False


@pytest.mark.parametrize("extra", MIXING.values(), ids=MIXING.keys())
def test_guarantee_layers_that_draw_or_mix_are_refused(extra: Callable[[], nn.Module]) -> None:
    assert not refused(nn.Identity())
    assert refused(extra())


@pytest.mark.parametrize("rate", [1e-2, 1e-4, 1e-6])
def test_guarantee_a_dropout_too_rare_to_be_seen_is_refused(rate: float) -> None:
    assert refused(nn.Dropout(rate))


@pytest.mark.planted
@pytest.mark.parametrize("extra", MIXING.values(), ids=MIXING.keys())
def test_planted_layers_that_draw_or_mix(
    extra: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the refusal: dropout masks and batch statistics carry one unit's absence to all others."""
    monkeypatch.setattr(unit_grads, "check_layers", lambda module: None)
    layer = extra()
    layer.requires_grad_(False)
    loop = toy_loop(toy_images(UNITS), extra=layer)
    loop.family.network.train()
    sums = []
    for units in (range(UNITS), range(1, UNITS)):
        torch.manual_seed(0)
        sums.append(clipped_sum(loop, units))
    found = float((sums[0] - sums[1]).norm()) / CLIP
    print(f"{type(layer).__name__}: the sum moves by {found:.1f} C")
    assert found > 1.2


@pytest.mark.planted
def test_planted_grid_that_follows_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding to a grid made of the sum's own size tells its size; as built the grid follows the noise."""

    def steps_of(size: float) -> float:
        released = noise.noisy(torch.full((500,), size).double(), RunKeys.for_tests(0), 0, 1.0).double()
        return float(np.gcd.reduce(np.round(released.numpy() * 2.0**30).astype(np.int64)))

    assert steps_of(0.5) == steps_of(8.0)
    right = noise.noisy

    def of_the_sum(total: torch.Tensor, *rest: Any) -> torch.Tensor:
        step = noise.grid(float(total.abs().max()))
        return ((right(total, *rest).double() / step).round() * step).float()

    monkeypatch.setattr(noise, "noisy", of_the_sum)
    assert steps_of(0.5) != steps_of(8.0)
