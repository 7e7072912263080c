"""Text of a page can be read: contrast by WCAG 2.2, level AA, in each of its colour schemes."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

STYLE = (files("dp_diffusers.reporting") / "templates" / "style.css").read_text(encoding="utf-8")
SCHEMES = dict(zip(("light", "dark", "print"), re.findall(r":root \{(.*?)\}", STYLE, re.S)))
TEXT = (
    ("ink", ("paper", "card", "accent-soft", "warn-soft")),
    ("quiet", ("paper", "card", "accent-soft")),
    ("accent", ("paper",)),
    ("warn", ("paper", "warn-soft")),
    ("good", ("paper",)),
)
SMALLEST = 4.5  # success criterion 1.4.3


def colours(scheme: str) -> dict[str, str]:
    """Name → six hexadecimal digits."""
    found = re.findall(r"--([a-z-]+): #([0-9a-f]{3,6})\b", SCHEMES[scheme])
    own = {name: "".join(letter * 2 for letter in code) if len(code) == 3 else code for name, code in found}
    return own if scheme == "light" else {**colours("light"), **own}


def luminance(code: str) -> float:
    """Relative luminance of a colour, 0 to 1."""
    shares = [int(code[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """From 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_has_the_contrast_of_level_aa(scheme: str) -> None:
    known = colours(scheme)
    assert {pair for pair in PAIRS if contrast(known[pair[0]], known[pair[1]]) < SMALLEST} == set()


def test_contrast_is_that_of_the_definition() -> None:
    assert len(SCHEMES) == 3
    assert contrast("000000", "ffffff") == pytest.approx(21)
    assert contrast("777777", "ffffff") == pytest.approx(4.478, abs=0.001)


PAIRS = [(text, ground) for text, grounds in TEXT for ground in grounds]
