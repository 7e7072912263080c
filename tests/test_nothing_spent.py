"""What cannot be used costs nothing, and a run keeps its plan, its ledger and its base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dp_diffusers as dpd
from dp_diffusers.errors import DataError, DeviceMemoryError, LedgerError, ParameterError, RunFolderError
from dp_diffusers.finetuning import train
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import Recipe, RuntimeSettings
from dp_diffusers.training import Loop
from loop_support import charges, cheap_trainings, small_budget


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_trainings(monkeypatch.setattr)


def _spent(path: Path) -> float:
    with Ledger.open(path) as ledger:
        return ledger.spent().epsilon


def test_guarantee_images_that_the_model_does_not_take_cost_nothing(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    plan = dpd.Plan.calibrate(dpd.Budget(1.0, 1e-3), dpd.DPSGD(steps=2, expected_units=10, population=30))
    data = dpd.PrivateImages(
        images=np.zeros((30, 6, 6, 1), np.uint8),
        labels=np.arange(30) % 3,
        class_names=("a", "b", "c"),
        owner=np.arange(30),
        unit_count=30,
    )
    with pytest.raises(DataError, match="expected images of"):
        dpd.finetune(tiny_base_folder, data, plan, out=tmp_path / "run", ledger=tmp_path / "x.ledger")
    assert charges(tmp_path / "x.ledger") == []
    assert _spent(tmp_path / "x.ledger") == 0


@pytest.mark.parametrize("path", ["scan", "recipe.yaml"])
def test_a_typo_in_the_images_path_leaves_no_ledger_and_no_run(
    tiny_recipe: Path, tmp_path: Path, path: str
) -> None:
    """A ledger beside images that are none would be taken for theirs by every later run."""
    before = sorted(tmp_path.rglob("*"))
    recipe = Recipe.load(tiny_recipe, [f"data.path={path}", "budget.ledger=null"])
    with pytest.raises(DataError, match=r"images not found: .*scan|expected a folder or a \.parquet file"):
        train(recipe, tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_guarantee_a_pass_that_fails_costs_nothing(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_budget(tiny_recipe)

    def fail(self: Loop, *anything: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "row_losses", fail)
        with pytest.raises(DeviceMemoryError):
            train(Recipe.load(tiny_recipe), tmp_path / "run")
    assert charges(tmp_path / "tiny.ledger") == []
    assert _spent(tmp_path / "tiny.ledger") == 0
    train(Recipe.load(tiny_recipe), tmp_path / "run")


def _stop(**facts: Any) -> None:
    if facts.get("step") == 1:
        raise KeyboardInterrupt


def _stopped(recipe: Path, out: Path) -> dict[str, Any]:
    """A run that stops after its first step; its `run.json`."""
    small_budget(recipe)
    with pytest.raises(KeyboardInterrupt):
        train(Recipe.load(recipe), out, _stop)
    return json.loads((out / "private" / "run.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_run_goes_on_with_the_plan_it_began_with(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another scipy finds noise that differs in the last bits: the run keeps its own, and its fingerprint."""
    from dp_diffusers.plan import Plan

    began = _stopped(tiny_recipe, tmp_path / "run")
    first = Plan.from_json(began["plan"])
    changed = json.loads(began["plan"])
    for place in (changed, changed["mechanism"]):
        place["noise_multiplier"] *= 1 + 1e-9
    near = Plan._rebuild(changed)
    assert near.fingerprint != first.fingerprint
    monkeypatch.setattr(Recipe, "plan", lambda self: near)
    release = train(Recipe.load(tiny_recipe), tmp_path / "run")
    assert release.certificate.mechanisms[0]["noise_multiplier"] == first.noise_multiplier


def test_another_plan_in_the_folder_than_in_the_ledger_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    from dp_diffusers.plan import Plan

    began = _stopped(tiny_recipe, tmp_path / "run")
    changed = json.loads(began["plan"])
    for place in (changed, changed["mechanism"]):
        place["noise_multiplier"] *= 1 + 1e-9
    changed = Plan._rebuild(changed).to_dict()
    (tmp_path / "run" / "private" / "run.json").write_text(json.dumps({**began, "plan": json.dumps(changed)}))
    with pytest.raises(RunFolderError, match="another plan"):
        train(Recipe.load(tiny_recipe), tmp_path / "run")
    assert len(charges(tmp_path / "tiny.ledger")) == 1


def test_guarantee_a_missing_ledger_is_not_made_again(tiny_recipe: Path, tmp_path: Path) -> None:
    _stopped(tiny_recipe, tmp_path / "run")
    (tmp_path / "tiny.ledger").unlink()
    with pytest.raises(LedgerError, match=r"no ledger at .*, to which this run was charged") as refused:
        train(Recipe.load(tiny_recipe), tmp_path / "run")
    assert "put it back" in str(refused.value.hint)
    assert not (tmp_path / "tiny.ledger").exists()


def test_an_update_below_float32_is_a_matter_of_settings(tiny_recipe: Path, tmp_path: Path) -> None:
    small_budget(tiny_recipe)
    recipe = Recipe.load(tiny_recipe, ["training.learning_rate=1e-30", "training.optimizer=sgd"])
    with pytest.raises(ParameterError, match="below the resolution of float32") as caught:
        train(recipe, tmp_path / "run")
    assert "learning_rate" in str(caught.value.hint)


@pytest.mark.parametrize("device", ["mps", "cuda"])
def test_a_device_that_cannot_serve_is_refused(
    device: str, tiny_base_folder: Path, tiny_images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dp_diffusers.run.running import _device

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ParameterError) as caught:
        _device(RuntimeSettings(device=device).device)
    assert "cpu" in str(caught.value.hint)


def test_one_fingerprint_in_memory_and_from_a_folder(tiny_base: Callable[..., Any], tmp_path: Path) -> None:
    from diffusers import DDPMPipeline

    from dp_diffusers.diffusion.base import fingerprint
    from dp_diffusers.diffusion.loading import base_of_pipeline, load_base

    base = tiny_base()
    base.save(tmp_path / "base")
    opened = load_base(tmp_path / "base")
    assert opened.sha256 == fingerprint(base)
    piped = base_of_pipeline(DDPMPipeline.from_pretrained(tmp_path / "base", low_cpu_mem_usage=False))
    assert (piped.sha256, piped.source) == (opened.sha256, str((tmp_path / "base").resolve()))
    assert (piped.patch, piped.class_names) == (base.patch, base.class_names)
    for other in (tiny_base(seed=1), tiny_base(prediction="epsilon"), replace(base, class_names=None)):
        assert fingerprint(other) != opened.sha256


def test_a_base_without_names_has_as_many_classes_as_are_declared(tiny_base: Callable[..., Any]) -> None:
    from dp_diffusers.diffusion.family import family_of

    base = replace(tiny_base(), class_names=None)
    assert (base.classes, base.with_classes(["a", "b", "c"]).classes) == (3, 3)
    whole = base.with_classes(["a", "b", "c", "d"])
    assert whole.classes == 4
    assert family_of(whole).null_label is None


def test_a_strategy_is_the_same_document_in_every_process() -> None:
    from peft import LoraConfig

    from dp_diffusers.strategies import document_of

    names = ["to_q", "to_k", "to_v"]
    found = document_of(LoraConfig(r=2, target_modules=names))
    assert found == document_of(LoraConfig(r=2, target_modules=names[::-1]))
    assert found["target_modules"] == sorted(names)
    assert found != document_of(LoraConfig(r=3, target_modules=names))
    json.dumps(found)
