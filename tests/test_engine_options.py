"""Each option of the engine through a whole training: released, verified, resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dp_diffusers import checkpoint
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.errors import ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.recipe import Recipe
from loop_support import charges, cheap_trainings, small_budget

ADAPTIVE = ["mechanism.clipping=adaptive", "mechanism.quantile_noise=9"]
OPTIONS: dict[str, list[str]] = {
    "automatic": ["mechanism.clipping=automatic"],
    "per_layer": ["mechanism.clipping=per_layer"],
    "adaptive": ADAPTIVE,
    "adaptive with adam_bc": [*ADAPTIVE, "training.optimizer=adam_bc"],
    "augmentations": ["training.augmentations=3", "training.augment=[flip,shift]"],
    "adam_bc and low_noise": ["training.optimizer=adam_bc", "training.timesteps=low_noise"],
}


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_trainings(monkeypatch.setattr)


def loaded(recipe: Path, options: list[str]) -> Recipe:
    small_budget(recipe, steps=2)
    return Recipe.load(recipe, options)


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_a_training_with_the_option_is_released_and_verifies(
    option: str, tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = loaded(tiny_recipe, OPTIONS[option])
    release = train(recipe, tmp_path / "run")
    found = Certificate.verify(release.path)
    assert found.valid, found.problems
    (entry,) = release.certificate.mechanisms
    assert entry["clipping"] == recipe.mechanism.clipping
    assert entry.get("quantile_noise") == recipe.mechanism.quantile_noise
    assert release.certificate.epsilon is not None
    assert release.certificate.epsilon <= 1
    assert len(charges(tmp_path / "tiny.ledger")) == 2


def test_guarantee_a_certificate_of_adaptive_clipping_without_noise_for_the_gradient_is_refused(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    from dp_diffusers.privacy.certificate_text import digest_of, text_of

    release = train(loaded(tiny_recipe, ADAPTIVE), tmp_path / "run")
    document = release.certificate.to_dict()
    document["mechanisms"][0]["quantile_noise"] = document["mechanisms"][0]["noise_multiplier"] / 2
    document["digest"] = digest_of({**document, "digest": None})
    (release.path / "certificate.json").write_text(text_of(document))
    problems = Certificate.verify(release.path).problems
    assert any("quantile_noise above half the noise multiplier" in problem for problem in problems), problems


@pytest.mark.slow
def test_guarantee_a_resumed_run_goes_on_with_the_clip_norm_that_was_released(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, norms = loaded(tiny_recipe, [*ADAPTIVE, "mechanism.steps=4"]), []
    release = PrivateGradient.release

    def noted(self: PrivateGradient, step: int, receipt: Any) -> Any:
        found = release(self, step, receipt)
        norms.append((step, self._sum.clip_norm))
        return found

    def stop(**facts: Any) -> None:
        if facts.get("step") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(PrivateGradient, "release", noted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", stop)
    saved = checkpoint.load(tmp_path / "run" / "private" / "checkpoint.pt")
    assert saved is not None
    assert saved["clipping"] == {"clip_norm": norms[1][1]}
    starts = []
    load = PrivateGradient.load_state_dict
    monkeypatch.setattr(
        PrivateGradient,
        "load_state_dict",
        lambda self, state: starts.append(dict(state)) or load(self, state),
    )
    train(recipe, tmp_path / "run")
    assert starts == [saved["clipping"]]
    assert [step for step, _ in norms] == [0, 1, 2, 3]
    assert norms[0][1] != 0.1  # the second may be back at it: up by the noise, then down by as much


def test_without_privacy_there_is_no_clipping_to_choose_and_no_noise_to_correct_for(
    tiny_recipe: Path,
) -> None:
    from dp_diffusers.errors import RecipeError

    for option in ("mechanism.clipping=per_layer", "training.optimizer=adam_bc"):
        with pytest.raises(RecipeError, match="without privacy"):
            loaded(tiny_recipe, ["mechanism.name=none", option])


def test_a_call_without_privacy_refuses_the_correction_too(tiny_recipe: Path, tmp_path: Path) -> None:
    import dp_diffusers as dpd
    from dp_diffusers.mechanisms.none import NonPrivate
    from dp_diffusers.recipe import TrainingSettings

    recipe = loaded(tiny_recipe, [])
    plan = dpd.Plan.calibrate(None, NonPrivate(steps=2, expected_units=10, population=30))
    data = dpd.PrivateImages.from_parquet(recipe.data.path, label="label")
    with pytest.raises(ParameterError, match="noise_std > 0") as caught:
        dpd.finetune(
            recipe.base, data, plan, out=tmp_path / "run", training=TrainingSettings(optimizer="adam_bc")
        )
    assert "take adam" in str(caught.value.hint)
