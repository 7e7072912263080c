"""A run that begins with a warm-up: from the recipe to the certificate, after kills, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import draw_moments

import dp_diffusers as dpd
from dp_diffusers import training
from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.errors import InputError, ParameterError, RecipeError, RunFolderError
from dp_diffusers.finetuning import train
from dp_diffusers.loop.image_batches import Batches
from dp_diffusers.mechanisms.moments import Gaussians, moments_query
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.queries import asked_moments, frequencies
from dp_diffusers.queries.asked_moments import Moments
from dp_diffusers.queries.frequencies import Frequencies
from dp_diffusers.queries.kept_sums import KeptSums
from dp_diffusers.queries.warming import Warmup
from dp_diffusers.recipe import Recipe
from dp_diffusers.recipe.queries import queries_of
from dp_diffusers.recipe.sections import WarmupSettings
from loop_support import cheap_trainings
from teacher_support import KilledError, drawn, entries_of, killed, labelled_recipe, register, unopened_recipe

ASK = "warmup={dimensions: 20, images: 60, steps: 5, batch_size: 8}"


@pytest.fixture(scope="module", autouse=True)
def _cheap() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        cheap_trainings(patch.setattr)
        yield


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return unopened_recipe(tmp_path)


@pytest.fixture
def recipe(tiny_base_folder: Path, tmp_path: Path) -> Path:
    return labelled_recipe(tiny_base_folder, tmp_path)


@pytest.mark.slow
def test_guarantee_the_whole_path_with_a_warmup(recipe: Path, tmp_path: Path) -> None:
    asking = [ASK, "warmup.images=1200"]  # as many as there are private ones: no secret here
    planned = Recipe.load(recipe, asking).plan()
    assert re.search(r"moments, once, .* By itself it would cost epsilon 1\.(59|6)", planned.explain())
    release = train(Recipe.load(recipe, asking), tmp_path / "run")
    document = release.certificate.to_dict()
    steps, query = document["mechanisms"]
    assert (steps["name"], steps["steps_charged"]) == ("dpsgd", 2)
    asked = (query["name"], query["steps_charged"], query["classes"], query["dimensions"])
    assert asked == ("moments", 1, 3, 20)
    assert 0.99 * 8 <= document["epsilon"] <= 8
    assert Certificate.verify(release.path).problems == ()
    kinds = entries_of(recipe)
    assert kinds.index(("query", "moments")) < kinds.index(("charge", "")), "before the first step"
    assert "means and spreads of the images were asked" in json.dumps(document["statements"])
    assert "Before the first step the model learnt" in (release.path / "README.md").read_text()
    blurred, classes, names = draw_moments.drawn(tmp_path / "run", 300)
    bands = [blurred[classes == k].mean((0, 2, 3)) for k in range(3)]  # where a class is bright, see `drawn`
    assert [int(np.argmax(band - np.mean(bands, 0))) // 2 for band in bands] == [0, 1, 2]
    assert names == [f"class {k}" for k in range(3)]
    assert document["warmup"] == {
        "dimensions": 20,
        "images": 1200,
        "steps": 5,
        "batch_size": 8,
        "learning_rate": 3e-3,
    }
    for said in (None, document["warmup"] | {"dimensions": 21}):
        Certificate.from_dict({**document, "warmup": said}).issue(release.path)
        assert "do not belong together" in " ".join(Certificate.verify(release.path).problems)
    for changed in ({"noise_multiplier": 0.9 * query["noise_multiplier"]}, {"steps_charged": 2}):
        Certificate.from_dict({**document, "mechanisms": [steps, query | changed]}).issue(release.path)
        assert "does not follow" in " ".join(Certificate.verify(release.path).problems)


@pytest.mark.slow
def test_guarantee_moments_are_kept_or_paid_again_and_the_warmup_is_not_repeated(
    recipe: Path, tmp_path: Path
) -> None:
    """Killed after the charge: paid again. Killed once the sums are kept, or after the warm-up: used."""
    settings = Recipe.load(recipe, [ASK, "budget.cap={epsilon: 12, delta: 1.0e-4}"])
    places = ((KeptSums, "save", 1), (Warmup, "train", 2), (training.Loop, "require_affordable", 2))
    for owner, name, paid in places:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, killed)
            with pytest.raises(KilledError):
                train(settings, tmp_path / "run")
        assert entries_of(recipe).count(("query", "moments")) == paid
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (asked_moments, "products_of"),
            (asked_moments, "noisy_products"),
            (Warmup, "train"),
            (Warmup, "on"),
        ):
            patch.setattr(owner, name, killed)
        release = train(settings, tmp_path / "run")
    assert release.certificate.to_dict()["mechanisms"][1]["steps_charged"] == 2
    assert Certificate.verify(release.path).valid


@pytest.mark.slow
def test_guarantee_the_same_start_gives_the_same_warmup(recipe: Path, tmp_path: Path) -> None:
    """A start that goes on after the warm-up has what another one would have had."""
    settings, kept = Recipe.load(recipe, [ASK]), []

    def remembered(self: training.Loop) -> None:
        kept.append([parameter.detach().clone() for parameter in self.trainable])
        raise KilledError

    for again in range(3):
        if again == 2:
            (tmp_path / "run" / "private" / "checkpoint.pt").unlink()  # the warm-up is made anew
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.Loop, "require_affordable", remembered)
            with pytest.raises(KilledError):
                train(settings, tmp_path / "run")
    first, *others = kept
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert any(parameter.abs().max() > 1e-3 for parameter in first[1::2]), "it has learnt something"


@pytest.mark.slow
def test_without_privacy_the_sums_have_no_noise(recipe: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked_moments, "noisy_products", killed)
        release = train(Recipe.load(recipe, [ASK, "mechanism.name=none"]), tmp_path / "run")
    assert release.certificate.not_private
    assert Certificate.verify(release.path).valid
    card = (release.path / "README.md").read_text()
    assert "Before the first step the model learnt" in card
    assert "charged" not in card.partition("Before the first step")[2].splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["runtime.dtype=bfloat16"],
        ["mechanism.max_units=400"],
        ["strategy={name: full}", "warmup.learning_rate=2.0e-4"],
        ["strategy={name: sapf, rank: 2}"],
        ["training.optimizer=adam_bc", "training.ema=0.9"],
        ["teacher={features: tiny, dimensions: 16}"],
    ],
    ids=lambda overrides: overrides[0].partition("=")[0] + overrides[0].rpartition(" ")[2],
)
def test_a_warmup_goes_with_what_else_a_recipe_may_ask(
    recipe: Path, tmp_path: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    release = train(Recipe.load(recipe, [ASK, *overrides]), tmp_path / "run")
    assert "moments" in [entry["name"] for entry in release.certificate.mechanisms]
    assert Certificate.verify(release.path).valid


@pytest.mark.slow
def test_more_dimensions_than_an_image_has_are_refused_and_spend_nothing(
    recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="dimensions <= 64"):
        train(Recipe.load(recipe, [ASK, "warmup.dimensions=65"]), tmp_path / "run")
    assert not (tmp_path / "tiny.ledger").exists()


@pytest.mark.slow
@pytest.mark.parametrize("bad_calls", [1, 1000])
def test_a_warmup_that_diverges_is_no_dead_end(
    recipe: Path, tmp_path: Path, bad_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The query is paid for by then: it begins again more slowly, and is left out where nothing helps."""
    right, calls, said = Batches.gradients, [0], []

    def at_first_not_finite(self: Batches, parameters: list[Any], *args: Any, **how: Any) -> list[Any]:
        calls[0] += 1
        if calls[0] <= bad_calls:
            return [torch.full_like(parameter, torch.nan) for parameter in parameters]
        return right(self, parameters, *args, **how)

    monkeypatch.setattr(Batches, "gradients", at_first_not_finite)
    release = train(
        Recipe.load(recipe, [ASK]), tmp_path / "run", lambda **line: said.append(line.get("message", ""))
    )
    assert Certificate.verify(release.path).valid
    again = sum("again, at a tenth" in line for line in said)
    assert again == (1 if bad_calls == 1 else 2)
    assert any("is left out" in line for line in said) == (bad_calls > 1)


