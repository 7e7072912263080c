"""Coins of the units: beside draws that are compared as whole numbers, and at chances where ties decide."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy import stats

from dp_diffusers.engine import coins
from dp_diffusers.engine.coins import limit_of, smallest, that_come
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.engine.sampling import PoissonSampler, TruncatedPoissonSampler

KEYS = RunKeys.for_tests(8)
ALARM = 1e-6
CHANCES = (1.0, 1 - 2.0**-53, 0.5, 0.3, 4096 / 60_000, 1e-3, 1.5 / 65_536, 2.0**-16, 1e-9)


def stream(kind: str, step: int, nonce: int, size: int) -> bytes:
    """ChaCha20 as the library gives it, under the subkey of a kind of draws."""
    subkey = bytes(KEYS._subkey(kind, "sampling", step))
    cipher = Cipher(ChaCha20(subkey, bytes(8) + nonce.to_bytes(8, "little")), mode=None)
    return cipher.encryptor().update(bytes(size))


def whole_draws(step: int, count: int) -> list[int]:
    """The draws of units 0..count-1, as whole numbers below 2^80."""
    coarse = np.frombuffer(stream("coarse", step, 0, 2 * count), np.uint16).tolist()
    fine = [int(np.frombuffer(stream("fine", step, unit, 8), np.uint64)[0]) for unit in range(count)]
    return [(first << 64) + rest for first, rest in zip(coarse, fine, strict=True)]


@pytest.mark.parametrize("chance", CHANCES)
def test_guarantee_the_units_are_those_whose_whole_draw_lies_below_the_chance(chance: float) -> None:
    draws = whole_draws(3, 2000)
    expected = [unit for unit, draw in enumerate(draws) if draw < Fraction(chance) * 2**80]
    assert PoissonSampler(2000, chance, KEYS).units(3).tolist() == expected


def test_the_limit_keeps_the_smallest_whole_draws() -> None:
    draws = whole_draws(4, 2000)
    came = sorted((draw, unit) for unit, draw in enumerate(draws) if draw < 0.3 * 2**80)
    sampler = TruncatedPoissonSampler(2000, 0.3, KEYS, slots=2000, max_units=400)
    assert sampler.units(4).tolist() == sorted(unit for _, unit in came[:400])


def test_guarantee_the_real_chance_is_never_above_the_accounted_one() -> None:
    """And less than 2^-80 below it."""
    random = np.random.default_rng(0)
    for chance in (*CHANCES, 5e-324, *np.exp(-random.uniform(0, 60, 200)).tolist()):
        coarse, fine = limit_of(chance)
        real = Fraction((coarse << 64) + fine, 2**80)
        assert 0 <= Fraction(chance) - real < Fraction(1, 2**80)


class Told:
    """Keys whose bits are given."""

    def __init__(self, coarse: list[int], fine: list[int]) -> None:
        self.coarse, self.fine = np.array(coarse, np.uint16), np.array(fine, np.uint64)

    def coarse_bits(self, domain: str, step: int, count: int) -> np.ndarray:
        return self.coarse[:count]

    def fine_bits(self, domain: str, step: int, units: np.ndarray) -> np.ndarray:
        return self.fine[units]


def test_ties_are_decided_by_the_fine_bits() -> None:
    coarse, fine = limit_of(0.3)
    told: Any = Told([coarse, coarse, coarse, coarse - 1, coarse + 1], [fine, fine - 1, 0, 2**64 - 1, 0])
    units, found = that_come(told, 0, 5, 0.3)
    assert units.tolist() == [1, 2, 3]
    assert found.tolist() == [coarse, coarse, coarse - 1]
    assert smallest(told, 0, units, found, 2).tolist() == [2, 3]
    assert smallest(told, 0, units, found, 9).tolist() == [1, 2, 3]


RARE = 1.5 / 65_536  # of those with coarse bits 1, the fine bits take half
STEPS, UNITS = 1500, 1 << 16


def came_at_a_rare_chance() -> tuple[np.ndarray, np.ndarray]:
    """Steps and units of all that came."""
    sampler = PoissonSampler(UNITS, RARE, KEYS)
    found = [sampler.units(step) for step in range(STEPS)]
    return np.repeat(np.arange(STEPS), [len(units) for units in found]), np.concatenate(found)


def chance_is_right() -> bool:
    count = len(came_at_a_rare_chance()[1])
    return bool(stats.binomtest(count, STEPS * UNITS, RARE).pvalue > ALARM)


@pytest.mark.slow
def test_guarantee_ties_have_their_chance_and_favour_no_unit_and_no_step() -> None:
    steps, units = came_at_a_rare_chance()
    for wrong in (1.2, 1 / 1.2):
        assert stats.binomtest(len(units), STEPS * UNITS, RARE * wrong).pvalue < ALARM
    assert stats.binomtest(len(units), STEPS * UNITS, RARE).pvalue > ALARM
    for group in (steps // 50, units // 2048, units % 32):
        assert stats.chisquare(np.bincount(group)).pvalue > ALARM
    table = np.histogram2d(steps // 250, units // 8192, bins=(6, 8))[0]
    assert stats.chi2_contingency(table).pvalue > ALARM


DEFECTS = {
    "rounded up": lambda chance: (math.floor(chance * 2**16) + 1, 0),
    "ties dropped": lambda chance: (math.floor(chance * 2**16), 0),
    "rounded to the nearest": lambda chance: (round(chance * 2**16), 0),
}


@pytest.mark.slow
@pytest.mark.planted
@pytest.mark.parametrize("limit", DEFECTS.values(), ids=DEFECTS.keys())
def test_planted_limits_of_sixteen_bits(limit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chance_is_right()
    monkeypatch.setattr(coins, "limit_of", limit)
    assert not chance_is_right()


def test_guarantee_the_fine_bits_are_those_of_the_step() -> None:
    draws = whole_draws(3, 200)
    for draw in draws:
        chance = ((draw >> 64) + 0.5) / 2**16  # the coarse bits of this unit leave it open
        expected = [unit for unit, other in enumerate(draws) if other < Fraction(chance) * 2**80]
        assert PoissonSampler(200, chance, KEYS).units(3).tolist() == expected
