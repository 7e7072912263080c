"""From units to rows: each unit's rows are its own, whatever else is in the step and however large it is."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.loop.rows import Rows, RowTable
from dp_diffusers.loop.streams import by_width

OWNER = np.array([2, 0, 1, 0, 2, 2, 2, 0, 3])  # units of 3, 1, 4 and 1 images


def _passes(table: RowTable, units: list[int], limit: int, step: int = 0) -> list[Rows]:
    return list(table.passes(RunKeys.for_tests(1), step, np.array(units, dtype=np.int64), limit))


def _by_unit(passes: list[Rows]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for rows in passes:
        for unit, image in zip(rows.owner, rows.image):
            found.setdefault(int(unit), []).append(int(image))
    return found


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("limit", [1, 5, 100])
def test_every_chosen_image_appears_once_per_draw(draws: int, limit: int) -> None:
    table = RowTable(OWNER, noise_draws=draws, max_images=8)
    passes = _passes(table, [0, 1, 2, 3], limit)
    for unit, images in _by_unit(passes).items():
        expected = np.flatnonzero(unit == OWNER)
        assert sorted(images) == sorted(np.repeat(expected, draws).tolist())
    for rows in passes:
        assert len(rows.owner) <= limit


def test_weights_of_a_unit_sum_to_one_and_its_rows_are_neighbours() -> None:
    table = RowTable(OWNER, noise_draws=2, max_images=2)
    for rows in _passes(table, [0, 1, 2, 3], 100):
        assert np.allclose(np.bincount(rows.position, weights=rows.weight), 1.0)
        assert np.all(np.diff(rows.position) >= 0)
        assert rows.slots == 4
        assert np.all(np.bincount(rows.position) <= 4)


def test_guarantee_rows_of_a_unit_do_not_depend_on_other_units_or_passes() -> None:
    table = RowTable(OWNER, noise_draws=2, max_images=2)
    alone = _by_unit(_passes(table, [2], 100))[2]
    assert _by_unit(_passes(table, [0, 1, 2, 3], 100))[2] == alone
    assert _by_unit(_passes(table, [0, 2], 1))[2] == alone


def test_images_of_a_large_unit_change_from_step_to_step() -> None:
    table = RowTable(np.zeros(50, dtype=np.int64), noise_draws=1, max_images=5)
    chosen = [tuple(_by_unit(_passes(table, [0], 100, step))[0]) for step in range(20)]
    assert len(set(chosen)) == 20
    assert all(len(set(images)) == 5 for images in chosen)


def test_no_unit_gives_no_pass() -> None:
    assert _passes(RowTable(OWNER, noise_draws=1, max_images=1), [], 10) == []


def _unequal(**options: Any) -> RowTable:
    """Units of 1, 30 and 3,000 images among 10,000 of one or two."""
    counts = np.concatenate([np.arange(10_000) % 2 + 1, [30, 3_000]])
    return RowTable(np.repeat(np.arange(len(counts)), counts), noise_draws=1, **options)


@pytest.mark.parametrize(("most", "megabytes"), [(8, 8), (3_000, 8)])
def test_guarantee_memory_follows_the_rows_not_the_largest_unit(most: int, megabytes: float) -> None:
    table, stream = _unequal(max_images=most), RunKeys.for_tests(1)
    units = np.arange(table.unit_count)
    tracemalloc.start()
    passes = table.passes(stream, 0, units, 30_000)
    rows = sum(len(found.position) for found in passes)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert rows == 15_000 + min(30, most) + min(3_000, most)
    assert peak < megabytes, "10,000 units beside one of 3,000 would take 480 MB as a table"


def test_a_unit_of_many_images_is_cut_into_passes_of_its_own() -> None:
    table = _unequal(max_images=3_000)
    passes = _passes(table, [0, 10_000, 10_001, 1], 256)
    assert [len(rows.position) for rows in passes] == [31, *[256] * 11, 184, 2]
    large = passes[1:-1]
    assert all(rows.units.tolist() == [10_001] and rows.counts.tolist() == [3_000] for rows in large)
    assert np.concatenate([rows.slot for rows in large]).tolist() == list(range(3_000))
    assert len(set(np.concatenate([rows.image for rows in large]).tolist())) == 3_000
    assert sum(rows.weight.sum() for rows in large) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("limit", [1, 7, 256, 10_000])
def test_guarantee_images_of_a_unit_are_the_same_beside_units_of_any_size(limit: int) -> None:
    table = _unequal(max_images=20)
    alone = {unit: _by_unit(_passes(table, [unit], limit))[unit] for unit in (1, 10_000, 10_001)}
    for company in ([0, 1, 10_000, 10_001], [1, 9_999, 10_001], [10_000]):
        together = _by_unit(_passes(table, company, 10_000))
        for unit in set(company) & set(alone):
            assert together[unit] == alone[unit]


def test_every_image_of_a_large_unit_has_the_same_chance() -> None:
    """Chi-squared over 30 images, 8 of which are used in each of 1,000 steps; limit of a 1e-6 alarm."""
    table = RowTable(np.zeros(30, np.int64), noise_draws=1, max_images=8)
    used = np.concatenate([_passes(table, [0], 8, step)[0].image for step in range(1_000)])
    found = np.bincount(used, minlength=30)
    expected = 1_000 * 8 / 30
    # drawn without replacement: the statistic is that of chi-squared scaled by (n - k) / (n - 1)
    statistic = ((found - expected) ** 2 / expected).sum() / ((30 - 8) / 29)
    assert statistic < stats.chi2.isf(1e-6, 29)
    lazy = np.bincount(np.tile(np.arange(8), 1_000), minlength=30)
    assert ((lazy - expected) ** 2 / expected).sum() > stats.chi2.isf(1e-6, 29), "always the first eight"


def test_by_width_covers_each_unit_once_and_wastes_at_most_half() -> None:
    counts = np.array([0, 1, 1, 2, 3, 7, 8, 3_000, 2_999, 30, 0])
    groups = list(by_width(counts))
    assert sorted(np.concatenate([members for members, _ in groups]).tolist()) == list(range(1, 10))
    for members, width in groups:
        assert width == counts[members].max()
        assert width < 2 * counts[members].min()


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_a_pass_is_complete_when_its_units_do_not_go_on(limit: int) -> None:
    passes = _passes(RowTable(OWNER, noise_draws=2, max_images=9), [0, 1, 2, 3], limit)
    for rows, following in zip(passes, [*passes[1:], None]):
        goes_on = following is not None and bool(set(rows.owner) & set(following.owner))
        assert rows.complete == (not goes_on)
        middle = len(rows.owner) // 2
        assert rows.part(0, middle).complete == (middle == 0 or rows.owner[middle - 1] != rows.owner[middle])


def test_guarantee_units_of_like_size_use_their_own_images_alone() -> None:
    owner = np.repeat(np.arange(4), [5, 7, 6, 4])
    table = RowTable(owner, noise_draws=1, max_images=8)
    for step in range(20):
        for rows in table.passes(RunKeys.for_tests(1), step, np.arange(4), 100):
            assert np.array_equal(owner[rows.image], rows.owner)
            assert len(set(rows.image)) == len(rows.image)
