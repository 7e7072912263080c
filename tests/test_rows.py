from __future__ import annotations

import numpy as np
import pytest

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.rows import Rows, RowTable

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
        assert len(rows.owner) <= max(limit, 4 * draws)


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
