"""Layers chosen by private images, from recipe to release: paid once, kept in the safe, used ever after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dp_diffusers.errors import ParameterError, RecipeError
from dp_diffusers.finetuning import train
from dp_diffusers.generating import generate
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.queries import saliency_choice
from dp_diffusers.recipe import Recipe
from dp_diffusers.run import running
from loop_support import cheap_trainings

SAPF = "strategy={name: sapf, rank: 2, targets: attention, fraction: 0.25, also: [bias]}"


@pytest.fixture
def recipe(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    cheap_trainings(monkeypatch.setattr)
    return Recipe.load(tiny_recipe, [SAPF])


def adapted(release: Path) -> list[str]:
    return sorted(json.loads((release / "adapter" / "adapter_config.json").read_text())["target_modules"])


@pytest.mark.slow
def test_layers_are_chosen_paid_for_and_certified(recipe: Recipe, tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    release = train(recipe, tmp_path / "run", lambda **facts: said.append(facts))
    entries = {entry["name"]: entry for entry in release.certificate.mechanisms}
    assert list(entries) == ["dpsgd", "saliency"]
    assert entries["saliency"]["steps_charged"] == 1
    assert Certificate.verify(release.path).valid
    kept = json.loads((tmp_path / "run" / "private" / "saliency.json").read_text())["saliency"]
    layers = adapted(release.path)
    assert len(layers) == round(0.25 * len(kept))
    ranked = sorted(kept, key=lambda name: -kept[name])[: len(layers)]
    assert all(any(name.endswith(layer) for layer in layers) for name in ranked)
    assert {"message": f"{len(layers)} of {len(kept)} layers get an adapter"} in said
    assert generate(release, images=3).exists()


@pytest.mark.slow
def test_a_resume_uses_what_was_kept_and_pays_nothing_for_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = saliency_choice._asked
    monkeypatch.setattr(saliency_choice, "_asked", lambda *rest: asked.append(1) or real(*rest))
    stopping = running.Loop.report

    def stop(self: Any, step: int, steps: int, seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running.Loop, "report", stop)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run")
    monkeypatch.setattr(running.Loop, "report", stopping)
    release = train(recipe, tmp_path / "run")
    assert len(asked) == 1
    assert [entry["steps_charged"] for entry in release.certificate.mechanisms] == [3, 1]


@pytest.mark.slow
def test_a_result_that_was_lost_is_paid_for_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = running.RunFolder.write

    def losing(self: Any, name: str, document: dict[str, Any]) -> None:
        if name == saliency_choice.FILE:
            raise KeyboardInterrupt
        real(self, name, document)

    monkeypatch.setattr(running.RunFolder, "write", losing)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run")
    monkeypatch.setattr(running.RunFolder, "write", real)
    release = train(recipe, tmp_path / "run")
    charged = {entry["name"]: entry["steps_charged"] for entry in release.certificate.mechanisms}
    assert charged["saliency"] == 2
    assert release.certificate.epsilon <= recipe.budget.epsilon


def test_a_plan_and_a_strategy_that_do_not_fit_are_refused(recipe: Recipe) -> None:
    from dp_diffusers.strategies import strategy_of

    plain, paying = (
        Recipe.plan(recipe.model_copy(update={"strategy": type(recipe.strategy)()})),
        recipe.plan(),
    )
    with pytest.raises(ParameterError, match="does not pay for"):
        saliency_choice.require_query(plain, strategy_of({"name": "sapf"}))
    with pytest.raises(ParameterError, match="does not make"):
        saliency_choice.require_query(paying, strategy_of({"name": "lora"}))


def test_without_privacy_there_is_no_query(tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match="another one without privacy"):
        Recipe.load(tiny_recipe, [SAPF, "mechanism.name=none"])
