"""The epsilon that a defect would really have, by dp_accounting alone, at shipped and published settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import dp_accounting
from dp_accounting.pld import PLDAccountant

from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A sampled Gaussian mechanism, beside side queries (sigma, times)."""

    rate: float
    steps: int
    sigma: float
    delta: float
    queries: tuple[tuple[float, int], ...] = ()

    def epsilon(self) -> float:
        """PLD; the grid is coarse where epsilon is large."""
        grid = 1e-2 if self.sigma < 0.3 else min(1e-3, max(self.rate / 50, 1e-4))
        accountant = PLDAccountant(value_discretization_interval=grid)
        step: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(self.sigma)
        if self.rate < 1:
            step = dp_accounting.PoissonSampledDpEvent(self.rate, step)
        accountant.compose(dp_accounting.SelfComposedDpEvent(step, self.steps))
        for sigma, times in self.queries:
            accountant.compose(dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(sigma), times))
        return float(accountant.get_epsilon(self.delta))


@cache
def shipped() -> Setting:
    """`recipes/mnist-eps10.yaml`: 80 steps of 4,096 of 60,000 at delta 1e-5, epsilon 10."""
    plan = Plan.calibrate(Budget(10, 1e-5), DPSGD(steps=80, expected_units=4096, population=60000))
    return Setting(rate=4096 / 60000, steps=80, sigma=plan.noise_multiplier, delta=1e-5)


@cache
def published() -> Setting:
    """The published configuration for 64-pixel faces: 400 steps at rate 0.05, delta 1e-6, epsilon 10."""
    plan = Plan.calibrate(Budget(10, 1e-6), DPSGD(steps=400, expected_units=5, population=100))
    return Setting(rate=0.05, steps=400, sigma=plan.noise_multiplier, delta=1e-6)


def sensitivity(factor: float, of: Setting) -> Setting:
    """One unit moves the sum by `factor` clip norms: as if the noise were so much smaller."""
    return replace(of, sigma=of.sigma / factor)


# epsilon by the row of docs/concepts/planted-defects.md that quotes it, and which quote of the row it is
Q = 4096 / 60000
FIGURES: dict[tuple[str, int], Callable[[], Setting]] = {
    ("each noise draw clipped on its own", 0): lambda: sensitivity(4, shipped()),
    ("each noise draw clipped on its own", 1): lambda: sensitivity(8, shipped()),
    ("each noise draw clipped on its own", 2): lambda: sensitivity(4, published()),
    ("each augmented copy clipped on its own", 0): lambda: sensitivity(4, shipped()),
    ("each layer clipped to the whole clip norm", 0): lambda: sensitivity(2, shipped()),
    ("count of adaptive clipping not paid for", 0): lambda: sensitivity(1.25**0.5, shipped()),
    ("accountant told the rate of a part of the batch", 0): lambda: replace(shipped(), rate=Q / 16),
    ("accountant told the rate of a part of the batch", 1): lambda: replace(published(), rate=6.14e-5),
    ("more units sampled than accounted", 0): lambda: replace(shipped(), rate=1.1 * 4096 / 60000),
    ("shuffled batches accounted as Poisson", 0): lambda: replace(shipped(), rate=1.0, steps=6),
    ("sampling from a public seed", 0): lambda: replace(shipped(), rate=1.0, steps=6),
    ("noise a tenth too small", 0): lambda: sensitivity(1 / 0.9, shipped()),
    ("a resumed run forgets what it spent", 0): lambda: replace(shipped(), steps=120),
    ("each image of a person clipped on its own", 0): lambda: sensitivity(3, shipped()),
    ("histogram paid for once and asked until it works", 0): lambda: Setting(
        rate=1.0, steps=3, sigma=50.0, delta=1e-5
    ),
    ("histogram with less noise than accounted", 0): lambda: Setting(rate=1.0, steps=1, sigma=50, delta=1e-5),
    ("histogram with less noise than accounted", 1): lambda: Setting(
        rate=1.0, steps=1, sigma=484, delta=1e-5
    ),
}
