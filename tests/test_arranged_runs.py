"""Whole trainings under other `runtime` keys: the same sums, changed on resume, refused before anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dp_diffusers import Certificate
from dp_diffusers.errors import ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.recipe import Recipe, RuntimeSettings
from dp_diffusers.run import running
from dp_diffusers.runtime import arrangement
from dp_diffusers.runtime.arrangement import arrange
from loop_support import cheap_trainings, small_budget
from unet_support import clipped_sum, new_loop

UNITS = [0, 1, 2, 5]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_trainings(monkeypatch.setattr)


def test_guarantee_a_machine_without_a_compiler_spends_nothing(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(device: Any) -> None:
        raise ParameterError("the model cannot be compiled here: no compiler")

    small_budget(tiny_recipe)
    monkeypatch.setattr(arrangement, "require_compiler", missing)
    with pytest.raises(ParameterError, match="cannot be compiled here"):
        train(Recipe.load(tiny_recipe, ["runtime.compile=true"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "tiny.ledger").exists()


def test_trying_the_sampler_compiles_nothing(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def tried(*_: Any) -> None:
        seen.append(torch._dynamo.eval_frame._stance.stance)
        raise ParameterError("far enough")

    small_budget(tiny_recipe)
    for owner, name in ((arrangement, "require_compiler"), (arrangement, "compile_parts")):
        monkeypatch.setattr(owner, name, lambda _: None)
    monkeypatch.setattr(running, "rehearse_arranged", lambda *_: None)
    monkeypatch.setattr(running, "require_sampler", tried)
    with pytest.raises(ParameterError, match="far enough"):
        train(Recipe.load(tiny_recipe, ["runtime.compile=true"]), tmp_path / "run")
    assert seen == ["force_eager"]


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["convolution", {"name": "lora", "targets": "all"}])
def test_guarantee_the_loop_adds_up_the_same_however_the_network_runs(
    tiny_base: Callable[..., Any], tiny_images: tuple[np.ndarray, np.ndarray], trained: Any
) -> None:
    loop = new_loop(tiny_base(), trained, *tiny_images, draws=2)
    expected = clipped_sum(loop, UNITS)
    for changes in ({}, {"rows_per_pass": 3}, {"dtype": "bfloat16"}):
        runtime = RuntimeSettings(channels_last=True, gradient_checkpointing=True, **changes)
        arrange(loop.family.network, runtime)
        loop.runtime = runtime
        found = clipped_sum(loop, UNITS)
        allowed = 1e-5 if runtime.dtype == "float32" else 0.05
        assert float((found - expected).norm() / expected.norm()) <= allowed


@pytest.mark.slow
def test_a_run_goes_on_under_other_runtime_keys(tiny_recipe: Path, tmp_path: Path) -> None:
    small_budget(tiny_recipe)

    def stop(**facts: Any) -> None:
        if facts.get("step") == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Recipe.load(tiny_recipe), tmp_path / "run", stop)
    changes = [
        "runtime.channels_last=true",
        "runtime.gradient_checkpointing=true",
        "runtime.dtype=bfloat16",
    ]
    release = train(Recipe.load(tiny_recipe, changes), tmp_path / "run")
    assert Certificate.verify(release.path).valid
    assert release.certificate.mechanisms[0]["steps_charged"] == 3
    assert release.certificate.epsilon <= 1
