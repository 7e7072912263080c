"""Private Evolution from recipe to release: paid per iteration, resumable, a population for an adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import DatasetCard
from peft import LoraConfig

import dp_diffusers as dpd
from dp_diffusers import checkpoint
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.diffusion.generation import SAMPLERS, Sampling
from dp_diffusers.diffusion.variation import first_step, varied
from dp_diffusers.errors import ParameterError, RecipeError, RunFolderError
from dp_diffusers.evaluation.reading import read_images
from dp_diffusers.evolution import evolving
from dp_diffusers.evolution.population import Population, more_images, parents, saved_population
from dp_diffusers.evolution.settings import EvolutionSettings
from dp_diffusers.finetuning import train
from dp_diffusers.generating import generate
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.recipe import Recipe, RuntimeSettings, TrainingSettings
from dp_diffusers.recipe.sections.public import PublicSettings
from dp_diffusers.release import Release
from dp_diffusers.run.folder import RunFolder
from loop_support import charges, cheap_trainings

PE = [
    "mechanism={name: pe, steps: 3, population: 30, samples: 8}",
    "strategy={}",
    "training={}",
    "runtime={}",
]


@pytest.fixture
def recipe(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    cheap_trainings(monkeypatch.setattr)
    return Recipe.load(tiny_recipe, PE)


def test_a_run_is_certified_and_makes_images_of_each_class(recipe: Recipe, tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    release = train(recipe, tmp_path / "run", lambda **facts: said.append(facts))
    (entry,) = release.certificate.mechanisms
    assert (entry["name"], entry["steps_charged"], entry["sampling_probability"]) == ("pe", 3, 1.0)
    assert release.certificate.adapter == {"sha256": None, "trainable_parameters": 0}
    assert not (release.path / "adapter").exists()
    assert "population/population.safetensors" in release.certificate.files
    saved = saved_population(release.path)
    assert saved is not None
    assert np.bincount(saved[0].classes).tolist() == [3, 3, 2]
    images = read_images(generate(release, images=15))
    assert np.bincount(images.labels).tolist() == [5, 5, 5]
    for card in ("README.md", "images/README.md"):
        assert "private-evolution" in DatasetCard.load(release.path / card).data.tags
    assert Certificate.verify(release.path).valid
    for label in range(3):
        mine, kept = images.images[images.labels == label], saved[0].images[saved[0].classes == label]
        assert np.array_equal(mine[: len(kept)], kept), "the population itself comes first"
        assert not np.array_equal(mine[len(kept)], kept[0]), "and then variations of it"
    assert len([facts for facts in said if "step" in facts]) == 3
    told = [str(facts["message"]) for facts in said if "message" in facts]
    for work in ("drawing the images that are voted for first", "varying the images of iteration 3"):
        assert [line for line in told if line.startswith(work)][-1] == f"{work}: 100 %"
    assert not any(
        set(facts) - {"step", "steps", "epsilon", "budget", "seconds", "message"} for facts in said
    )


def interrupted(monkeypatch: pytest.MonkeyPatch, name: str, at: int) -> Callable[[], None]:
    """Stops an evolution where its method `name` is called for iteration `at`; returns what undoes that."""
    real = getattr(evolving.Evolution, name)

    def stopping(self: evolving.Evolution, step: int, *rest: Any) -> Any:
        if step == at:
            raise KeyboardInterrupt
        return real(self, step, *rest)

    monkeypatch.setattr(evolving.Evolution, name, stopping)
    return lambda: monkeypatch.setattr(evolving.Evolution, name, real)


def test_stopped_while_it_makes_images_it_pays_nothing_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = interrupted(monkeypatch, "next_images", 1)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run")
    undo()
    release = train(recipe, tmp_path / "run")
    assert release.certificate.mechanisms[0]["steps_charged"] == 3
    assert len(charges(tmp_path / "tiny.ledger")) == 3


def test_votes_that_are_lost_between_payment_and_disk_are_paid_for_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = interrupted(monkeypatch, "add_noise", 1)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run")
    undo()
    release = train(recipe, tmp_path / "run")
    paid = charges(tmp_path / "tiny.ledger")
    assert [step for _, step in paid][:3] == [0, 1, 1]
    assert len({lane for lane, _ in paid}) == 2
    assert release.certificate.epsilon is not None
    assert release.certificate.epsilon <= recipe.budget.epsilon


def test_guarantee_images_of_another_plan_are_not_gone_on_with(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another plan's votes made has another price."""
    undo = interrupted(monkeypatch, "next_images", 1)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run")
    undo()
    path = RunFolder(tmp_path / "run").checkpoint
    state = checkpoint.load(path)
    assert state is not None
    checkpoint.save_atomic({**state, "plan": "another"}, path)
    with pytest.raises(RunFolderError, match="by another plan"):
        train(recipe, tmp_path / "run")
    assert len(charges(tmp_path / "tiny.ledger")) == 1 + state["step"]


