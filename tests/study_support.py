"""What tests of studies share: a study of a made-up recipe, and made-up results of its grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from dp_diffusers.studying.results import RunRecord, StudyResult
from dp_diffusers.studying.settings import ALWAYS

RECIPE = """\
recipe:
  base: base
  data: {path: images.parquet, label: label}
  budget: {epsilon: 10}
  mechanism: {steps: 3, expected_units: 3072, population: 60000, clip_norm: 0.01}
  strategy: {name: lora, rank: 4, targets: all}
  training: {noise_draws: 1, learning_rate: 2.0e-3}
  generation: {images: 1000}
cells: [{name: lora}]
seeds: [0]
evaluate: {reference: test.parquet}
"""


def study_text() -> str:
    """A study whose files are not there."""
    return RECIPE


def accuracy_of(epsilon: float, rank: int, draws: int, seed: int) -> float:
    """Made up: grows with ε and K, falls with the rank."""
    return 92 + math.log10(epsilon) + 0.5 * math.log2(draws) - 0.1 * math.log2(rank) + 0.2 * seed


def grid_result(
    epsilons: Sequence[float] = (1.0, 4.0, 10.0),
    ranks: Sequence[int] = (2, 4, 16),
    draws: Sequence[int] = (1, 2, 4),
    seeds: Sequence[int] = (0,),
    distances: str | None = None,
) -> StudyResult:
    """A finished study of rank x noise draws x ε with the row of the public model."""
    settings = [dict.fromkeys([*ALWAYS, "budget.epsilon", "strategy.rank", "training.noise_draws"])]
    records = [_record("public model", 0, 0.0, 0, 0, 91.0, distances)]
    for rank, k, epsilon, seed in itertools.product(ranks, draws, epsilons, seeds):
        accuracy = accuracy_of(epsilon, rank, k, seed)
        name = f"lora+rank={rank}+noise_draws={k}+epsilon={epsilon:g}"
        records.append(_record(name, seed, 0.9998 * epsilon, 9216 * k, 15656 * rank, accuracy, distances))
        known = {"strategy": "lora", "rank": rank, "noise_draws": k, "expected_units": 3072}
        known |= {"clip_norm": 0.01, "learning_rate": 2e-3, "targets": "all"}
        dotted = {"budget.epsilon": epsilon, "strategy.rank": rank, "training.noise_draws": k}
        settings.append({**known, **dotted})
    return StudyResult(
        records=tuple(records),
        planned=len(records),
        features="cnn",
        settings=tuple(settings),
        grid=("strategy.rank", "training.noise_draws", "budget.epsilon"),
        distances=distances,
    )


def _record(
    cell: str, seed: int, epsilon: float, rows: int, parameters: int, accuracy: float, distances: str | None
) -> RunRecord:
    return RunRecord(
        cell=cell,
        seed=seed,
        epsilon=epsilon,
        delta=1e-5,
        steps=3,
        expected_rows_at_most=rows,
        trainable_parameters=parameters,
        images=1000,
        accuracy=accuracy,
        seconds=60.0,
        fid=None if distances is None else 200 - accuracy,
    )
