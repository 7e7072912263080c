"""The guide of `evaluate` gives the schedule that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dp_diffusers.evaluation.classifiers import CLASSIFIERS, classifier_named

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "evaluate.md"


def _said(classifier: str, size: int) -> int:
    """The images of a training at `size` pixels, as the row of `classifier` says."""
    row = next(line for line in GUIDE.read_text().splitlines() if line.startswith(f"| `{classifier}`"))
    cell = row.split("|")[3]
    for number, kind, edge in re.findall(r"([\d,]+) (below|up to) (\d+)", cell):
        if size < int(edge) or (kind == "up to" and size == int(edge)):
            return int(number.replace(",", ""))
    last = re.search(r"([\d,]+) (above|in batches)", cell)
    assert last is not None
    return int(last[1].replace(",", ""))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_guide_says_how_many_images_a_training_sees(name: str) -> None:
    passes = classifier_named(name).default_passes
    assert [_said(name, size) for size in range(4, 129)] == [passes(size) for size in range(4, 129)]
