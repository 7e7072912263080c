"""From scores to guesses, and the picture of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dp_diffusers.auditing import chart, pictures
from dp_diffusers.auditing.scores import Scores, centred


def scores(values: list[float], included: list[bool]) -> Scores:
    return Scores(name="toy", meaning="score", values=np.array(values), included=np.array(included))


def test_the_largest_are_guessed_and_no_more() -> None:
    seen = scores([3.0, -2.0, 0.1, -0.2], [True, True, False, False])
    half = seen.outcome(0.5)
    assert (half.canaries, half.guesses, half.correct) == (4, 2, 1)
    assert seen.outcome(1.0).correct == 2
    assert seen.threshold(0.5) == 2.0
    assert seen.outcome(0.01).guesses == 1


def test_the_number_of_guesses_is_fixed_whatever_the_scores() -> None:
    for values in ([np.nan] * 4, [0.0] * 4, [np.inf, -np.inf, 1.0, 2.0]):
        assert scores(values, [True] * 4).outcome(0.5).guesses == 2
    assert scores([np.nan, 1.0, np.nan, 2.0], [True] * 4).outcome(0.5).correct == 2


def test_centred_scores_say_in_for_half() -> None:
    assert (centred(np.arange(10.0)) > 0).sum() == 5


def test_the_picture_has_title_axes_and_no_date(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    seen = scores(list(random.normal(size=200)), list(random.random(200) < 0.5))
    path = chart.draw([(seen, 0.1), (seen, 0.2)], "audit: a title", tmp_path / "audit.svg")
    text = path.read_text()
    assert text.count("<svg") == 1
    assert "dc:date" not in text
    assert chart.draw([(seen, 0.1)], "one panel", tmp_path / "audit.png").read_bytes()[:4] == b"\x89PNG"


def test_public_images_and_canaries_without_a_source() -> None:
    random = np.random.default_rng(0)
    smooth = pictures.public_images(None, 5, 8, 3, random)
    assert smooth.shape == (5, 8, 8, 3)
    assert smooth.dtype == np.uint8
    assert len(np.unique(smooth)) > 50
    hard = pictures.canary_images(5, 8, 1, random)
    assert set(np.unique(hard)) == {0, 255}


def test_public_images_of_a_file(tiny_parquet: Path) -> None:
    taken = pictures.public_images(str(tiny_parquet), 7, 8, 1, np.random.default_rng(0))
    assert taken.shape == (7, 8, 8, 1)
