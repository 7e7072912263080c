"""Small finished runs with a certificate, images and scores, made without a training."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget, Cap
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.run.kept_scores import keep_scores

HOSTILE = '<script>alert("1")</script>'
NAMES = ("plain", HOSTILE)
AUDIT: dict[str, Any] = {
    "epsilon_lower_bound": 0.7,
    "confidence": 0.95,
    "canaries": 500,
    "delta": 1e-3,
    "adjacency": "add_remove",
    "notes": [],
    "attacks": [
        {
            "name": "gradient",
            "assumes": "family",
            "canaries": 500,
            "guesses": 50,
            "correct": 40,
            "epsilon_lower_bound": 0.7,
            "confidence": 0.96,
            "in_headline": True,
        }
    ],
}


@lru_cache(maxsize=2)
def plan_of(private: bool) -> Plan:
    """Three steps of a small data set."""
    if not private:
        return Plan.calibrate(None, NonPrivate(steps=3, expected_units=10, population=100))
    budget = Budget(epsilon=2, delta=1e-3, cap=Cap(epsilon=3, delta=1e-3))
    return Plan.calibrate(budget, DPSGD(steps=3, expected_units=10, population=100))


def make_run(
    folder: Path,
    *,
    private: bool = True,
    images: int = 30,
    side: int = 8,
    names: tuple[str, ...] = NAMES,
    format: str = "parquet",
) -> Path:
    """A run folder whose release verifies, with `images` random images of the classes in turn."""
    release = folder / "release"
    (folder / "private").mkdir(parents=True)
    (release / "adapter").mkdir(parents=True)
    (release / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    if images:
        pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 1), dtype=np.uint8)
        write_images(pixels, np.arange(images) % len(names), names, release / "images", format=format)
    facts: dict[str, Any] = {
        "base_model": {"id": "base <b>", "sha256": "0" * 64},
        "adapter": {"trainable_parameters": 1},
        "classes": {"labels": list(range(len(names))), "names": list(names), "declared": True},
    }
    plan = plan_of(private)
    if not private:
        Certificate.draft(plan=plan, account=None, **facts).issue(release)
        return folder
    with Ledger.open(":memory:") as ledger:
        account = ledger.reserve(plan)
        account.open_lane(RunKeys.fresh())
        for step in range(3):
            account.charge(step)
        account.settle()
        Certificate.draft(plan=plan, account=account, **facts).issue(release)
    return folder


def score(
    run: Path,
    mean: float = 91.25,
    classifier: str = "small CNN",
    note: str = "",
    *,
    reference: str | None = "d1" * 32,
    passes: int = 40_000,
    seeds: int = 3,
) -> None:
    """Leaves scores of the run's images, with a note that is nobody's business."""
    row = {
        "images": 30,
        "mean": mean,
        "low": mean - 1,
        "high": mean + 1,
        "per_class": {"plain": 90.0, HOSTILE: None},
        "per_class_interval": {"plain": {"mean": 90.0, "low": 88.5, "high": 91.5}, HOSTILE: None},
        "calibration_error": {"mean": 3.25, "low": 2.5, "high": 4.0},
    }
    judged = {
        "fid": 12.5,
        "kid": 0.0035,
        "label_fidelity": {"mean": 86.75, "low": 85.0, "high": 88.5},
        "label_fidelity_per_class": {"plain": 86.5, HOSTILE: 87.0},
        "diversity_ratio": 0.8125,
        "diversity_ratio_per_class": {"plain": 0.8125, HOSTILE: None},
    }
    rows = [
        {"trained_on": "synthetic", **row, **judged},
        {"trained_on": "public model, ε = 0", **row, "fid": 40.25, "mean": 80.5, "low": 79.0, "high": 82.0},
        {"trained_on": "real images, not private", **row, "images": 74_321, "mean": 97.5, "high": 98.0},
    ]
    document = {
        "rows": rows,
        "seeds": seeds,
        "passes": passes,
        "classifier": classifier,
        "features": "pixels-4",
        "fid": 12.5,
        "notes": ["secret-name.png: cut", note],
    }
    keep_scores(run / "release" / "images", document, reference=reference)


def audit_file(folder: Path, **changes: Any) -> Path:
    """An `audit.json`, of the training of `plan_of`."""
    folder.mkdir(exist_ok=True)
    path = folder / "audit.json"
    plan = plan_of(True)
    assert plan.record is not None
    attacked = {"epsilon_claimed": plan.epsilon, "mechanism": plan.record.to_dict(), "strategy": "lora"}
    path.write_text(json.dumps({**AUDIT, **attacked, **changes}))
    return path