@pytest.mark.slow
def test_the_same_votes_make_the_same_images(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0).normal(size=(3, 8))
    monkeypatch.setattr(evolving.Evolution, "add_noise", lambda self, step, counts, receipt: rng[step])
    found = []
    for name in ("one", "two"):
        budget = recipe.budget.model_copy(update={"ledger": str(tmp_path / f"{name}.ledger")})
        release = train(recipe.model_copy(update={"budget": budget}), tmp_path / name)
        found.append(saved_population(release.path))
    assert np.array_equal(found[0][0].images, found[1][0].images)


def whole_votes_are_used(recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether what decides on images are whole numbers, as votes of single images are without noise."""
    seen: list[np.ndarray] = []
    real = evolving.Evolution.next_images

    def noting(self: evolving.Evolution, step: int, steps: int, released: np.ndarray) -> np.ndarray:
        seen.append(released)
        return real(self, step, steps, released)

    with monkeypatch.context() as patch:
        patch.setattr(evolving.Evolution, "next_images", noting)
        train(recipe, out)
    assert len(seen) == 3
    return any(bool(np.all(votes == np.round(votes))) for votes in seen)


def test_guarantee_votes_with_noise_alone_decide(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not whole_votes_are_used(recipe, tmp_path / "run", monkeypatch)


@pytest.mark.planted
def test_planted_votes_without_noise(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolving.Evolution, "add_noise", lambda self, step, counts, receipt: counts)
    assert whole_votes_are_used(recipe, tmp_path / "run", monkeypatch), "the planted defect must be visible"


UNUSED: list[tuple[str, dict[str, Any]]] = [
    ("strategy.rank", {"strategy": {"name": "lora", "rank": 4}}),
    ("strategy.rnak", {"strategy": {"name": "lora", "rnak": 4}}),
    ("strategy", {"strategy": LoraConfig(r=4)}),
    ("training.learning_rate", {"training": TrainingSettings(learning_rate=0.5)}),
    ("training.public", {"training": TrainingSettings(public=PublicSettings(path="x"))}),
    ("runtime.rows_per_pass", {"runtime": RuntimeSettings(rows_per_pass=2)}),
]


def test_a_call_in_python_refuses_what_a_recipe_refuses(
    tiny_base: Callable[..., Any], tiny_parquet: Path, tmp_path: Path
) -> None:
    data = dpd.PrivateImages.open(str(tiny_parquet), label="label")
    plan = dpd.Plan.calibrate(dpd.Budget(4.0, 1e-3), dpd.PE(steps=1, population=30))
    named: dict[str, Any] = {"out": tmp_path / "run", "ledger": tmp_path / "a.ledger"}
    for key, given in UNUSED:
        with pytest.raises(ParameterError, match=f"^{key} has no effect with "):
            dpd.finetune(tiny_base(), data, plan, **named, **given)
    assert not (tmp_path / "a.ledger").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_from_python(tiny_base: Callable[..., Any], tiny_parquet: Path, tmp_path: Path) -> None:
    data = dpd.PrivateImages.open(str(tiny_parquet), label="label")
    plan = dpd.Plan.calibrate(dpd.Budget(4.0, 1e-3), dpd.PE(steps=2, population=30))
    options = EvolutionSettings(samples=6)
    named: dict[str, Any] = {"out": tmp_path / "run", "ledger": tmp_path / "a.ledger", "evolution": options}
    base = tiny_base()
    release = dpd.finetune(base, data, plan, **named)
    assert read_images(dpd.generate(release, per_label=2)).images.shape == (6, 8, 8, 1)
    assert isinstance(dpd.finetune(base, data, plan, **named), Release)
    with pytest.raises(RunFolderError, match="evolution"):
        dpd.finetune(base, data, plan, **{**named, "evolution": EvolutionSettings(samples=7)})
    trained = dpd.Plan.calibrate(dpd.Budget(4.0, 1e-3), dpd.DPSGD(steps=2, expected_units=3, population=30))
    with pytest.raises(ParameterError, match="no effect"):
        dpd.finetune(base, data, trained, **named)


def test_places_keep_their_class_and_are_drawn_in_proportion() -> None:
    released = np.array([0.0, 9.0, 0.0, -5.0, 1.0, 1.0, -2.0, -2.0])
    classes = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    chosen = parents(released, classes, threshold=0.0, seed=0, step=0)
    assert chosen[:3].tolist() == [1, 1, 1]
    assert set(chosen[3:6]) == {4, 5}
    assert sorted(chosen[6:]) == [6, 7], "all alike where none has a vote"
    assert parents(released, None, threshold=8.0, seed=0, step=0).tolist() == [1] * 8


def test_images_beyond_the_population_do_not_depend_on_where_a_generation_was_stopped(
    tiny_base: Callable[..., Any],
) -> None:
    family = family_of(tiny_base())
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 1)).astype(np.uint8)
    population = Population(images=images, classes=np.array([0, 1, 2, 0]))
    places = np.arange(10) % 3
    whole = np.concatenate(
        list(more_images(family, population, places, places, 10, Sampling(steps=4), level=0.5))
    )
    part = more_images(family, population, places, places, 10, Sampling(steps=4), level=0.5, start=7)
    assert np.abs(whole[7:].astype(int) - np.concatenate(list(part))).max() <= 1


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_variation_goes_further_at_a_higher_level(tiny_base: Callable[..., Any], sampler: str) -> None:
    family = family_of(tiny_base())
    images = np.full((6, 8, 8, 1), 128, np.uint8)
    labels, names = np.arange(6) % 3, [str(index) for index in range(6)]
    sampling = Sampling(sampler=sampler, steps=10)
    far = []
    for level in (0.1, 0.5, 1.0):
        (new,) = varied(family, images, labels, sampling, level=level, streams=names)
        far.append(float(np.abs(new.astype(float) - images).mean()))
    assert far[0] < far[1] < far[2]
    assert [first_step(10, level) for level in (0.05, 0.1, 0.5, 1.0)] == [9, 9, 5, 0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["strategy.rank=4"], r"strategy.rank has no effect with mechanism.name pe"),
        (["training.learning_rate=0.1"], "training.learning_rate has no effect"),
        (["mechanism.clip_norm=0.5"], "mechanism.clip_norm has no effect"),
        (["mechanism.expected_units=5"], "mechanism.expected_units has no effect"),
        (["runtime.dtype=bfloat16"], "runtime.dtype has no effect"),
        (["mechanism.variation=[0.5]"], "two numbers"),
        (["mechanism.variation=[0.5, 1.5]"], "two numbers"),
        (["mechanism.features=pixel"], "pixels"),
        (["mechanism.samples=0"], ">= 1"),
    ],
)
def test_what_has_no_effect_is_refused_by_name(tiny_recipe: Path, keys: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.load(tiny_recipe, [*PE, *keys])


def test_settings_of_pe_are_refused_elsewhere(tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"mechanism\.samples to be null with mechanism\.name dpsgd"):
        Recipe.load(tiny_recipe, ["mechanism.samples=5"])


def test_too_few_samples_and_guidance_without_a_null_class_are_refused(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = Recipe.load(tiny_recipe, [*PE, "mechanism.samples=2"])
    with pytest.raises(ParameterError, match="number of classes, 3"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "tiny.ledger").exists(), "nothing is spent"


def test_a_resolved_recipe_loads_again(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny_recipe, PE)
    (tmp_path / "resolved.yaml").write_text(recipe.resolved_yaml())
    assert Recipe.load(tmp_path / "resolved.yaml") == recipe
    assert recipe.mechanism.expected_units == 30


def test_an_audit_refuses_what_has_no_gradient(tiny_recipe: Path, tmp_path: Path) -> None:
    from dp_diffusers.auditing import audit_recipe

    with pytest.raises(ParameterError, match="the mechanism pe has none"):
        audit_recipe(Recipe.load(tiny_recipe, PE), out=tmp_path / "audit")
