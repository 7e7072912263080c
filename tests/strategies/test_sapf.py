from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_diffusers.errors import ParameterError
from dp_diffusers.strategies.sapf import Sapf, choose
from network_support import network_of

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("saliency", "fraction", "chosen"),
    [
        ({"a": 1.0, "b": 3.0, "c": 2.0}, 0.34, ["b"]),
        ({"a": 1.0, "b": 3.0, "c": 2.0}, 0.67, ["b", "c"]),
        ({"b": 1.0, "a": 1.0, "c": 1.0}, 0.5, ["a", "b"]),
        ({"a": -1.0, "b": -3.0}, 0.1, ["a"]),
        ({"a": -1.0, "b": -3.0}, 1.0, ["a", "b"]),
    ],
)
def test_the_most_salient_layers_are_chosen(
    saliency: dict[str, float], fraction: float, chosen: list[str]
) -> None:
    assert choose(saliency, fraction) == chosen


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(min_size=1), NUMBERS, min_size=1), st.floats(0.01, 1))
def test_the_choice_is_a_fraction_and_beats_the_rest(saliency: dict[str, float], fraction: float) -> None:
    chosen = choose(saliency, fraction)
    assert len(chosen) == max(1, round(fraction * len(saliency)))
    rest = [value for name, value in saliency.items() if name not in chosen]
    assert min(saliency[name] for name in chosen) >= max(rest, default=-math.inf)
    assert choose(dict(reversed(saliency.items())), fraction) == chosen


@pytest.mark.parametrize(
    ("saliency", "fraction", "message"),
    [
        ({}, 0.3, "finite saliency"),
        ({"a": math.nan}, 0.3, "finite saliency"),
        ({"a": 1.0}, 0.0, "fraction > 0"),
        ({"a": 1.0}, 1.5, r"fraction in \[0, 1\]"),
    ],
)
def test_bad_numbers_are_refused(saliency: Any, fraction: float, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        choose(saliency, fraction)


def test_adapters_are_on_the_chosen_layers_alone() -> None:
    network, strategy = network_of("flux"), Sapf(rank=2, targets="attention", fraction=0.5)
    chosen = choose(dict.fromkeys(strategy.candidates(network), 1.0), strategy.fraction)
    strategy.apply(network, chosen=chosen)
    found = {
        name.split(".lora_")[0] for name, parameter in network.named_parameters() if parameter.requires_grad
    }
    assert found == set(chosen)


def test_a_choice_that_is_none_is_refused() -> None:
    network = network_of("unet")
    with pytest.raises(ParameterError, match="needs the layers that its charged query chose, got none"):
        Sapf().apply(network)
    with pytest.raises(ParameterError, match="cannot adapt 'conv_in'"):
        Sapf().apply(network, chosen=["conv_in"])
