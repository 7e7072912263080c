"""Limits and words that several sections of a recipe share.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Final, Literal

MOST_STEPS = 10**8  # the accountant takes minutes beyond it
MOST_UNITS = 10**12
MOST_ROWS = 10**6
SEEDS = 2**63 - 1
DEVICES: Final = r"^(auto|cpu|mps|cuda(:\d+)?)$"
Timesteps = Literal["uniform", "logit_normal", "high_noise", "low_noise"]
MOST_CANDIDATES: Final = 100  # images drawn for each that is kept
