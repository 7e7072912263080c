"""Variants of an image, and which of them the rows of a unit show."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import ParameterError
from dp_diffusers.loop.augmentation import Variant, augment, variants
from dp_diffusers.loop.rows import Rows, RowTable

OWNER = np.array([2, 0, 1, 0, 2, 2, 2, 0, 3])  # units of 3, 1, 4 and 1 images
COPIES, DRAWS, VARIANTS = 4, 3, 18


def table(**changes: int) -> RowTable:
    facts = {"noise_draws": DRAWS, "max_images": 2, "augmentations": COPIES, "variants": VARIANTS}
    return RowTable(OWNER, **(facts | changes))


def rows_of(units: list[int], *, step: int = 0, limit: int = 1000, **changes: int) -> list[Rows]:
    keys = RunKeys.for_tests(1)
    return list(table(**changes).passes(keys, step, np.array(units, dtype=np.int64), limit))


def shown(passes: list[Rows], unit: int) -> list[tuple[int, int, int]]:
    """(slot, image, variant) of each row of a unit."""
    return [
        (int(slot), int(image), int(variant))
        for rows in passes
        for owner, slot, image, variant in zip(rows.owner, rows.slot, rows.image, rows.variant)
        if owner == unit
    ]


@pytest.mark.parametrize(
    ("kinds", "count"), [([], 1), (["flip"], 2), (["shift"], 9), (["flip", "shift"], 18)]
)
def test_variants_are_a_short_public_list_with_the_image_first(kinds: list[str], count: int) -> None:
    found = variants(kinds, 32)
    assert len(set(found)) == len(found) == count
    assert found[0] == Variant()
    assert {abs(variant.down) for variant in found} <= {0, 2}
    assert {abs(variant.right) for variant in variants(kinds, 8)} <= {0, 1}


def test_pixels_of_a_variant() -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 1)
    moved = Variant(down=1, right=-1).of(images)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    assert np.array_equal(moved, padded[:, 0:3, 2:6])
    assert np.array_equal(Variant(flip=True).of(images), images[:, :, ::-1])
    flipped = Variant(flip=True, down=1).of(images)
    assert np.array_equal(flipped, Variant(down=1).of(images[:, :, ::-1]))


def test_each_row_shows_its_variant() -> None:
    listed = variants(["flip", "shift"], 8)
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), dtype=np.uint8)
    variant = np.arange(40) % len(listed)
    found = augment(images, variant, listed)
    for row in range(40):
        assert np.array_equal(found[row], listed[variant[row]].of(images[row : row + 1])[0])
    assert augment(images, np.zeros(40, np.int64), listed) is images
    with pytest.raises(ParameterError, match="unknown augmentation 'flop'"):
        variants(["flop"], 8)


def test_a_unit_has_copies_times_draws_rows_of_each_image_and_weight_one() -> None:
    (rows,) = rows_of([0, 1, 2, 3])
    assert rows.counts.tolist() == [2 * COPIES * DRAWS, COPIES * DRAWS, 2 * COPIES * DRAWS, COPIES * DRAWS]
    assert np.allclose(np.bincount(rows.position, weights=rows.weight), 1.0)
    for unit in range(4):
        groups = np.array(shown([rows], unit)).reshape(-1, COPIES, DRAWS, 3)
        assert (groups[..., 2] == groups[:, :, :1, 2]).all(), "noise draws of a copy show one variant"
        assert (groups[..., 1] == groups[:, :1, :1, 1]).all(), "copies are of one image"
        assert (groups[:, 0, :, 2] == 0).all(), "the first copy is the image itself"
        assert (groups[:, 1:, :, 2] > 0).all()


@pytest.mark.parametrize("limit", [1, 5, 1000])
def test_guarantee_variants_of_a_unit_are_a_function_of_key_step_unit_and_slot(limit: int) -> None:
    alone = {unit: shown(rows_of([unit]), unit) for unit in range(4)}
    for company in ([0, 1, 2, 3], [2, 3], [3, 0]):
        passes = rows_of(company, limit=limit)
        assert all(len(rows.position) <= limit for rows in passes)
        for unit in company:
            assert shown(passes, unit) == alone[unit]
    assert shown(rows_of([2], step=1), 2) != alone[2]
    other = table().passes(RunKeys.for_tests(2), 0, np.array([2]), 1000)
    assert shown(list(other), 2) != alone[2]


def test_without_augmentations_rows_are_the_same_as_ever() -> None:
    (plain,) = list(
        RowTable(OWNER, noise_draws=2, max_images=2).passes(RunKeys.for_tests(1), 0, np.arange(4), 99)
    )
    (one,) = rows_of([0, 1, 2, 3], noise_draws=2, augmentations=1)
    assert np.array_equal(plain.image, one.image)
    assert not plain.variant.any()
    assert not one.variant.any()


def test_every_variant_but_the_image_has_the_same_chance() -> None:
    """Chi-squared over 17 variants; limit of a 1e-6 alarm, which a tenth more of one of them sets off."""
    passes = [rows for step in range(400) for rows in rows_of([0, 1, 2, 3], step=step, noise_draws=1)]
    found = np.bincount(np.concatenate([rows.variant for rows in passes]), minlength=VARIANTS)[1:]
    limit = stats.chi2.isf(1e-6, VARIANTS - 2)
    expected = found.sum() / (VARIANTS - 1)
    assert len(found) == VARIANTS - 1
    assert ((found - expected) ** 2 / expected).sum() < limit
    skewed = found.copy()
    skewed[0] += skewed[1]
    skewed[1] = 0
    assert ((skewed - expected) ** 2 / expected).sum() > limit
