from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy import stats

from dp_diffusers.diffusion.objective import Draws, Objective
from dp_diffusers.diffusion.pixel import PixelFamily
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import DPDiffusersError


def _scheduler(prediction: str) -> Any:
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction)


def _draws(rows: int, shape: tuple[int, ...]) -> Draws:
    generator = torch.Generator().manual_seed(1)
    return Draws(
        timesteps=torch.tensor([0, 300, 700, 999])[:rows],
        noise=torch.randn(rows, *shape, generator=generator),
        drop_label=torch.zeros(rows, dtype=torch.bool),
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noisy_images_and_targets_are_those_of_diffusers(prediction: str) -> None:
    scheduler = _scheduler(prediction)
    objective = Objective.of(scheduler)
    clean, draws = torch.randn(4, 1, 4, 4), _draws(4, (1, 4, 4))
    noisy = scheduler.add_noise(clean, draws.noise, draws.timesteps)
    assert torch.allclose(objective.noisy(clean, draws), noisy, atol=1e-6)
    expected = (
        draws.noise
        if prediction == "epsilon"
        else scheduler.get_velocity(clean, draws.noise, draws.timesteps)
    )
    assert torch.allclose(objective.target(clean, draws), expected, atol=1e-6)
    assert torch.allclose(objective.losses(expected, clean, draws), torch.zeros(4), atol=1e-9)


def test_unknown_prediction_and_distribution_are_refused() -> None:
    with pytest.raises(DPDiffusersError, match="score"):
        Objective.of(_scheduler("score"))
    with pytest.raises(DPDiffusersError, match="unifrom") as caught:
        Objective.of(_scheduler("epsilon"), timesteps="unifrom")
    assert caught.value.hint == "did you mean 'uniform'?"


@pytest.mark.parametrize(
    ("name", "density"), [("high_noise", lambda t: 2 * t), ("low_noise", lambda t: 2 - 2 * t)]
)
def test_biased_timesteps_follow_their_density(
    name: str, density: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Chi-squared of secret draws over 20 bins, limit of a 1e-6 alarm; the uniform density is rejected."""
    objective = Objective.of(_scheduler("epsilon"), timesteps=name)
    draws = RunKeys.for_tests(3).uniform("timesteps", 0, np.arange(4_000), 1).ravel()
    found = np.bincount(objective.levels(draws) // 50, minlength=20)
    limit = stats.chi2.isf(1e-6, 19)
    middle = (np.arange(20) + 0.5) / 20
    for shape, fits in ((density(middle), True), (np.ones(20), False)):
        expected = 4_000 * shape / shape.sum()
        assert bool(((found - expected) ** 2 / expected).sum() < limit) == fits


@pytest.mark.parametrize("name", ["uniform", "logit_normal"])
def test_timesteps_stay_in_range_and_follow_their_distribution(name: str) -> None:
    objective = Objective.of(_scheduler("epsilon"), timesteps=name)
    levels = objective.levels((np.arange(10_000) + 0.5) / 10_000)
    assert levels.min() >= 0
    assert levels.max() <= 999
    assert abs(levels.mean() - 499.5) < 1
    spread = {"uniform": 288.7, "logit_normal": 208.2}[name]
    assert levels.std() == pytest.approx(spread, rel=0.01)


def _draw(objective: Objective, units: list[int], slots: int) -> dict[int, Draws]:
    position = np.repeat(np.arange(len(units)), slots)
    slot = np.tile(np.arange(slots), len(units))
    draws = objective.draw(
        RunKeys.for_tests(3),
        7,
        units=np.array(units),
        position=position,
        slot=slot,
        slots=slots,
        shape=(1, 4, 4),
    )
    return {
        unit: Draws(
            timesteps=draws.timesteps[position == index],
            noise=draws.noise[position == index],
            drop_label=draws.drop_label[position == index],
        )
        for index, unit in enumerate(units)
    }


def test_guarantee_draws_of_a_unit_do_not_depend_on_other_units() -> None:
    objective = Objective.of(_scheduler("epsilon"), label_dropout=0.5)
    together, alone = _draw(objective, [4, 9, 2], 3), _draw(objective, [2], 3)
    assert torch.equal(together[2].noise, alone[2].noise)
    assert torch.equal(together[2].timesteps, alone[2].timesteps)
    assert torch.equal(together[2].drop_label, alone[2].drop_label)
    assert not torch.equal(together[4].noise, alone[2].noise)


def test_guarantee_a_longer_row_of_draws_begins_with_the_shorter_one() -> None:
    keys, units = RunKeys.for_tests(3), np.array([5, 6])
    assert np.array_equal(keys.normal("d", 1, units, 37)[:, :20], keys.normal("d", 1, units, 20))
    assert np.array_equal(keys.uniform("d", 1, units, 37)[:, :20], keys.uniform("d", 1, units, 20))


def test_timesteps_of_a_unit_are_spread_over_its_slots() -> None:
    levels = np.sort(_draw(Objective.of(_scheduler("epsilon")), [1], 4)[1].timesteps.numpy())
    assert np.all(np.abs(np.diff(levels) - 250) <= 1)


def test_label_dropout_uses_the_null_class(tiny_base: Callable[..., Any]) -> None:
    family = PixelFamily(tiny_base(), label_dropout=1.0)
    clean, draws = torch.randn(2, *family.shape), _draws(2, family.shape)
    dropped = Draws(timesteps=draws.timesteps, noise=draws.noise, drop_label=torch.ones(2, dtype=torch.bool))
    labels = torch.tensor([0, 1])
    with torch.no_grad():
        null = family.row_losses(clean, torch.tensor([3, 3]), draws)
        assert torch.equal(family.row_losses(clean, labels, dropped), null)
        assert not torch.equal(family.row_losses(clean, labels, draws), null)


def test_guarantee_rows_are_independent(tiny_base: Callable[..., Any]) -> None:
    family = PixelFamily(tiny_base())
    clean, draws, labels = torch.randn(4, *family.shape), _draws(4, family.shape), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        before = family.row_losses(clean, labels, draws)
        clean[0] += 1.0
        after = family.row_losses(clean, labels, draws)
    assert torch.allclose(before[1:], after[1:], rtol=1e-5)
    assert not torch.allclose(before[0], after[0], rtol=1e-3)


def test_guarantee_draws_of_a_unit_do_not_depend_on_how_many_rows_another_unit_has() -> None:
    objective, shape = Objective.of(_scheduler("epsilon"), label_dropout=0.5), (1, 4, 4)

    def draws_of_first(counts: list[int]) -> Draws:
        position = np.repeat(np.arange(len(counts)), counts)
        slot = np.concatenate([np.arange(count) for count in counts])
        units, slots = np.arange(len(counts)) + 5, max(counts)
        draws = objective.draw(
            RunKeys.for_tests(3), 7, units=units, position=position, slot=slot, slots=slots, shape=shape
        )
        mine = position == 0
        return Draws(
            timesteps=draws.timesteps[mine], noise=draws.noise[mine], drop_label=draws.drop_label[mine]
        )

    alone = draws_of_first([3])
    for others in ([3, 1], [3, 7], [3, 2, 12]):
        together = draws_of_first(others)
        assert torch.equal(together.timesteps, alone.timesteps)
        assert torch.equal(together.noise, alone.noise)
        assert torch.equal(together.drop_label, alone.drop_label)


def test_guarantee_draws_of_a_unit_do_not_depend_on_how_its_rows_are_cut_into_passes() -> None:
    """A large unit goes on in the next pass: each row has the draws that it has in one pass with all."""
    objective, count = Objective.of(_scheduler("epsilon"), label_dropout=0.5), 11

    def drawn(slot: np.ndarray, counts: np.ndarray | None) -> Draws:
        rows = {"units": np.array([5]), "position": np.zeros_like(slot), "slot": slot, "slots": count}
        return objective.draw(RunKeys.for_tests(3), 7, **rows, shape=(1, 4, 4), counts=counts)

    whole = drawn(np.arange(count), None)
    parts = [drawn(slot, np.array([count])) for slot in np.split(np.arange(count), [4, 8])]
    for name in ("timesteps", "noise", "drop_label"):
        together = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(together, getattr(whole, name))
    forgetful = drawn(np.arange(4), None)
    assert not torch.equal(forgetful.timesteps, whole.timesteps[:4]), "spread over a part of the rows only"


def test_guarantee_draws_of_rows_take_memory_by_the_rows() -> None:
    import tracemalloc

    objective, counts = Objective.of(_scheduler("epsilon")), np.array([128] + [1] * 128)
    position = np.repeat(np.arange(len(counts)), counts)
    slot = np.concatenate([np.arange(count) for count in counts])
    tracemalloc.start()
    draws = objective.draw(
        RunKeys.for_tests(3),
        7,
        units=np.arange(len(counts)),
        position=position,
        slot=slot,
        slots=128,
        shape=(1, 32, 32),
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert draws.noise.shape == (256, 1, 32, 32)
    assert peak < 8 * draws.noise.nbytes, "129 units as wide as the widest would take 64 times as much"


def test_guarantee_each_draw_has_a_domain_of_its_own_and_is_of_the_step() -> None:
    asked, keys = [], RunKeys.for_tests(0)

    class Stream:
        """Notes what is asked of the keys."""

        def uniform(self, domain: str, step: int, units: Any, count: int) -> Any:
            asked.append((domain, step))
            return keys.uniform(domain, step, units, count)

        def normal(self, domain: str, step: int, units: Any, count: int) -> Any:
            asked.append((domain, step))
            return keys.normal(domain, step, units, count)

    stream: Any = Stream()
    rows: dict[str, Any] = {"position": np.arange(2), "slot": np.zeros(2, np.int64), "slots": 1}
    objective = Objective.of(_scheduler("epsilon"), label_dropout=0.1)
    objective.draw(stream, 7, units=np.arange(2), shape=(1, 2, 2), **rows)
    assert sorted(asked) == [("diffusion-noise", 7), ("label-dropout", 7), ("timestep", 7)]
