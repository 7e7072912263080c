"""A run that asks for a class histogram, from the recipe to images in its proportions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import dp_diffusers as dpd
from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.generation import proportional_labels
from dp_diffusers.drawing import images_out
from dp_diffusers.errors import ParameterError, RecipeError, RunClosed, RunFolderError
from dp_diffusers.finetuning import train
from dp_diffusers.generating import generate
from dp_diffusers.mechanisms.histogram import histogram_query
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.events import HistogramQuery
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.queries import class_histogram
from dp_diffusers.recipe import GenerationSettings, Recipe
from dp_diffusers.recipe.queries import declared_classes
from dp_diffusers.release import Release
from dp_diffusers.run.folder import RunFolder
from loop_support import cheap_trainings
from tiny_recipes import TINY_RECIPE

ASK = "generation.labels=histogram"


class KilledError(Exception):
    """Stands for SIGKILL: nothing in the product catches it."""


def _killed(*_: Any, **__: Any) -> None:
    raise KilledError


@pytest.fixture(scope="module", autouse=True)
def _cheap() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        cheap_trainings(patch.setattr)
        yield


@pytest.fixture
def recipe(tiny_base_folder: Path, tmp_path: Path) -> Path:
    """A thousand units, half of them of one class, so that the noise does not hide it."""
    labels = np.repeat(np.arange(3), (500, 300, 200))
    images = np.random.default_rng(0).integers(0, 255, (1000, 8, 8, 1)).astype(np.uint8)
    images_out.write_images(images, labels, ["a", "b", "c"], tmp_path / "images", format="parquet")
    data, ledger = tmp_path / "images" / images_out.PARQUET, tmp_path / "tiny.ledger"
    text = TINY_RECIPE.format(base=tiny_base_folder, data=data, ledger=ledger, steps=2)
    text = text.replace("population: 30", "population: 1000").replace("delta: 1.0e-3", "delta: 1.0e-4")
    text = text.replace("epsilon: 5", "epsilon: 2").replace("expected_units: 10", "expected_units: 200")
    (tmp_path / "recipe.yaml").write_text(text)
    return tmp_path / "recipe.yaml"


def _entries(recipe: Path) -> list[tuple[str, str]]:
    with Ledger.open(recipe.parent / "tiny.ledger") as ledger:
        return [(entry.kind, entry.content.get("name", "")) for entry in ledger.entries()]


@pytest.mark.slow
def test_guarantee_the_whole_path_with_a_class_histogram(recipe: Path, tmp_path: Path) -> None:
    release = train(Recipe.load(recipe, [ASK]), tmp_path / "run")
    document = release.certificate.to_dict()
    steps, query = document["mechanisms"]
    assert (steps["name"], steps["steps_charged"]) == ("dpsgd", 2)
    assert (query["name"], query["steps_planned"], query["steps_charged"], query["classes"]) == (
        *("histogram", 1, 1),
        3,
    )
    assert 1.98 <= document["epsilon"] <= 2
    found = Certificate.verify(release.path)
    assert found.problems == ()
    kinds = _entries(recipe)
    assert kinds.index(("query", "histogram")) < kinds.index(("charge", "")), "before the first step"
    parts = document["classes"]["proportions"]
    assert sum(parts) == pytest.approx(1.0)
    assert parts == pytest.approx([0.5, 0.3, 0.2], abs=0.15)

    images = generate(release, images=50)
    table = pq.read_table(images / images_out.PARQUET)
    expected = np.bincount(proportional_labels(50, parts), minlength=3)
    assert np.bincount(table["label"].to_numpy(), minlength=3).tolist() == expected.tolist()
    uniform = generate(release, settings=GenerationSettings(images=9, steps=2), out=tmp_path / "uniform")
    table = pq.read_table(uniform / images_out.PARQUET)
    assert np.bincount(table["label"].to_numpy()).tolist() == [3, 3, 3]
    assert Certificate.verify(release.path).valid

    kept = json.loads((tmp_path / "run" / "private" / class_histogram.FILE).read_text())
    released = [path for path in release.path.rglob("*") if path.is_file()]
    assert not any(repr(kept["noisy"][0]).encode() in path.read_bytes() for path in released)
    with pytest.raises(RunFolderError, match=r"generation\.labels differ"):
        train(Recipe.load(recipe), tmp_path / "run")

    document["mechanisms"] = document["mechanisms"][:1]
    Certificate.from_dict(document).issue(release.path)
    problems = " ".join(Certificate.verify(release.path).problems)
    assert "class proportions do not come from a histogram" in problems


def _train_and_die(recipe: Recipe, out: Path, module: Any, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, _killed)
        with pytest.raises(KilledError):
            train(recipe, out)


WINDOWS = {
    "after the charge": (class_histogram, "noisy_counts", 2),
    "after the result is on disk": (class_histogram, "proportions", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("window", WINDOWS)
def test_guarantee_a_result_is_used_if_it_was_kept_and_paid_again_if_it_was_lost(
    recipe: Path, tmp_path: Path, window: str
) -> None:
    module, name, paid = WINDOWS[window]
    settings = Recipe.load(recipe, [ASK, "budget.cap={epsilon: 3, delta: 1.0e-4}"])
    _train_and_die(settings, tmp_path / "run", module, name)
    release = train(settings, tmp_path / "run")
    assert _entries(recipe).count(("query", "histogram")) == paid
    assert release.certificate.to_dict()["mechanisms"][1]["steps_charged"] == paid
    assert release.certificate.epsilon is not None
    assert release.certificate.epsilon <= 2
    assert Certificate.verify(release.path).valid


@pytest.mark.slow
def test_guarantee_a_result_that_this_ledger_did_not_see_paid_is_not_used(
    recipe: Path, tmp_path: Path
) -> None:
    train(Recipe.load(recipe, [ASK]), tmp_path / "run")
    (tmp_path / "tiny.ledger").unlink()
    other = tmp_path / "other" / "private"
    other.mkdir(parents=True)
    shutil.copy(tmp_path / "run" / "private" / class_histogram.FILE, other / class_histogram.FILE)
    train(Recipe.load(recipe, [ASK]), tmp_path / "other")
    assert _entries(recipe).count(("query", "histogram")) == 1


@pytest.mark.slow
def test_an_abandoned_run_asks_nothing_more(recipe: Path, tmp_path: Path) -> None:
    _train_and_die(Recipe.load(recipe, [ASK]), tmp_path / "run", class_histogram, "noisy_counts")
    with Ledger.open(tmp_path / "tiny.ledger") as ledger:
        (run,) = ledger.runs()
        assert ledger.abandon(run.run_id[:6]).abandoned
    with pytest.raises(RunClosed, match="abandoned"):
        train(Recipe.load(recipe, [ASK]), tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["mechanism.name=none"], "without privacy"),
        (["data.label=null"], "images without labels"),
    ],
)
def test_what_cannot_be_counted_is_refused_with_its_line(
    recipe: Path, overrides: list[str], says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        Recipe.load(recipe, [ASK, *overrides])


def test_undeclared_classes_are_refused_before_anything_is_spent(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="declared classes"):
        declared_classes(Recipe.load(recipe, [ASK, "base=somebody/model"]))
    budget = dpd.Budget(1.0, 1e-4)
    plan = dpd.Plan.calibrate(
        budget, dpd.DPSGD(steps=2, expected_units=10, population=1000), [histogram_query(budget, 4)]
    )
    data = dpd.PrivateImages.from_parquet(tmp_path / "images" / images_out.PARQUET)
    base = Recipe.load(recipe).base
    with pytest.raises(ParameterError, match="counts 4 classes, 3 are declared"):
        dpd.finetune(base, data, plan, out=tmp_path / "run", ledger=tmp_path / "tiny.ledger")
    assert not (tmp_path / "tiny.ledger").exists()


@pytest.mark.slow
def test_a_run_without_histogram_cannot_generate_by_one(recipe: Path, tmp_path: Path) -> None:
    release = train(Recipe.load(recipe), tmp_path / "run")
    assert "proportions" not in release.certificate.to_dict()["classes"]
    with pytest.raises(ParameterError, match="released no class histogram"):
        generate(Release.open(tmp_path / "run"), settings=GenerationSettings(images=3, labels="histogram"))


def test_largest_remainder() -> None:
    labels = proportional_labels(10, [0.55, 0.25, 0.2])
    assert np.bincount(labels).tolist() == [6, 2, 2]
    assert set(labels[:5].tolist()) == {0, 1, 2}, "spread over the images"
    assert np.bincount(proportional_labels(7, [0.0, 1.0]), minlength=2).tolist() == [0, 7]
    assert proportional_labels(1, [1 / 3] * 3).tolist() == [0]


def test_guarantee_units_without_a_slot_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(
        class_histogram, "noisy_counts", lambda query, counts, *rest: seen.append(counts) or counts
    )
    data = PrivateImages(
        images=np.zeros((4, 8, 8, 1), np.uint8),
        labels=np.zeros(4, np.int64),
        class_names=("a",),
        owner=np.arange(4),
        unit_count=4,
    )
    mechanism = SimpleNamespace(max_units=1, population=2)
    queries = (HistogramQuery(classes=1, noise_multiplier=1.0),)
    plan: Any = SimpleNamespace(queries=queries, not_private=False, mechanism=mechanism, fingerprint="")
    account: Any = SimpleNamespace(has_paid=lambda *_: False, charge_query=lambda name: None)
    keys: Any = SimpleNamespace(lane=b"")
    folder = RunFolder(tmp_path)
    folder.create()
    class_histogram.released_proportions(
        plan,
        ReleasedClasses(labels=(0,)),
        data=data,
        account=account,
        keys=keys,
        folder=folder,
        progress=lambda **_: None,
    )
    assert seen[0].tolist() == [2.0], "two units have slots"
