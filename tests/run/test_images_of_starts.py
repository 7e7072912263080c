"""What the starts of one run leave: traces of all images, one recipe, and nothing where nothing was paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dp_diffusers as dpd
from dp_diffusers.errors import ParameterError, RunFolderError
from dp_diffusers.evaluation.held_apart import refuse_training_images
from dp_diffusers.run import running
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.run.run_secrets import kept_traces, last_traces
from dp_diffusers.training import Loop
from latent_support import tiny_latent_base
from loop_support import cheap_trainings
from teacher_support import KilledError, killed

PLAN = {"steps": 2, "expected_units": 10, "population": 30}


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_trainings(monkeypatch.setattr)


def _data(seed: int) -> dpd.PrivateImages:
    return dpd.PrivateImages(
        images=np.random.default_rng(seed).integers(0, 256, (30, 8, 8, 1), dtype=np.uint8),
        labels=np.arange(30) % 3,
        class_names=("class 0", "class 1", "class 2"),
        owner=np.arange(30),
        unit_count=30,
    )


def _start(base: Path, seed: int = 0, stop: int | None = None, rate: float = 1e-3) -> dpd.Release:
    """A start of the run beside `base`, on the images of a seed; dies after step `stop`."""

    def progress(**facts: Any) -> None:
        if stop is not None and facts.get("step") == stop:
            raise KilledError

    return dpd.finetune(
        base,
        _data(seed),
        dpd.Plan.calibrate(dpd.Budget(1.0, 1e-3), dpd.DPSGD(**PLAN)),
        out=base.parent / "run",
        ledger=base.parent / "own.ledger",
        training={"noise_draws": 1, "learning_rate": rate},
        runtime={"rows_per_pass": 256},
        progress=progress,
    )


@pytest.mark.slow
def test_guarantee_images_of_every_start_are_training_images(tiny_base_folder: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KilledError):
        _start(tiny_base_folder, seed=0, stop=1)
    assert kept_traces(folder).are_of(_data(0).images, 30), "noted before the first charge"
    _start(tiny_base_folder, seed=1)
    for seed in (0, 1):
        with pytest.raises(ParameterError, match="images that the run was trained on"):
            refuse_training_images(folder.root, "reference", None, _data(seed).images[:3])
    assert refuse_training_images(folder.root, "reference", None, _data(2).images) == ()
    assert last_traces(folder).are_of(_data(1).images, 30), "those that a charged question is asked with"


@pytest.mark.slow
def test_guarantee_two_recipes_never_share_a_folder(
    tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second was checked before the first began, and finds its folder free again afterwards."""
    real = running._prepared

    def meanwhile(*args: Any) -> Any:
        found = real(*args)
        monkeypatch.setattr(running, "_prepared", real)
        with pytest.raises(KilledError):
            _start(tiny_base_folder, stop=1)
        return found

    monkeypatch.setattr(running, "_prepared", meanwhile)
    with pytest.raises(RunFolderError, match=r"another recipe: training\.learning_rate differs"):
        _start(tiny_base_folder, rate=1e-2)
    assert (tmp_path / "run" / "private" / "checkpoint.pt").exists()


def test_what_charged_nothing_leaves_nothing_of_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_latent_base().save(tmp_path / "base")
    monkeypatch.setattr(Loop, "collect", killed)
    with pytest.raises(KilledError):
        _start(tmp_path / "base")
    assert sorted(path.name for path in (tmp_path / "run" / "private").rglob("*")) == ["lock"]
