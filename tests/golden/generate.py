"""Writes accountant.json: epsilon of many mechanisms by dp_accounting, called directly, never by our code.

Run it as a process of its own: `python tests/golden/generate.py [OUT]`. Privacy losses are rounded to a grid
finer than ours, so that our upper bounds must not lie below these.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import dp_accounting
from dp_accounting import NeighboringRelation, pld, rdp

RELATIONS = {
    "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
    "zero_out": NeighboringRelation.REPLACE_SPECIAL,
    "replace": NeighboringRelation.REPLACE_ONE,
}
PRESENCE, ALL = ("add_remove", "zero_out"), ("add_remove", "zero_out", "replace")
# (expected units, population, steps, sigma, delta, max units, side queries (sigma, times), adjacencies)
CASES: list[tuple[int, int, int, float, float, int | None, list[tuple[float, int]], tuple[str, ...]]] = [
    # one step
    (50, 1000, 1, 1.0, 1e-5, None, [], ALL),
    (1, 100, 1, 0.7, 1e-6, None, [], ALL),
    (500, 1000, 1, 2.0, 1e-5, None, [], ALL),
    (1000, 1000, 1, 3.0, 1e-6, None, [], ALL),
    (50, 1000, 1, 1.0, 1e-5, 55, [], ALL),
    (50, 1000, 1, 1.5, 1e-8, 85, [], ALL),
    (100, 100, 1, 2.0, 1e-5, 40, [], ("zero_out", "replace")),
    # many steps
    (50, 1000, 400, 4.3739, 1e-6, None, [], ALL),
    (4096, 60000, 200, 3.7773, 1e-5, None, [], ALL),
    (4096, 60000, 200, 0.8188, 1e-5, None, [], PRESENCE),
    (512, 5000, 2000, 8.0, 1e-6, None, [], ALL),
    (1, 1000, 10000, 1.2, 1e-5, None, [], ALL),
    (20, 20, 30, 12.0, 1e-4, None, [], ALL),
    (300, 1000, 50, 6.0, 1e-10, None, [], ALL),
    # a hard limit of a step
    (50, 1000, 400, 4.3739, 1e-6, 72, [], ALL),
    (50, 1000, 400, 4.3739, 1e-6, 85, [], ALL),
    (200, 1000, 30, 3.0, 1e-5, 240, [], ALL),
    # beside a class histogram, and beside two queries
    (50, 1000, 400, 4.5, 1e-6, None, [(36.31, 1)], ALL),
    (512, 5000, 300, 4.0, 1e-5, None, [(8.0, 1), (20.0, 3)], ALL),
    (50, 1000, 100, 3.0, 1e-6, 72, [(20.0, 1)], ("zero_out", "replace")),
]


def main() -> None:
    """Writes one row per case and adjacency."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    wanted = [(case, adjacency) for case in CASES for adjacency in case[-1]]
    step = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    rows = [row(*case[:-1], adjacency) for case, adjacency in wanted[::step]]
    source = "dp-accounting 0.6.0 in a process of its own, on a grid finer than ours"
    text = json.dumps({"source": source, "rows": rows}, indent=1) + "\n"
    out = sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).with_name("accountant.json"))
    Path(out).write_text(text)


def row(
    expected: int,
    population: int,
    steps: int,
    sigma: float,
    delta: float,
    limit: int | None,
    queries: list[tuple[float, int]],
    adjacency: str,
) -> dict[str, Any]:
    """One line of the file, with epsilon by privacy loss distribution, and by RDP where it has a theorem."""
    probability = expected / population
    events = [dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(s), n) for s, n in queries]
    one: dp_accounting.DpEvent
    if limit is None:
        one = dp_accounting.PoissonSampledDpEvent(probability, dp_accounting.GaussianDpEvent(sigma))
    else:
        one = dp_accounting.TruncatedSubsampledGaussianDpEvent(population, probability, limit, sigma)
    whole = dp_accounting.ComposedDpEvent([*events, dp_accounting.SelfComposedDpEvent(one, steps)])
    deviation = probability * math.sqrt(math.expm1(sigma**-2))
    accountant = pld.PLDAccountant(RELATIONS[adjacency], min(5e-4, deviation / 250))
    return {
        "adjacency": adjacency,
        "expected_units": expected,
        "population": population,
        "steps": steps,
        "noise_multiplier": sigma,
        "max_units": limit,
        "queries": [{"noise_multiplier": s, "steps": n} for s, n in queries],
        "delta": delta,
        "epsilon_pld": float(accountant.compose(whole).get_epsilon(delta)),
        "epsilon_rdp": by_rdp(whole, delta, adjacency, limit),
    }


def by_rdp(whole: dp_accounting.DpEvent, delta: float, adjacency: str, limit: int | None) -> float | None:
    """Epsilon by RDP; None for replacement and for truncated sampling."""
    if adjacency == "replace" or limit is not None:
        return None
    accountant = rdp.RdpAccountant(neighboring_relation=RELATIONS[adjacency])
    return float(accountant.compose(whole).get_epsilon(delta))


if __name__ == "__main__":
    main()
