"""How much the audit sees: lower bounds on a right training and on trainings with a planted defect.

Guarantees that every figure comes from whole audits, as `dp-diffusers audit` makes them, of a small U-Net
with fresh coins, keys and noise each time. Run it as `python benchmarks/audit_power.py [--repeats 20]`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel

from dp_diffusers.auditing import audit
from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.patch import Patch
from dp_diffusers.engine import private_gradient
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.recipe import TrainingSettings

DELTA = 1e-5
STRATEGY = {"name": "lora", "rank": 8, "targets": "attention"}
HALF = DPSGD(steps=4, expected_units=2000, population=4000, clip_norm=0.1)
ALL = DPSGD(steps=4, expected_units=4000, population=4000, clip_norm=0.1)


DRAWS = 8
SETTINGS = [  # epsilon, mechanism, defect
    (1.0, HALF, "none"),
    (4.0, HALF, "none"),
    (4.0, ALL, "none"),
    (1.0, HALF, "each draw clipped"),
    (4.0, HALF, "each draw clipped"),
    (4.0, HALF, "half the noise"),
]


def small_base() -> Base:
    """An 8 × 8 grey model of three classes, whose adapters of rank 8 on attention have 8,192 entries."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=16,
        num_class_embeds=4,
    )
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    return Base(network=unet, scheduler=scheduler, patch=Patch(size=2), class_names=("a", "b", "c"))


@contextlib.contextmanager
def planted(defect: str) -> Iterator[None]:
    """A training with a known defect, inside the block.

    `each draw clipped`: every row is an owner of its own for the clip, so that K draws of a unit add up to K
    C. `half the noise`: a standard deviation of half of what is accounted.
    """
    rows, std = itertools.count(), private_gradient.noise_std

    def each_row(owner: torch.Tensor) -> RowOwners:
        ids = list(itertools.islice(rows, len(owner)))
        return RowOwners(ids=ids, index=torch.arange(len(owner)), fold=1)

    def half(clip_norm: float, noise_multiplier: float) -> float:
        return std(clip_norm, noise_multiplier) / 2

    with contextlib.ExitStack() as stack:
        if defect == "each draw clipped":
            stack.enter_context(mock.patch.object(private_gradient.RowOwners, "of", staticmethod(each_row)))
        if defect == "half the noise":
            stack.enter_context(mock.patch.object(private_gradient, "noise_std", half))
        yield


def bounds_of(
    epsilon: float, defect: str, repeats: int, canaries: int, mechanism: DPSGD = HALF
) -> dict[str, Any]:
    """Audits of one setting."""
    plan = Plan.calibrate(Budget(epsilon=epsilon, delta=DELTA), mechanism)
    training = TrainingSettings(noise_draws=DRAWS)
    began = time.monotonic()
    with planted(defect):
        found = [
            audit(small_base(), plan, strategy=STRATEGY, training=training, canaries=canaries)
            for _ in range(repeats)
        ]
    return {
        "epsilon_claimed": plan.epsilon,
        "defect": defect,
        "mechanism": mechanism.record(plan.noise_multiplier).to_dict(),
        "canaries": found[0].canaries,
        "repeats": repeats,
        "refuted": sum(result.refuted for result in found),
        "headline": _spread([result.epsilon_lower_bound for result in found]),
        "nothing_assumed": _spread([result.attacks[1].epsilon_lower_bound for result in found]),
        "loss": _spread([result.attacks[2].epsilon_lower_bound for result in found]),
        "seconds_per_audit": (time.monotonic() - began) / repeats,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}


def _shown(spread: dict[str, float]) -> str:
    return f"{spread['mean']:6.2f} ({spread['low']:.2f} to {spread['high']:.2f})"


def main() -> None:
    """Prints the table, and with --json the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--canaries", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"claimed    q  {'defect':<18} refuted   {'lower bound':<24} {'nothing assumed':<24} loss attack")
    for epsilon, mechanism, defect in SETTINGS:
        row = bounds_of(epsilon, defect, options.repeats, options.canaries, mechanism)
        rows.append(row)
        sampled, refuted = mechanism.sampling_probability, f"{row['refuted']:2} of {row['repeats']:<2}"
        bounds = " ".join(f"{_shown(row[name]):<24}" for name in ("headline", "nothing_assumed", "loss"))
        print(f"{row['epsilon_claimed']:7.3f}  {sampled:.1f}  {defect:<18} {refuted}  {bounds}", flush=True)
    if options.json:
        print(json.dumps({"rows": rows}, indent=2))


if __name__ == "__main__":
    main()