@pytest.mark.slow
def test_guarantee_a_checkpoint_after_a_warmup_serves_no_other_run(recipe: Path, tmp_path: Path) -> None:
    """Its weights have learnt from moments: a run whose certificate does not know them cannot begin there."""
    free = ["mechanism.name=none"]
    for stopped, others in ((free, [[]]), ([], [[], free])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.Loop, "require_affordable", killed)
            with pytest.raises(KilledError):
                train(Recipe.load(recipe, [ASK, *stopped]), tmp_path / "run")
        (tmp_path / "run" / "recipe.yaml").unlink()
        (tmp_path / "run" / "private" / "run.json").unlink(missing_ok=True)
        for other in others:
            with pytest.raises(RunFolderError, match="checkpoint"):
                train(Recipe.load(recipe, other), tmp_path / "run")
            (tmp_path / "run" / "recipe.yaml").unlink(missing_ok=True)
        shutil.rmtree(tmp_path / "run")


@pytest.mark.slow
def test_kept_moments_of_another_ledger_or_version_are_not_used(recipe: Path, tmp_path: Path) -> None:
    settings = Recipe.load(recipe, [ASK])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Warmup, "train", killed)
        with pytest.raises(KilledError):
            train(settings, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frequencies, "VERSION", 2)
        with pytest.raises(RunFolderError, match="another version"):
            train(settings, tmp_path / "run")
    other = tmp_path / "other" / "private"
    other.mkdir(parents=True)
    shutil.copy(tmp_path / "run" / "private" / asked_moments.FILE, other / asked_moments.FILE)
    (tmp_path / "tiny.ledger").unlink()
    train(settings, tmp_path / "other")
    assert entries_of(recipe).count(("query", "moments")) == 1, "what another ledger paid for is not used"


