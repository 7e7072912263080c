"""A run that asks for a teacher, from the recipe to images that it labels."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import dp_diffusers as dpd
from dp_diffusers import generating
from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.drawing import images_out
from dp_diffusers.drawing.image_job import ImageJob
from dp_diffusers.errors import InputError, ParameterError, RecipeError, RunClosed, RunFolderError
from dp_diffusers.evaluation.feature_network import FeatureNetwork, Shape
from dp_diffusers.evaluation.features import features_named
from dp_diffusers.evaluation.public_model import public_model_images
from dp_diffusers.evaluation.reading import read_images
from dp_diffusers.finetuning import train
from dp_diffusers.generating import generate
from dp_diffusers.mechanisms.teacher import teacher_query
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.reservation import Reservation
from dp_diffusers.privacy.teacher_features import is_own
from dp_diffusers.recipe import GenerationSettings, Recipe
from dp_diffusers.recipe.sections import TeacherSettings
from dp_diffusers.release import Release
from dp_diffusers.run import running
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.teaching import asked_teacher, prepared_teacher
from dp_diffusers.teaching.public_whitening import whitening_of
from dp_diffusers.teaching.teacher import FILE, NETWORK, Teacher, saved_teacher
from loop_support import cheap_trainings
from teacher_support import (
    LABELS,
    SIDE,
    KilledError,
    drawn,
    entries_of,
    killed,
    labelled_recipe,
    register,
    unopened_recipe,
)

ASK = "teacher={features: tiny, dimensions: 16}"


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    monkeypatch.setattr(prepared_teacher, "DRAWN", 60)


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
    """With public images of the same kind beside the private ones."""
    images_out.write_images(drawn(LABELS[::4], 1), None, None, tmp_path / "public", format="parquet")
    return labelled_recipe(tiny_base_folder, tmp_path)


@pytest.mark.slow
def test_guarantee_the_whole_path_with_a_teacher(recipe: Path, tmp_path: Path) -> None:
    asked = [ASK, "teacher.public=public/data/train-00000-of-00001.parquet"]
    planned = Recipe.load(recipe, asked).plan()
    assert re.search(r"teacher, once, .* By itself it would cost epsilon 2\.(39|4)", planned.explain())
    release = train(Recipe.load(recipe, asked), tmp_path / "run")
    document = release.certificate.to_dict()
    steps, query = document["mechanisms"]
    assert (steps["name"], steps["steps_charged"]) == ("dpsgd", 2)
    assert (query["name"], query["steps_charged"], query["classes"], query["dimensions"]) == (
        *("teacher", 1, 3),
        16,
    )
    assert 0.99 * 8 <= document["epsilon"] <= 8
    assert Certificate.verify(release.path).problems == ()
    assert FILE in document["files"]
    assert document["teacher"]["public"]["images"] == 300
    kinds = entries_of(recipe)
    assert kinds.index(("query", "teacher")) < kinds.index(("charge", "")), "before the first step"
    assert "teacher.safetensors" in (release.path / "README.md").read_text()

    teacher = saved_teacher(release.path)
    assert teacher is not None
    fresh = np.arange(300) % 3
    assert (teacher.judged(drawn(fresh, 7))[0] == fresh).mean() > 0.9
    answers = teacher.answers(drawn(fresh, 7))
    assert answers.shape == (len(fresh), 3)
    assert answers[np.arange(len(fresh)), fresh].mean() > 0.5 > answers.mean()

    images = generate(release, images=30)
    table = pq.read_table(images / images_out.PARQUET)
    made = dpd.PrivateImages.from_parquet(images / images_out.PARQUET).images
    assert table["label"].to_numpy().tolist() == teacher.judged(made)[0].tolist()
    kept = json.loads((tmp_path / "run" / "private" / "images.json").read_text())
    assert kept["request"]["teacher"] == "relabel"
    as_asked = int((teacher.judged(made)[0] == np.arange(30) % 3).sum())
    assert as_asked in kept["numbers"], "what the card says of the images is no secret"
    assert f"took {as_asked} of 30 images" in (images / "README.md").read_text()
    assert "errs towards frequent classes" in (images / "README.md").read_text()
    assert Certificate.verify(release.path).valid
    assert generate(release, images=30) == images, "the same again does nothing"

    for known in (True, False):  # what the images were asked for may be lost, with the private folder
        if not known:
            (tmp_path / "run" / "private" / "images.json").rename(tmp_path / "images.json")
        public = public_model_images(tmp_path / "run", read_images(images))
        assert public.labels.tolist() == (np.arange(30) % 3).tolist(), "a teacher's answers are not public"
    (tmp_path / "images.json").rename(tmp_path / "run" / "private" / "images.json")

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:  # as for images unlike all that it learnt from
        patch.setattr(Teacher, "judged", lambda self, images: (np.zeros(len(images), np.int64), None))
        alike = GenerationSettings(images=30, steps=3)
        generate(
            release, out=tmp_path / "alike", settings=alike, progress=lambda **line: said.append(str(line))
        )
    assert any("label of 0 images alone" in line and "--teacher off" in line for line in said)

    off = generate(
        release, out=tmp_path / "off", settings=GenerationSettings(images=30, steps=3, teacher="off")
    )
    table = pq.read_table(off / images_out.PARQUET)
    assert table["label"].to_numpy().tolist() == (np.arange(30) % 3).tolist()
    assert "teacher" not in (off / "README.md").read_text()
    folders = generate(Release.open(tmp_path / "run"), images=30, out=tmp_path / "f", format="imagefolder")
    again = dpd.PrivateImages.from_folder(folders, labels="label")
    assert again.labels is not None
    assert again.labels.tolist() == teacher.judged(again.images)[0].tolist()

    for changed, says in (
        ({"noise_multiplier": 0.9 * query["noise_multiplier"]}, "does not follow"),
        ({"dimensions": 17}, "does not come from a teacher's query"),
        ({"classes": 4}, "does not come from a teacher's query"),
    ):
        Certificate.from_dict({**document, "mechanisms": [steps, query | changed]}).issue(release.path)
        assert says in " ".join(Certificate.verify(release.path).problems)
    Certificate.from_dict({**document, "mechanisms": [steps]}).issue(release.path)
    assert "does not come from a teacher's query" in " ".join(Certificate.verify(release.path).problems)
    Certificate.from_dict({**document, "teacher": None}).issue(release.path)
    assert "do not belong together" in " ".join(Certificate.verify(release.path).problems)


@pytest.mark.slow
def test_a_teacher_by_drawn_images_is_kept_or_paid_again(recipe: Path, tmp_path: Path) -> None:
    """Killed after the charge: paid again. Killed once the result is on disk: used, and nothing drawn."""
    settings = Recipe.load(recipe, [ASK, "budget.cap={epsilon: 12, delta: 1.0e-4}"])
    for name, paid in (("_keep", 1), ("weights_of", 2)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asked_teacher, name, killed)
            with pytest.raises(KilledError):
                train(settings, tmp_path / "run")
        assert entries_of(recipe).count(("query", "teacher")) == paid
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_teacher, "drawn_scaling", killed)
        for name in ("sums_of", "noisy_sums"):
            patch.setattr(asked_teacher, name, killed)
        release = train(settings, tmp_path / "run")
    assert release.certificate.to_dict()["mechanisms"][1]["steps_charged"] == 2
    assert release.certificate.to_dict()["teacher"]["public"] is None
    assert Certificate.verify(release.path).valid
    other = tmp_path / "other" / "private"
    other.mkdir(parents=True)
    shutil.copy(tmp_path / "run" / "private" / prepared_teacher.FILE, other / prepared_teacher.FILE)
    (tmp_path / "tiny.ledger").unlink()
    train(settings, tmp_path / "other")
    assert entries_of(recipe).count(("query", "teacher")) == 1, "what another ledger paid for is not used"


CLUSTERS = "teacher.clusters=30"


@pytest.mark.slow
def test_guarantee_the_whole_path_with_clusters(recipe: Path, tmp_path: Path) -> None:
    """Asked once, through kills, and images are then chosen by what was released."""
    asked = [ASK, CLUSTERS, "generation.candidates=4", "budget.cap={epsilon: 12, delta: 1.0e-4}"]
    settings = Recipe.load(recipe, asked)
    for name in ("_keep", "counts_of"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asked_teacher, name, killed)
            with pytest.raises(KilledError):
                train(settings, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("drawn_scaling", "clusters_of"):
            patch.setattr(prepared_teacher, name, killed)
        for name in ("sums_of", "noisy_sums"):
            patch.setattr(asked_teacher, name, killed)
        release = train(settings, tmp_path / "run")
    document = release.certificate.to_dict()
    steps, query = document["mechanisms"]
    assert (query["name"], query["clusters"], query["steps_charged"]) == ("teacher", 30, 2)
    assert document["teacher"]["clusters"] == 30
    assert Certificate.verify(release.path).problems == ()
    assert "a count of units of each class in 30 clusters" in (release.path / "README.md").read_text()
    for changed in ({"clusters": 31}, {"noise_multiplier": 0.9 * query["noise_multiplier"]}):
        Certificate.from_dict({**document, "mechanisms": [steps, query | changed]}).issue(release.path)
        assert not Certificate.verify(release.path).valid
    Certificate.from_dict(document).issue(release.path)

    said: list[str] = []
    images = generate(release, images=30, progress=lambda **line: said.append(str(line)))
    made = read_images(images)
    assert release.teacher is not None
    answers, weights = release.teacher.judged(np.asarray(made.images))
    assert weights is not None
    assert made.labels[answers >= 0].tolist() == answers[answers >= 0].tolist()
    assert any("keeps" in line and "of 120 images" in line for line in said)
    assert "Kept of 120 that were drawn" in (images / "README.md").read_text()
    request = json.loads((tmp_path / "run" / "private" / "images.json").read_text())["request"]
    assert (request["count"], request["candidates"]) == (30, 4)
    public = public_model_images(tmp_path / "run", made)
    assert public.labels.tolist() == (np.arange(30) % 3).tolist(), "a teacher's answers are not public"
    assert generate(release, images=30) == images, "the same again does nothing"
    few = generate(release, images=30, settings=GenerationSettings(steps=3), out=tmp_path / "all")
    assert len(read_images(few).labels) == 30
    chosen = GenerationSettings(steps=3, candidates=4)
    whole = read_images(generate(release, images=30, settings=chosen, out=tmp_path / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generating, "chosen_images", killed)
        with pytest.raises(KilledError):
            generate(release, images=30, settings=chosen, out=tmp_path / "again")
        assert not (tmp_path / "again").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageJob, "draw", killed)
        again = read_images(generate(release, images=30, settings=chosen, out=tmp_path / "again"))
    assert np.array_equal(again.images, whole.images), "all 120 were kept, and the choice is the same"
    assert np.array_equal(again.labels, whole.labels)
    plain = generate(
        release,
        images=30,
        settings=GenerationSettings(steps=3, teacher="off", candidates=2),
        out=tmp_path / "o",
    )
    assert read_images(plain).labels.tolist() == (np.arange(30) % 3).tolist(), "nothing is chosen then"
    said.clear()
    with pytest.MonkeyPatch.context() as patch:  # a class that lies where nobody was counted
        right = Teacher.judged

        def without_the_last(self: Teacher, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            found, weights = right(self, images)
            assert weights is not None
            found[np.arange(len(images)) % 3 == 2], weights[np.arange(len(images)) % 3 == 2] = -1, 0.0
            return np.where(found < 0, -1, np.arange(len(images)) % 3), weights

        patch.setattr(Teacher, "judged", without_the_last)
        four, one = (GenerationSettings(steps=3, candidates=count) for count in (4, 1))
        tell = partial(said.append)
        generate(
            release, images=30, settings=four, out=tmp_path / "4", progress=lambda **line: tell(str(line))
        )
        assert any("label of 0 images alone" in line for line in said), "also where none of it is kept"
        kept = generate(
            release, images=30, settings=one, out=tmp_path / "1", progress=lambda **line: tell(str(line))
        )
    assert read_images(kept).labels.tolist() == (np.arange(30) % 3).tolist(), "unknown: as asked for"
    assert any("it knows no class: they keep what was asked for" in line for line in said)
    assert any("sees in" in line and "sees in 30 " not in line for line in said), "and counted by nobody"
    other, plan = Recipe.load(recipe, [ASK, CLUSTERS]), Recipe.load(recipe, [ASK]).plan()
    base, keys = release.family(adapted=False), other.model_dump()
    with pytest.raises(ParameterError, match="16 dimensions and 30 clusters, the plan pays for 3 classes"):
        prepared_teacher.require_teacher(plan, other.teacher, base, keys)
    prepare = partial(
        prepared_teacher.prepared_teacher,
        classes=ReleasedClasses(labels=(0, 1, 2)),
        family=base,
        recipe=keys,
        private=keys["data"]["path"],
        folder=RunFolder(tmp_path / "run"),
        progress=lambda **_: None,
    )
    scaling = prepare(other.teacher).scaling
    assert scaling is not None
    assert scaling.clusters is not None
    with pytest.raises(RunFolderError, match="made with other features"):
        prepare(TeacherSettings(features="tiny", dimensions=16, clusters=40))


TRAINED = "teacher={features: tiny, dimensions: 16, clusters: 30, drawn_by: trained}"


@pytest.mark.slow
def test_guarantee_a_teacher_of_the_trained_model_is_asked_after_the_last_step(
    recipe: Path, tmp_path: Path
) -> None:
    """Killed while it draws, and once the answer is kept: no step is done again, nothing paid twice."""
    settings = Recipe.load(recipe, [TRAINED])
    drawn_with: list[int] = []
    right = prepared_teacher.sample

    def drawn_and_told(family: Any, labels: np.ndarray, *args: Any, **how: Any) -> Any:
        drawn_with.append(sum(parameter.requires_grad for parameter in family.network.parameters()))
        assert set(labels) == {0, 1, 2}
        return right(family, labels, *args, **how)

    for module, name, paid in ((prepared_teacher, "grouped", 0), (asked_teacher, "counts_of", 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prepared_teacher, "sample", drawn_and_told)
            patch.setattr(module, name, killed)
            with pytest.raises(KilledError):
                train(settings, tmp_path / "run")
        kinds = entries_of(recipe)
        assert kinds.count(("query", "teacher")) == paid
        assert kinds.count(("charge", "")) == 2
    assert len(drawn_with) == 2
    assert all(drawn_with), "by the adapted network"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sample", "clusters_of"):
            patch.setattr(prepared_teacher, name, killed)
        for name in ("sums_of", "noisy_sums"):
            patch.setattr(asked_teacher, name, killed)
        release = train(settings, tmp_path / "run")
    kinds = entries_of(recipe)
    last_step = max(place for place, kind in enumerate(kinds) if kind == ("charge", ""))
    assert last_step < kinds.index(("query", "teacher"))
    document = release.certificate.to_dict()
    assert [entry["steps_charged"] for entry in document["mechanisms"]] == [2, 1]
    assert document["teacher"]["drawn_by"] == "trained"
    assert Certificate.verify(release.path).problems == ()
    assert release.teacher is not None
    assert release.teacher.has_clusters


@pytest.mark.slow
def test_guarantee_an_answer_lost_after_the_steps_costs_the_teacher_and_nothing_more(
    recipe: Path, tmp_path: Path
) -> None:
    """Also where the process dies once more, after the run was settled; and nothing is looked at again."""
    settings = Recipe.load(recipe, [TRAINED, "teacher.share=0.6"])
    for module, name in ((asked_teacher, "_keep"), (running, "write_release")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(KilledError):
                train(settings, tmp_path / "run")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked_teacher, "sums_of", killed)
        patch.setattr(prepared_teacher, "sample", killed)
        release = train(settings, tmp_path / "run", lambda **line: said.append(str(line)))
    assert any("no budget is left to ask again" in line for line in said)
    document = release.certificate.to_dict()
    steps, query = document["mechanisms"]
    assert (steps["steps_charged"], query["name"], query["steps_charged"]) == (2, "teacher", 1)
    assert document["epsilon"] <= 8
    assert document["lost_queries"] == ["teacher"]
    assert Certificate.verify(release.path).problems == ()
    assert release.teacher is None
    assert "teacher.safetensors" not in (release.path / "README.md").read_text()
    assert "nothing of them was released" in json.dumps(document)
    with pytest.raises(ParameterError, match="this run has none"):
        generate(release, images=6, settings=GenerationSettings(steps=3, candidates=2))
    for changed, says in (
        ({"lost_queries": []}, "does not come from a teacher's query"),
        ({"lost_queries": ["histogram"]}, "not lost ones"),
        ({"mechanisms": [steps]}, "not lost ones"),
        ({"teacher": {"dimensions": 16}}, "do not belong together"),
    ):
        Certificate.from_dict({**document, **changed}).issue(release.path)
        assert says in " ".join(Certificate.verify(release.path).problems)
    Certificate.from_dict(document).issue(release.path)
    images = generate(release, images=6)
    assert read_images(images).labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.slow
def test_a_model_whose_images_are_all_alike_costs_the_teacher_and_not_the_run(
    recipe: Path, tmp_path: Path
) -> None:
    settings = Recipe.load(recipe, [TRAINED, "teacher.share=0.01", "budget.cap={epsilon: 12, delta: 1.0e-4}"])
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        grey = [np.full((60, SIDE, SIDE, 1), 128, np.uint8)]
        patch.setattr(prepared_teacher, "sample", lambda *_, **__: grey)
        patch.setattr(asked_teacher, "sums_of", killed)
        with pytest.MonkeyPatch.context() as further:
            further.setattr(running, "write_release", killed)
            further.setattr(Reservation, "settle", killed)
            with pytest.raises(KilledError):
                train(settings, tmp_path / "run")
        release = train(settings, tmp_path / "run", lambda **line: said.append(str(line)))
    assert any("has no teacher" in line for line in said)
    assert release.certificate.to_dict()["lost_queries"] == ["teacher"]
    assert entries_of(recipe).count(("query", "teacher")) == 1
    assert Certificate.verify(release.path).problems == ()


@pytest.mark.slow
def test_guarantee_clusters_of_a_model_that_this_ledger_did_not_pay_for_are_not_used(
    recipe: Path, tmp_path: Path
) -> None:
    """They are what another run released: a certificate of this one would not count it."""
    settings = Recipe.load(recipe, [TRAINED])
    train(settings, tmp_path / "run")
    other = tmp_path / "other" / "private"
    other.mkdir(parents=True)
    shutil.copy(tmp_path / "run" / "private" / prepared_teacher.FILE, other / prepared_teacher.FILE)
    (tmp_path / "tiny.ledger").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_teacher, "grouped", killed)
        with pytest.raises(KilledError):
            train(settings, tmp_path / "other")


@pytest.mark.slow
def test_guarantee_another_query_paid_twice_leaves_the_late_teacher_its_own(
    recipe: Path, tmp_path: Path
) -> None:
    cap = "budget.cap={epsilon: 12, delta: 1.0e-4}"
    settings = Recipe.load(recipe, [TRAINED, "generation.labels=histogram", cap])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write", _without_the_histogram(RunFolder.write))
        with pytest.raises(KilledError):
            train(settings, tmp_path / "run")
    release = train(settings, tmp_path / "run")
    assert entries_of(recipe).count(("query", "histogram")) == 2
    assert entries_of(recipe).count(("query", "teacher")) == 1
    assert release.teacher is not None
    assert Certificate.verify(release.path).problems == ()


def _without_the_histogram(right: Any) -> Any:
    """Dies where it would be kept."""

    def write(folder: RunFolder, name: str, document: Any) -> None:
        if "noisy" in document:
            raise KilledError
        right(folder, name, document)

    return write


@pytest.mark.slow
def test_a_network_of_ones_own_may_be_gone_when_the_trained_model_has_drawn(
    recipe: Path, tmp_path: Path
) -> None:
    own = recipe.parent / "own"
    _network(own, 0)
    settings = Recipe.load(recipe, ["teacher={features: own, dimensions: 16, drawn_by: trained}"])
    right = prepared_teacher.sample

    def gone(*args: Any, **how: Any) -> Any:
        shutil.rmtree(own)
        return right(*args, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_teacher, "sample", gone)
        release = train(settings, tmp_path / "run")
    assert release.teacher is not None
    assert NETWORK in release.certificate.to_dict()["files"]


@pytest.mark.slow
def test_a_run_that_was_closed_before_its_teacher_asks_nothing(recipe: Path, tmp_path: Path) -> None:
    settings = Recipe.load(recipe, [TRAINED])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_teacher, "grouped", killed)
        with pytest.raises(KilledError):
            train(settings, tmp_path / "run")
    with Ledger.open(tmp_path / "tiny.ledger") as ledger:
        run = ledger.runs()[0]
        assert run.is_early
        ledger.settle(run.run_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_teacher, "sample", killed)
        with pytest.raises(RunClosed):
            train(settings, tmp_path / "run")
    assert ("query", "teacher") not in entries_of(recipe)


@pytest.mark.slow
def test_without_privacy_the_sums_have_no_noise(recipe: Path, tmp_path: Path) -> None:
    release = train(Recipe.load(recipe, [ASK, "mechanism.name=none"]), tmp_path / "run")
    assert release.certificate.not_private
    assert release.teacher is not None
    fresh = np.arange(300) % 3
    assert (release.teacher.judged(drawn(fresh, 7))[0] == fresh).mean() > 0.95
    assert Certificate.verify(release.path).valid


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["teacher={features: tinny}"], "did you mean 'tiny'"),
        (["teacher={dimension: 16}"], "did you mean 'dimensions'"),
        (["teacher={share: 1}"], "teacher.share < 1"),
        (["teacher={}", "data.label=null"], "teacher to be null for images without labels"),
        (["teacher={drawn_by: model}"], "expected teacher.drawn_by to be"),
        (["teacher={public: x.parquet, drawn_by: trained}"], "since teacher.public is given"),
        (
            ["teacher={drawn_by: trained}", "mechanism={name: pe, steps: 2, population: 30}"],
            "drawn_by to be base with mechanism.name pe",
        ),
        (["generation.candidates=2"], "candidates to be 1 without clusters"),
        (["teacher={}", "generation.candidates=2"], "candidates to be 1 without clusters"),
        (
            ["teacher={clusters: 30}", "generation={candidates: 2, teacher: off}"],
            "candidates to be 1 with generation.teacher off",
        ),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(text: Path, overrides: list[str], says: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.load(text, overrides)
    assert says in " ".join(f"{message} {hint}" for message, hint in refused.value.problems)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["teacher.dimensions=65"], "dimensions <= 64"),
        (["teacher.public=nowhere"], "nowhere"),
        (["teacher.public=images"], "where the private images are"),
        (["teacher.public=copy.parquet"], "among the private ones"),
    ],
)
def test_what_cannot_teach_is_refused_and_spends_nothing(
    recipe: Path, tmp_path: Path, overrides: list[str], says: str
) -> None:
    shutil.copy(tmp_path / "images" / images_out.PARQUET, tmp_path / "copy.parquet")
    with pytest.raises(InputError, match=says):
        train(Recipe.load(recipe, [ASK, *overrides]), tmp_path / "run")
    if (tmp_path / "tiny.ledger").exists():
        with Ledger.open(tmp_path / "tiny.ledger") as ledger:
            assert ledger.spent().epsilon == 0


@pytest.mark.slow
def test_a_plan_and_a_call_that_differ_are_refused(tiny_base_folder: Path, tmp_path: Path) -> None:
    budget = dpd.Budget(1.0, 1e-4)
    mechanism = dpd.DPSGD(steps=2, expected_units=10, population=30)
    plan = dpd.Plan.calibrate(budget, mechanism, [teacher_query(budget, 3, dimensions=16)])
    labels = np.arange(30) % 3
    data = dpd.PrivateImages(
        images=drawn(labels, 0), labels=labels, class_names=None, owner=np.arange(30), unit_count=30
    )
    where: Any = {"out": tmp_path / "run", "ledger": tmp_path / "tiny.ledger"}
    with pytest.raises(ParameterError, match="does not ask for"):
        dpd.finetune(tiny_base_folder, data, plan, **where)
    settings = TeacherSettings(features="tiny", dimensions=17)
    with pytest.raises(ParameterError, match="3 classes of 17 dimensions, the plan pays for 3 classes of 16"):
        dpd.finetune(tiny_base_folder, data, plan, teacher=settings, **where)
    assert not (tmp_path / "tiny.ledger").exists()


def test_null_is_no_teacher_and_off_is_a_word(text: Path, tmp_path: Path) -> None:
    assert Recipe.load(text, ["teacher=null"]).teacher is None
    assert Recipe.load(text, ["teacher={}"]).teacher == TeacherSettings()
    assert Recipe.load(text, ["generation.teacher=off"]).generation.teacher == "off"
    (tmp_path / "again.yaml").write_text(Recipe.load(text).resolved_yaml())
    assert Recipe.load(tmp_path / "again.yaml").teacher is None


@pytest.mark.slow
def test_a_network_of_ones_own_comes_with_the_release(recipe: Path, tmp_path: Path) -> None:
    own = recipe.parent / "own"
    own.mkdir()
    FeatureNetwork(Shape(size=8, channels=1, widths=(16,), blocks=1, groups=8, classes=2)).save(own)
    public = "teacher.public=public/data/train-00000-of-00001.parquet"
    asked = ["teacher={features: own, dimensions: 16}", public]
    release = train(Recipe.load(recipe, asked), tmp_path / "run")
    shutil.rmtree(own)
    assert NETWORK in release.certificate.to_dict()["files"]
    teacher = saved_teacher(release.path)
    assert teacher is not None
    assert is_own({"features": teacher.features})
    (said,) = [line for line in release.certificate.assumptions if line.startswith("Public data")]
    assert f"the network '{teacher.features}' ({NETWORK} of this release)" in said
    assert "that scaled the features of the classifier" in said
    assert set(teacher.judged(drawn(LABELS[:9], 7))[0]) <= {0, 1, 2}
    moved = shutil.move(release.path, tmp_path / "elsewhere")
    again = saved_teacher(Path(moved))
    assert again is not None
    assert set(again.judged(drawn(LABELS[:9], 7))[0]) <= {0, 1, 2}
    (Path(moved) / NETWORK).unlink()
    lost = saved_teacher(Path(moved))
    assert lost is not None
    with pytest.raises(ParameterError, match="unknown features"):
        lost.judged(drawn(LABELS[:9], 7))


def _network(folder: Path, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    FeatureNetwork(Shape(size=8, channels=1, widths=(16,), blocks=1, groups=8, classes=2)).save(folder)


@pytest.mark.slow
def test_guarantee_features_are_those_that_the_sums_were_made_with(recipe: Path, tmp_path: Path) -> None:
    """Another network in their place: refused by the next start, and of no effect on the one that runs."""
    own, public = recipe.parent / "own", "teacher.public=public/data/train-00000-of-00001.parquet"
    settings = Recipe.load(recipe, ["teacher={features: own, dimensions: 16}", public])
    _network(own, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked_teacher, "weights_of", killed)
        with pytest.raises(KilledError):
            train(settings, tmp_path / "run")
    _network(own, 1)
    with pytest.raises(RunFolderError, match="other features or public images"):
        train(settings, tmp_path / "run")
    _network(own, 0)
    right = asked_teacher.weights_of

    def exchanged(*args: Any, **how: Any) -> np.ndarray:
        _network(own, 1)
        return right(*args, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked_teacher, "weights_of", exchanged)
        release = train(settings, tmp_path / "run")
    assert release.certificate.to_dict()["mechanisms"][1]["steps_charged"] == 1
    assert release.teacher is not None
    assert set(release.teacher.judged(drawn(LABELS[:9], 7))[0]) <= {0, 1, 2}


def test_features_that_lie_nowhere_are_refused_by_plan(text: Path) -> None:
    with pytest.raises(ParameterError, match=r"teacher.features: .*own is not there"):
        Recipe.load(text, ["teacher={features: own}", "data.classes=[a, b]"]).plan()


SIZES = (1, 2, 30, 1, 7)


def summed(
    sizes: tuple[int, ...],
    *,
    without: int | None = None,
    slots: int | None = None,
    clusters: int | None = None,
) -> np.ndarray:
    """The exact sums over units of so many equal images each; without: the unit that is not there."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    images, labels = drawn(owner % 3, 0)[owner], owner % 3
    images = images if without is None else images[owner != without]
    left = np.unique(owner[owner != without], return_inverse=True)[1]
    data = dpd.PrivateImages(
        images=images,
        labels=labels[owner != without],
        class_names=None,
        owner=left,
        unit_count=int(left.max()) + 1,
        unit="patient",
    )
    features, public = features_named("tiny"), drawn(np.arange(300) % 3, 1)
    whitening = whitening_of(features, public, 16)
    groups = prepared_teacher.grouped(features, whitening, public, clusters)
    scaling = prepared_teacher.Scaling(whitening=whitening, clusters=groups)
    prepared = prepared_teacher.PreparedTeacher(
        settings=TeacherSettings(features="tiny", dimensions=16),
        features=features,
        classes=ReleasedClasses(labels=(0, 1, 2)),
        shown=None,
        public=None,
        scaling=scaling,
    )
    mechanism = SimpleNamespace(max_units=slots, population=slots)
    plan = SimpleNamespace(not_private=False, mechanism=mechanism)
    return asked_teacher.sums_of(plan, prepared, scaling, data)


def moved_at_most(clusters: int | None = None) -> float:
    """How far the sums move when one unit leaves, of units with 1 to 30 images."""
    whole, without = summed(SIZES, clusters=clusters), partial(summed, SIZES, clusters=clusters)
    return max(float(np.linalg.norm(whole - without(without=unit))) for unit in range(len(SIZES)))


@pytest.mark.parametrize("clusters", [None, 20])
def test_guarantee_a_unit_of_many_images_moves_the_sums_by_at_most_one(clusters: int | None) -> None:
    assert 0.9 < moved_at_most(clusters) <= 1 + 1e-9
    some = summed(SIZES, slots=4, clusters=clusters)
    assert some == pytest.approx(summed(SIZES[:4], clusters=clusters)), "a unit without a slot takes no part"


@pytest.mark.planted
def test_planted_images_counted_as_units(monkeypatch: pytest.MonkeyPatch) -> None:
    right = asked_teacher.Sums.add
    monkeypatch.setattr(
        asked_teacher.Sums,
        "add",
        lambda self, rows, place, weight: right(self, rows, place, np.ones(len(rows))),
    )
    assert moved_at_most() > 20, "the planted defect must be visible"
