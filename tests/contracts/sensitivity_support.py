"""How far one unit moves what a step releases, for any family, strategy and clipping rule.

What a step releases is the sum and, with adaptive clipping, the count of unclipped units, as the box of the
mechanism gives them away: each is taken in units of the noise that the box adds to it, so that the two are
the one vector of docs/design/0012, and the length 1 is what was accounted for.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from dp_diffusers.engine.noise import SAFETY
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.mechanisms.dpsgd import DPSGD
from engine_support import release
from family_support import draws_of, images_for, rows, some_draws

TINY = 1e-5  # a clip norm far below the length of any gradient: every unit is clipped
MULTIPLIER = 1e-9  # accounted: noise too small to see, and the same with the unit and without it
COUNT_NOISE = 0.7 * MULTIPLIER  # the count has half of what a unit may move, and the sum the other half
ROUNDING = 1e-5  # of float32, for each unit
SAME = 1e-3  # of two releases that differ in the rows of their passes alone
VALUES = (None, math.nan, math.inf, -math.inf, 1e30, 1e4, 1e-40, 0.0)  # None leaves the images as they are


@dataclass(frozen=True, kw_only=True)
class Case:
    """A step: `sizes` rows of each unit, at most `rows_per_pass` at once, and the unit that `leaves`.

    `value` stands in every place of the images of the leaving unit, in all of its rows or in the first of
    them; None leaves them as they are.
    """

    sizes: tuple[int, ...]
    leaves: int = 0
    value: float | None = None
    whole: bool = True
    clip_norm: float = TINY
    rows_per_pass: int = 9

    @property
    def owner(self) -> np.ndarray:
        """int64 `[R]`"""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def mine(self) -> np.ndarray:
        """bool `[R]`: the rows of the unit that leaves."""
        return self.owner == self.leaves % len(self.sizes)

    def inputs(self, family: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encoded images and labels of all rows."""
        clean, labels, _ = rows(family, *images_for(family, len(self.owner)), list(range(len(self.owner))))
        if self.value is not None:
            places = np.flatnonzero(self.mine)
            clean[torch.from_numpy(places if self.whole else places[:1])] = self.value
        return clean, labels

    def passes(self, kept: np.ndarray) -> Iterator[torch.Tensor]:
        """Positions in `kept`, int64, one pass at a time."""
        yield from torch.arange(len(kept)).split(self.rows_per_pass) if len(kept) else ()


CASES = st.builds(
    Case,
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    leaves=st.integers(0, 2),
    value=st.sampled_from(VALUES),
    whole=st.booleans(),
    clip_norm=st.sampled_from((TINY, 1.0, 1e3)),
    rows_per_pass=st.sampled_from((2, 9)),
)


def mechanism(rule: str, clip_norm: float) -> DPSGD:
    noise = {"quantile_noise": COUNT_NOISE} if rule == "adaptive" else {}
    return DPSGD(steps=1, expected_units=8, population=8, clip_norm=clip_norm, clipping=rule, **noise)


def released(family: Any, rule: str, case: Case, inputs: Any, kept: np.ndarray) -> torch.Tensor:
    """float64 vector: what the step over the rows of `kept` (bool `[R]`) releases; no pass where there are
    none."""
    of, keys = mechanism(rule, case.clip_norm), RunKeys.for_tests(0)
    box = of.private_gradient(family.network, keys, MULTIPLIER, "plan")
    try:
        accumulate(family, box, case, inputs, np.flatnonzero(kept))
        sums = release(box) / (box.mean_noise_std * of.expected_units)
        count = torch.tensor(_counts(of, box.state_dict()), dtype=torch.float64)
    finally:
        box._source.close()  # type: ignore[attr-defined]
    return torch.cat([sums, count]) * MULTIPLIER * (1 + SAFETY)


def accumulate(family: Any, box: Any, case: Case, inputs: Any, kept: np.ndarray) -> None:
    """Gives the box the rows `kept`, int64: losses, whose they are, and weights that sum to 1 for each
    unit."""
    clean, labels = inputs
    owner = torch.from_numpy(case.owner[kept])
    weight = 1 / torch.bincount(owner)[owner]
    for index in case.passes(kept):
        draws = some_draws(draws_of(family, owner.numpy()), index)
        images = torch.from_numpy(kept)[index]
        losses = family.row_losses(clean[images], None if labels is None else labels[images], draws)
        box.accumulate(losses, owner[index], weight[index])


def _counts(of: DPSGD, state: dict[str, float]) -> list[float]:
    """What the released clip norm says of the count, in units of its noise; nothing without a count."""
    if of.quantile_noise is None:
        return []
    share = of.target_quantile - math.log(state["clip_norm"] / of.clip_norm) / of.quantile_rate  # type: ignore[operator]
    return [(share - 0.5) * of.expected_units / (of.quantile_noise * (1 + SAFETY))]


def moves(family: Any, rule: str, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """What leaves a release with the unit, and what the unit adds to one that is otherwise empty; the length
    1 is what was accounted for."""
    inputs = case.inputs(family)
    kept = (np.ones_like(case.mine), ~case.mine, case.mine)
    together, without, alone = (released(family, rule, case, inputs, some) for some in kept)
    return together - without, alone


def check(family: Any, rule: str, case: Case) -> None:
    """The property, and that it is not met for want of size.

    No unit changes what the others add, however little that would be; one that is not finite adds nothing.
    """
    moved, alone = moves(family, rule, case)
    assert float(moved.norm()) <= 1 + ROUNDING * len(case.sizes)  # written so that NaN fails
    assert float((moved - alone).norm()) <= SAME
    if case.value is not None and not math.isfinite(case.value):
        assert float(moved.norm()) <= SAME
    if case.value is None and case.clip_norm == TINY:
        # a group that a unit's rows do not reach (queries of a prompt of one token) stays empty
        assert float(moved.norm()) >= (0.5 if rule == "per_layer" else 0.99)


def check_some(family: Any, rule: str, examples: int, label: str) -> None:
    """Checks random cases, others for each label and the same ones for the same label."""

    @seed(zlib.crc32(label.encode()))
    @settings(max_examples=examples, deadline=None, database=None)
    @given(case=CASES)
    def property_(case: Case) -> None:
        check(family, rule, case)

    property_()