@pytest.mark.slow
def test_damaged_moments_are_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Warmup, "train", killed)
        with pytest.raises(KilledError):
            train(Recipe.load(recipe, [ASK]), tmp_path / "run")
    (tmp_path / "run" / "private" / asked_moments.FILE).write_bytes(b"no tensors")
    with pytest.raises(RunFolderError, match="damaged"):
        train(Recipe.load(recipe, [ASK]), tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["warmup={dimension: 16}"], "did you mean 'dimensions'"),
        (["warmup={share: 1}"], "warmup.share < 1"),
        (["warmup={}", "mechanism.name=pe"], "warmup has no effect"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(text: Path, overrides: list[str], says: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.load(text, overrides)
    assert says in " ".join(f"{message} {hint}" for message, hint in refused.value.problems)


def test_null_is_no_warmup(text: Path, tmp_path: Path) -> None:
    assert Recipe.load(text, ["warmup=null"]).warmup is None
    assert Recipe.load(text, ["warmup={}"]).warmup == WarmupSettings()
    (tmp_path / "again.yaml").write_text(Recipe.load(text).resolved_yaml())
    assert Recipe.load(tmp_path / "again.yaml").warmup is None


@pytest.mark.parametrize(
    ("overrides", "classes"),
    [
        (["data.label=null"], 1),
        (["data.caption=a chest x-ray"], 1),
        (["data.caption='a {label}'", "data.classes=[a, b]"], 2),
        (["base=plain"], 1),
        (["base=plain", "data.classes=[a, b, c]"], 1),
        (["base=named"], 2),
    ],
)
def test_how_many_kinds_of_images_a_recipe_asks_about(text: Path, overrides: list[str], classes: int) -> None:
    for name, content in (("plain", "null"), ("named", '["a", "b"]')):
        (text.parent / name).mkdir()
        (text.parent / name / "classes.json").write_text(content)
    (query,) = _queries(text, overrides)
    assert (query.name, query.classes) == ("moments", classes)


def _queries(text: Path, overrides: list[str]) -> Any:
    """Without the plans that are remembered, whatever the base."""
    mechanism = dpd.DPSGD(steps=2, expected_units=10, population=30)
    return queries_of(Recipe.load(text, ["warmup={}", *overrides]), dpd.Budget(5, 1e-3), mechanism)


def test_where_nobody_declares_classes_the_way_out_is_said(text: Path) -> None:
    with pytest.raises(ParameterError, match="needs declared classes") as refused:
        _queries(text, [])
    assert "data.label to null" in str(refused.value.hint)


@pytest.mark.slow
def test_a_plan_and_a_call_that_differ_are_refused(tiny_base_folder: Path, tmp_path: Path) -> None:
    budget = dpd.Budget(1.0, 1e-4)
    mechanism = dpd.DPSGD(steps=2, expected_units=10, population=30)
    plan = dpd.Plan.calibrate(budget, mechanism, [moments_query(budget, 3, dimensions=16)])
    labels = np.arange(30) % 3
    data = dpd.PrivateImages(
        images=drawn(labels, 0), labels=labels, class_names=None, owner=np.arange(30), unit_count=30
    )
    where: Any = {"out": tmp_path / "run", "ledger": tmp_path / "tiny.ledger"}
    with pytest.raises(ParameterError, match="does not ask for"):
        dpd.finetune(tiny_base_folder, data, plan, **where)
    with pytest.raises(ParameterError, match="3 classes of 17 dimensions, the plan pays for 3 classes of 16"):
        dpd.finetune(tiny_base_folder, data, plan, warmup=WarmupSettings(dimensions=17), **where)
    assert not (tmp_path / "tiny.ledger").exists()
    dpd.finetune(
        tiny_base_folder, data, plan, warmup=WarmupSettings(dimensions=16, images=9, steps=2), **where
    )


SIZES = (1, 2, 30, 1, 7)


def summed(sizes: tuple[int, ...], *, without: int | None = None, slots: int | None = None) -> np.ndarray:
    """The exact sums over units of so many equal images each; without: the unit that is not there."""
    from types import SimpleNamespace

    owner = np.repeat(np.arange(len(sizes)), sizes)
    images, labels = drawn(owner % 3, 0)[owner], owner % 3
    there = owner != without
    left = np.unique(owner[there], return_inverse=True)[1]
    data = dpd.PrivateImages(
        images=images[there],
        labels=labels[there],
        class_names=None,
        owner=left,
        unit_count=int(left.max()) + 1,
        unit="patient",
    )
    asked = Moments(
        settings=WarmupSettings(),
        frequencies=Frequencies.coarsest(size=8, channels=1, dimensions=20),
        classes=ReleasedClasses(labels=(0, 1, 2)),
    )
    mechanism = SimpleNamespace(max_units=slots, population=slots)
    return asked_moments.products_of(SimpleNamespace(not_private=False, mechanism=mechanism), asked, data)


def moved_at_most() -> float:
    """How far the sums move when one unit leaves, of units with 1 to 30 images."""
    whole = summed(SIZES)
    return max(
        float(np.linalg.norm(whole - summed(SIZES, without=unit)[: len(whole)])) for unit in range(len(SIZES))
    )


def test_guarantee_a_unit_of_many_images_moves_the_sums_by_at_most_one() -> None:
    assert 0.9 < moved_at_most() <= 1 + 1e-9
    assert summed(SIZES, slots=4) == pytest.approx(summed(SIZES[:4])), "a unit without a slot takes no part"


@pytest.mark.planted
def test_planted_images_counted_as_units(monkeypatch: pytest.MonkeyPatch) -> None:
    right = asked_moments.Products.add
    monkeypatch.setattr(
        asked_moments.Products,
        "add",
        lambda self, rows, place, weight: right(self, rows, place, np.ones(len(rows))),
    )
    assert moved_at_most() > 20, "the planted defect must be visible"


def test_images_are_of_each_class_alike_and_follow_the_seed() -> None:
    asked = Moments(
        settings=WarmupSettings(images=10),
        frequencies=Frequencies.coarsest(size=8, channels=1, dimensions=20),
        classes=ReleasedClasses(labels=(4, 7)),
    )
    gaussians = Gaussians(means=np.zeros((2, 20)), roots=np.stack([np.eye(20) * 0.1] * 2))
    drawn_images, labels = asked.images(gaussians, 0)
    images = drawn_images[:]
    assert images.shape == (10, 8, 8, 1)
    assert labels is not None
    assert labels.tolist() == [4, 7] * 5
    assert np.array_equal(images, asked.images(gaussians, 0)[0][:])
    assert not np.array_equal(images, asked.images(gaussians, 1)[0][:])
