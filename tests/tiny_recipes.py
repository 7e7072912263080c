"""The recipe of the tiny run, as text to fill in."""

from __future__ import annotations

TINY_RECIPE = """\
base: {base}
data: {{path: {data}, label: label}}
budget: {{epsilon: 5, delta: 1.0e-3, ledger: {ledger}}}
mechanism: {{steps: {steps}, expected_units: 10, population: 30, clip_norm: 0.1}}
strategy: {{rank: 2, targets: attention}}
training: {{noise_draws: 2, learning_rate: 1.0e-2}}
generation: {{images: 9, steps: 3}}
runtime: {{rows_per_pass: 256}}
"""
