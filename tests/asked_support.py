"""A small finished run with private images, ledger and released images, made without a training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.evaluation.features import Features
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget, Cap
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.run.folder import RUN, RunFolder
from dp_diffusers.run.run_secrets import note_traces

NAMES = ("dark", "light")
DELTA = 1e-4
PIXELS = Features(
    name="pixels",
    dim=64,
    sha256="0" * 64,
    function=lambda images: images.reshape(len(images), -1) / 255.0,
)


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[count, 8, 8, 1]` images of two classes that differ in brightness, and their labels."""
    labels = np.arange(count, dtype=np.int64) % 2
    noise = np.random.default_rng(seed).integers(0, 100, (count, 8, 8, 1))
    return (noise + 140 * labels[:, None, None, None]).astype(np.uint8), labels


@lru_cache(maxsize=4)
def plan_of_run(cap: float | None, adjacency: str, units: int, unit: str) -> Plan:
    """One step of a training on `units` declared units."""
    capped = None if cap is None else Cap(cap, DELTA)
    budget = Budget(0.5, DELTA, unit=unit, adjacency=adjacency, cap=capped)
    return Plan.calibrate(budget, DPSGD(steps=1, expected_units=units // 10, population=units))


@dataclass(frozen=True, kw_only=True)
class Made:
    """The run, what it was trained on, and its ledger."""

    run: Path
    private: Path
    ledger: Path

    @property
    def images(self) -> Path:
        return self.run / "release" / "images"

    def forget_traces(self) -> None:
        """The safe knows the training images no more."""
        (self.run / "private" / "traces.npz").unlink(missing_ok=True)

    def entries(self) -> list[str]:
        """The kinds of all entries of the ledger, in order."""
        with Ledger.open(self.ledger, create=False) as ledger:
            return [entry.kind for entry in ledger.entries()]

    def spent(self) -> float:
        with Ledger.open(self.ledger, create=False) as ledger:
            return ledger.spent().epsilon


def make_run(
    root: Path,
    *,
    released: tuple[np.ndarray, np.ndarray] | None = None,
    trained: tuple[np.ndarray, np.ndarray] | None = None,
    units: int = 200,
    cap: float | None = 10.0,
    adjacency: str = "add_remove",
    unit: str = "image",
) -> Made:
    """A run below `root` on as many private images as `units` declares, or on `trained`; `released` images,
    fresh ones if not given.
    """
    write_images(*(trained or pictures(units, 1)), NAMES, root / "data", format="parquet")
    private, ledger_file = root / "data", root / "data.ledger"
    folder = RunFolder(root / "run")
    folder.create()
    adapter = folder.adapter
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    write_images(*(released or pictures(60, 2)), NAMES, folder.release / "images", format="parquet")
    plan = plan_of_run(cap, adjacency, units, unit)
    recipe: dict[str, Any] = {
        "base": str(root / "base"),
        "data": {"path": str(private), "label": "label", "classes": list(NAMES)},
        "budget": {
            "epsilon": 0.5,
            "delta": DELTA,
            "ledger": str(ledger_file),
            "adjacency": adjacency,
            "unit": unit,
        },
        "mechanism": {"steps": 1, "expected_units": units // 10, "population": units},
    }
    folder.recipe.write_text(yaml.safe_dump(recipe))
    with Ledger.open(ledger_file) as ledger:
        account = ledger.reserve(plan, run_id="training")
        account.open_lane(RunKeys.fresh())
        account.charge(0)
        account.settle()
        facts = {"labels": [0, 1], "names": list(NAMES), "declared": True}
        Certificate.draft(
            plan=plan,
            account=account,
            base_model={"id": "base", "sha256": "0" * 64},
            adapter={"trainable_parameters": 1},
            classes=facts,
        ).issue(folder.release)
        folder.write(RUN, {"run_id": "training", "plan": plan.to_json(), "head": ledger.head, "done": True})
    note_traces(folder, PrivateImages.from_parquet(private), ledger=ledger_file)
    return Made(run=folder.root, private=private, ledger=ledger_file)


@pytest.fixture(scope="module", autouse=True)
def cheap_accounts() -> Iterator[None]:
    """Answers of the accountant are computed once for each of its questions."""
    from dp_diffusers.privacy import accountant
    from loop_support import arguments_key, epsilon_key, remembered

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accountant, "epsilon", remembered(accountant.epsilon, epsilon_key))
        patch.setattr(
            accountant, "renyi_of_one_step", remembered(accountant.renyi_of_one_step, arguments_key)
        )
        patch.setattr(Plan, "calibrate", staticmethod(remembered(Plan.calibrate, arguments_key)))
        yield
