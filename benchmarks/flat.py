"""What a step costs beside the network, by the number of units, of rows and of charges before it.

    python benchmarks/flat.py

Units are numbers, images random: nothing is read. Processor milliseconds of one thread, medians of seven.
However many units there are, 4,096 are expected in a step; the limit is five standard deviations above that.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dp_diffusers.diffusion.objective import Objective
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.engine.sampling import PoissonSampler, TruncatedPoissonSampler
from dp_diffusers.loop.augmentation import variants
from dp_diffusers.loop.encoded_cache import EncodedCache
from dp_diffusers.loop.rows import RowTable
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.ledger import Ledger

UNITS = (10**4, 10**5, 10**6, 10**7)
ROWS = (64, 256, 1024, 4096)
CHARGES = (10**2, 10**3, 10**4, 10**5)
EXPECTED = 4096
LIMIT = EXPECTED + math.ceil(5 * math.sqrt(EXPECTED))
SHAPE = (4, 14, 14)
STORED = 60_000
KEYS = RunKeys.for_tests(0)


def milliseconds(work: Callable[[int], object], rounds: int = 7) -> float:
    """Median processor time of `work(round)`, the first round dropped."""
    times = []
    for number in range(rounds + 1):
        began = time.process_time()
        work(number)
        times.append(time.process_time() - began)
    return 1e3 * statistics.median(times[1:])


def by_units(count: int) -> list[float]:
    """Sampling, sampling with a limit, and the rows of those that came."""
    rate = EXPECTED / count
    plain = PoissonSampler(count, rate, KEYS)
    limited = TruncatedPoissonSampler(count, rate, KEYS, slots=count, max_units=LIMIT)
    table = RowTable(np.arange(count), noise_draws=1, max_images=8)
    chosen = [plain.units(step) for step in range(8)]
    return [
        milliseconds(plain.units),
        milliseconds(limited.units),
        milliseconds(lambda step: list(table.passes(KEYS, step, chosen[step], 256))),
    ]


def by_rows(cache: EncodedCache, objective: Objective, count: int) -> list[float]:
    """Encodings of random images from the disk's cache, and the draws of their rows."""
    zeros, position = np.zeros(count, np.int64), np.arange(count)
    chosen = np.random.default_rng(0).integers(0, STORED, (8, count))

    def draw(step: int) -> None:
        ids = np.sort(chosen[step])
        objective.draw(KEYS, step, units=ids, position=position, slot=zeros, slots=1, shape=SHAPE)

    return [milliseconds(lambda step: cache.take(chosen[step], zeros)), milliseconds(draw)]


def by_charges(folder: Path, count: int) -> list[float]:
    """What a step asks of a ledger, and opening it."""
    path = folder / f"{count}.ledger"
    with Ledger.open(path) as ledger:
        mechanism = DPSGD(steps=count + 100, expected_units=EXPECTED, population=10**6)
        account = ledger.reserve(Plan.calibrate(Budget(8.0, 1e-7), mechanism))
        account.open_lane(KEYS)
        with ledger.file.transaction():
            for step in range(count):
                fields = {"lane": KEYS.lane.hex(), "step": step, "count": step + 1}
                account._newest = ledger.file.append("charge", account.run_id, **fields).hash

        def paid(step: int) -> None:
            account.require_affordable()
            account.charge(count + step)

        found = milliseconds(paid)
    return [found, milliseconds(lambda _: Ledger.open(path).close(), rounds=2)]


def show(title: str, columns: str, rows: dict[int, list[float]]) -> None:
    """One table of Markdown."""
    names = [title, *columns.split(", ")]
    print("| " + " | ".join(names) + " |\n" + "|--:" * len(names) + "|")
    for count, values in rows.items():
        print(f"| {count:,} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    print()


def main() -> None:
    """All three tables."""
    torch.set_num_threads(1)
    show("units", "Poisson, with a limit, rows", {count: by_units(count) for count in UNITS})
    objective = Objective(
        signal=torch.ones(10), noise=torch.ones(10), times=torch.arange(10), prediction_type="v_prediction"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = EncodedCache(
            folder=folder / "cache",
            key="random",
            encode=lambda images: torch.randn(len(images), *SHAPE),
            images=np.zeros((STORED, 1, 1, 1), np.uint8),
            variants=variants((), 1),
        )
        cache.fill()
        show("rows", "encodings, draws", {count: by_rows(cache, objective, count) for count in ROWS})
        show("charges", "pay, open", {count: by_charges(folder, count) for count in CHARGES})


if __name__ == "__main__":
    main()
