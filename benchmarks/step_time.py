"""How much longer a private LoRA step takes than a plain one on the same rows, on a pixel model.

Prints one JSON document with ratios to the plain step (median of paired, interleaved rounds, with the lowest
and highest) and says nothing about any other model or machine. Run it on an idle machine: `make bench`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch

from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.diffusion.pixel import PixelFamily
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.pretraining import new_base
from dp_diffusers.recipe import PretrainRecipe
from dp_diffusers.strategies.lora import Lora

UNITS = 64


def main() -> None:
    """Runs the grid and prints the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    grid = product(("attention", "all"), (1, 4))
    rows = [row for targets, draws in grid for row in measure(targets, draws, rounds)]
    print(json.dumps({"rows": rows, "device": platform.processor() or platform.machine()}, indent=2))


def measure(targets: str, noise_draws: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of one cell: the plain step, and ours."""
    family, inputs = _model(targets, UNITS * noise_draws)
    box = PrivateGradient(
        family.network,
        clip_norm=1.0,
        noise_multiplier=1.0,
        expected_units=UNITS,
        keys=RunKeys.for_tests(0),
        plan_fingerprint="benchmark",
    )
    owner = torch.arange(UNITS).repeat_interleave(noise_draws)
    weight = torch.full((len(owner),), 1.0 / noise_draws)
    receipt = _Receipt()
    step = iter(range(10**6))

    def private() -> None:
        box.accumulate(family.row_losses(*inputs), owner, weight)
        box.release(next(step), receipt)

    def plain() -> None:
        family.row_losses(*inputs).mean().backward()

    pairs = [(_seconds(plain), _seconds(private)) for _ in range(rounds + 1)][1:]
    ratios = [ours / other for other, ours in pairs]
    shared = {"family": "pixel", "strategy": f"lora, {targets}", "units": UNITS, "noise_draws": noise_draws}
    shared |= {"dtype": "float32", "memory_ratio": None}
    seconds = {
        "plain": statistics.median(a for a, _ in pairs),
        "dp-diffusers": statistics.median(b for _, b in pairs),
    }
    return [
        {**shared, "engine": "plain", "time_ratio": 1.0, "seconds": seconds["plain"]},
        {
            **shared,
            "engine": "dp-diffusers",
            "time_ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "seconds": seconds["dp-diffusers"],
        },
    ]


class _Receipt:
    """A benchmark has no ledger: this stands for one that always pays."""

    def redeem(self, step: int, lane: bytes, plan_fingerprint: str) -> None:
        """Accepts."""


def _model(targets: str, rows: int) -> tuple[PixelFamily, tuple[Any, ...]]:
    model = PretrainRecipe.model_validate({"data": [{"source": "drawn_digits"}]}).model
    base = new_base(model, tuple("0123456789"), seed=0)
    Lora(rank=8, targets=targets).apply(base.network.train())
    family = PixelFamily(base)
    rng = np.random.default_rng(0)
    draws = Draws(
        timesteps=torch.from_numpy(rng.integers(0, 1000, rows)),
        noise=torch.from_numpy(rng.standard_normal((rows, *family.shape), dtype=np.float32)),
        drop_label=torch.zeros(rows, dtype=torch.bool),
    )
    clean = torch.from_numpy(rng.standard_normal((rows, *family.shape), dtype=np.float32))
    return family, (clean, torch.arange(rows) % 10, draws)


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
