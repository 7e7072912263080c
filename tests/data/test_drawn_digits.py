"""Drawn digits: pure in seed and index, balanced, framed as documented."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusers.data.drawn_digits import BLOCK, drawn_digits
from dp_diffusers.data.glyph_strokes import DIGITS, compile_family, stroke_table
from dp_diffusers.errors import DPDiffusersError, ParameterError


def _check_image_depends_on_seed_and_index_alone() -> None:
    long, labels = drawn_digits(BLOCK + 60, 16, 7)
    short, few = drawn_digits(BLOCK + 20, 16, 7)
    assert np.array_equal(long[: BLOCK + 20], short)
    assert np.array_equal(labels[: BLOCK + 20], few)
    assert not np.array_equal(drawn_digits(20, 16, 8)[0], short[:20])


def test_guarantee_image_depends_on_seed_and_index_alone() -> None:
    _check_image_depends_on_seed_and_index_alone()


@pytest.mark.planted
def test_planted_one_stream_for_all_calls_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = np.random.default_rng(0)
    monkeypatch.setattr(np.random, "default_rng", lambda *_: shared)
    with pytest.raises(AssertionError):
        _check_image_depends_on_seed_and_index_alone()


@pytest.mark.slow
def test_workers_change_nothing() -> None:
    alone = drawn_digits(BLOCK * 2, 12, 1, fonts=0.0)
    together = drawn_digits(BLOCK * 2, 12, 1, fonts=0.0, workers=2)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together))


@pytest.mark.parametrize("count", [0, 10, 130, 510])
def test_labels_are_balanced(count: int) -> None:
    images, labels = drawn_digits(count, 10, 0, fonts=0.0)
    assert images.shape == (count, 10, 10)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels, minlength=10).tolist() == [count // 10] * 10


def test_share_of_fonts_changes_only_the_printed_images() -> None:
    strokes, mixed = (drawn_digits(250, 28, 0, fonts=f)[0] for f in (0.0, 0.3))
    changed = (strokes != mixed).any(axis=(1, 2)).mean()
    assert 0.2 < changed < 0.4


@pytest.mark.parametrize("fonts", [0.0, 1.0])
def test_mnist_frame_has_a_20_pixel_box_and_a_centred_mass(fonts: float) -> None:
    images = drawn_digits(200, 28, 3, fonts=fonts)[0].astype(float)
    rows, columns = (images > 127).any(2), (images > 127).any(1)
    longest = np.maximum(rows.sum(1), columns.sum(1))
    assert 18 <= np.median(longest) <= 21
    place = np.arange(28) + 0.5
    mass = images.sum((1, 2))
    down = (images.sum(2) * place).sum(1) / mass
    across = (images.sum(1) * place).sum(1) / mass
    assert np.abs(np.stack([down, across]) - 14).mean() < 0.5
    assert images[:, 0].max() == 0


def test_tight_frame_touches_top_and_bottom() -> None:
    images = drawn_digits(200, 28, 3, frame="tight", fonts=0.2)[0]
    assert (images[:, :2].max((1, 2)) > 60).mean() > 0.95
    assert (images[:, -2:].max((1, 2)) > 60).mean() > 0.95


def test_scan_has_no_more_detail_than_its_grid() -> None:
    images = drawn_digits(50, 8, 0, frame="tight", scan=8)[0]
    assert set(np.unique(images)) <= {round(level * 255 / 16) for level in range(17)}
    assert drawn_digits(50, 16, 0, frame="tight", scan=8)[0].shape == (50, 16, 16)


def test_every_digit_has_many_orders_of_strokes() -> None:
    table = stroke_table()
    assert all(len(families) >= 8 for families in DIGITS)
    assert np.allclose([table.weight[table.digit == d].sum() for d in range(10)], 1)
    assert table.shape_count.sum() > 200


def test_shapes_of_a_family_must_have_the_same_points() -> None:
    with pytest.raises(DPDiffusersError, match="differ in their points"):
        compile_family(("0 0,1 1!,2 2", "0 0,1 1,2 2"))


def test_images_are_not_repeated_nor_empty() -> None:
    images = drawn_digits(1000, 28, 0)[0]
    assert len(np.unique(images.reshape(1000, -1), axis=0)) == 1000
    assert images.max((1, 2)).min() > 120
    assert (images > 127).mean((1, 2)).max() < 0.45


@pytest.mark.parametrize(
    "options",
    [{"count": -1}, {"size": 2}, {"fonts": 1.5}, {"workers": 0}, {"frame": "loose"}, {"scan": 1}],
)
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        drawn_digits(**{"count": 10, "size": 16, "seed": 0, **options})  # type: ignore[arg-type]
