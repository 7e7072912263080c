"""The plan in plain words: whose privacy, and how sure anyone can become."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import pytest

from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.privacy.assumptions import assumptions_of
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import HistogramQuery
from dp_diffusers.privacy.explanation import explain
from dp_diffusers.privacy.theorems import theorem_of
from dp_diffusers.rounding import rounded_up_text

RECORD = DPSGD(steps=20, expected_units=100, population=1000).record(1.2)


def _words(epsilon: float, unit: str = "image") -> str:
    return explain(Budget(epsilon, 1e-5, unit=unit), RECORD, epsilon, epsilon * 1.05)


def test_an_image_is_protected_on_its_own() -> None:
    text = _words(1.0)
    assert "each image on its own" in text
    assert "all images" not in text
    (first,) = [line for line in _assumptions("image") if line.startswith("Unit of privacy")]
    assert "one image." in first
    assert "id" not in first.split()


@pytest.mark.parametrize(("steps", "words"), [(1, "In the one step"), (20, "In each of 20 steps")])
def test_steps_are_counted_in_words_that_fit(steps: int, words: str) -> None:
    record = DPSGD(steps=steps, expected_units=100, population=1000).record(1.2)
    text = explain(Budget(1.0, 1e-5), record, 1.0, 1.05)
    assert f"{words} every image takes part on its own with probability 0.1 (100 expected of 1,000)." in text


def test_a_person_is_protected_with_all_images() -> None:
    assert "each patient_id, meaning all images that carry its id, together:" in _words(1.0, "patient_id")
    assert any(
        "one patient_id, meaning all images that carry its id" in line for line in _assumptions("patient_id")
    )


def _assumptions(unit: str) -> list[str]:
    return assumptions_of(certified(unit=unit), class_names_from_data=False)


def certified(**changed: str) -> dict[str, Any]:
    """What sentences need of a certificate."""
    facts = {"adjacency": "add_remove", "ledger": {"cap_epsilon": 1.0}, "not_private": False, "unit": "image"}
    return {**facts, "base_model": {"id": "public", "sha256": "0" * 64}, **changed}


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 2.0, 4.0])
def test_a_bound_that_says_something_is_a_percentage(epsilon: float) -> None:
    right = 100 * math.exp(epsilon) / (1 + math.exp(epsilon))
    assert f"is right at most {rounded_up_text(right, 3)} % of the time, plus at most delta" in _words(
        epsilon
    )
    assert "near certainty" not in _words(epsilon)


def test_guarantee_no_number_of_a_plan_promises_more_than_there_is() -> None:
    """e^0.6999 is 2.0135, and e^1.1 to 1 is 75.026 %: no text says 2.01 or 75.0."""
    record = replace(RECORD, noise_multiplier=1.23456)
    query = HistogramQuery(classes=2, noise_multiplier=12.3459)
    text = explain(Budget(0.6999, 1.23444e-5), record, 0.6999, 0.7, queries=[query])
    assert "e^0.6999 = 2.02, plus delta" in text
    assert text.count("elta 1.235e-05") == text.count("elta = 1.235e-05") == 1
    assert "noise of 1.2345 x that" in text
    assert "noise of 12.34 x what" in text
    assert "right at most 75.1 %" in _words(1.1)
    assert "e^12 = 162,755," in _words(12.0), "162,754.79"
    assert "e^30 = 1.1e+13," in _words(30.0), "1.069e13"


def test_guarantee_delta_is_no_probability_that_the_factor_fails() -> None:
    """P[privacy loss > epsilon] may exceed delta: in one Gaussian step with noise 1 it does."""
    epsilon, normal = 4.0, NormalDist()
    delta = normal.cdf(0.5 - epsilon) - math.exp(epsilon) * normal.cdf(-0.5 - epsilon)
    assert 1 - normal.cdf(epsilon - 0.5) > 2 * delta
    text = explain(Budget(epsilon, 1e-5), RECORD, epsilon, None)
    assert (
        "with one image in the data and without it, the probabilities of anything that they could see or"
        in text
    )
    assert "plus delta" in text
    assert not re.search(r"fail|except with", text)


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [
        (8.0, "2,981, plus delta. In the worst case"),
        (8.0, "right in 99.97 % of cases"),
        (12.0, "in more than 99.99 % of cases"),
    ],
)
def test_a_large_epsilon_is_called_what_it_is(epsilon: float, words: str) -> None:
    assert words in _words(epsilon)
    assert "promises little" in _words(epsilon)


@pytest.mark.parametrize(
    ("adjacency", "words"),
    [
        ("add_remove", "in which one is missing"),
        ("zero_out", "in which one is blank, their number public"),
        ("replace", "in which any other content stands in the place of one"),
    ],
)
def test_what_a_neighbour_is_and_by_which_theorem(adjacency: str, words: str) -> None:
    text = explain(Budget(1.0, 1e-5, adjacency=adjacency), RECORD, 1.0, None)
    assert words in text
    assert "RDP has no theorem for this combination" in text
    assert f"Theorem: {theorem_of(RECORD, adjacency)}." in text
    assert any(
        adjacency in line
        for line in assumptions_of(certified(adjacency=adjacency), class_names_from_data=False)
    )


def test_queries_and_slots_are_said() -> None:
    limited = DPSGD(steps=20, expected_units=100, population=1000, max_units=120).record(1.2)
    query = HistogramQuery(classes=10, noise_multiplier=36.31)
    text = explain(Budget(1.0, 1e-5), limited, 1.0, None, queries=[query], without_limit=0.9)
    assert "paid from the same budget: histogram, once, with Gaussian noise of 36.31" in text
    assert "that the data hold at most 1,000 (declared" in text
    assert "2.1 standard deviations above the mean" in text
    assert "that the data hold about 1,000" in _words(1.0)
