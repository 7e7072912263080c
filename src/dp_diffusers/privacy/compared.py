"""The two data sets that a bound compares, in words: one phrase for plans, certificates and cards.

Guarantee: each adjacency has the phrase of its own relation. Imports the standard library only.
"""

from __future__ import annotations


def compared(unit: str, adjacency: str) -> str:
    """`with one image in the data and without it`, to stand before the probabilities that are compared."""
    words = {
        "add_remove": f"with one {unit} in the data and without it",
        "zero_out": f"with the images of one {unit} and with nothing in their place",
        "replace": f"with the images of one {unit} and with any others in their place",
    }
    return words.get(adjacency, f"with data sets that differ in one {unit}")
