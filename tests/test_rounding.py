"""Upper bounds as texts: never below the number, and hardly above it."""

from __future__ import annotations

import math
import random

import pytest

from dp_diffusers.auditing.results import AuditResult
from dp_diffusers.cards import card_parts
from dp_diffusers.privacy.verification import Verification
from dp_diffusers.queries.charged_count import price_line
from dp_diffusers.rounding import rounded_down, rounded_up, rounded_up_text

NUMBERS = random.Random(7)
VALUES = [
    *(10 ** NUMBERS.uniform(-8, 8) for _ in range(3000)),
    *(math.nextafter(part / 1000, side) for part in range(1, 2000) for side in (0, 9)),
]


@pytest.mark.parametrize("digits", [3, 4, 6])
def test_no_text_reads_as_less_than_the_bound(digits: int) -> None:
    for value in VALUES:
        read = float(rounded_up_text(value, digits))
        assert read >= value
        assert read <= value * (1 + 10.0 ** (1 - digits)) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.99964, "0.9997"),
        (8.0, "8"),
        (1.1, "1.1"),
        (0.3, "0.3"),
        (0.0, "0"),
        (9.99951, "10"),
        (math.inf, "inf"),
    ],
)
def test_known_texts(value: float, text: str) -> None:
    assert rounded_up_text(value) == text
    assert rounded_up(value) == float(text)


def test_a_bound_is_no_less_where_it_is_shown() -> None:
    """Cards, the price of an answer, an audit; pages are tested with the reports."""
    numbers = {"epsilon": 0.99964, "delta": 1e-5, "unit": "image", "adjacency": "add_remove"}
    certificate = {**numbers, "not_private": False, "mechanisms": []}
    ledger = {"spent_epsilon": 1.99964, "spent_delta": 2e-5, "cap_epsilon": None, "cap_delta": None}
    audit = AuditResult(
        epsilon_claimed=0.99964,
        epsilon_lower_bound=0.5,
        confidence=0.95,
        canaries=9,
        delta=1e-5,
        adjacency="add_remove",
        attacks=(),
    )
    assert "0.9997" in card_parts.headline(certificate)
    assert "0.9997" in card_parts.promise(certificate, "these images")
    assert "0.0001235) per" in card_parts.promise({**certificate, "delta": 0.000123444}, "these images")
    assert "by a factor of at most e^epsilon, plus delta." in card_parts.promise(certificate, "these images")
    valid = Verification(valid=True, problems=(), **{**numbers, "delta": 0.000123444})
    assert "epsilon 0.9997 at delta 0.0001235 per image" in valid.explain()
    price = price_line({**numbers, "not_private": False, "ledger": ledger})
    assert "epsilon 0.9997 at" in price
    assert "comes to epsilon 2 at delta 2e-05, no cap" in price
    capped = {**ledger, "cap_epsilon": 3.0, "cap_delta": 2e-5}
    price = price_line({**numbers, "not_private": False, "ledger": capped})
    assert price.endswith("comes to epsilon 2 at delta 2e-05, with a cap of epsilon 3 at delta 2e-05")
    assert "<= 0.9997" in audit.explain()


def test_guarantee_noise_never_reads_as_more_than_there_is() -> None:
    assert rounded_down(1.23456789, 6) == 1.23456
    assert rounded_down(2.218, 6) == 2.218
    assert rounded_down(0.99999999, 6) == 0.999999
    assert rounded_down(float("inf"), 6) == float("inf")
    for value in (0.1 + 0.2, 7.000000001, 1e-9 / 3):
        assert rounded_down(value, 6) <= value
