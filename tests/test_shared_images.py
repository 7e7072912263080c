"""Images of several people and units of very unequal size, in the real loop: what one person can move."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import dp_diffusers as dpd
from dp_diffusers.data import assembly
from dp_diffusers.data.ownership import Owners
from dp_diffusers.drawing.images_out import png
from dp_diffusers.engine.clipping import ClippedSum
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import Recipe
from dp_diffusers.run import running
from dp_diffusers.training import Loop
from engine_support import make_box, release
from loop_support import cheap_trainings, small_budget
from unet_support import CLIP, bounded, clipped_sum, contribution, moved, new_loop

ATTENTION = {"name": "lora", "rank": 2, "targets": "attention"}
CHEST = Path(__file__).parents[2] / "shared" / "data" / "chestxray64.parquet"

# zoe is on every photo but the last six; ann is on most of them
PHOTOS = (
    [["ann", "zoe"]] * 8 + [["ben", "zoe"]] * 6 + [["cy", "zoe"]] * 5 + [["zoe", "dee"]] * 5 + [["eve"]] * 6
)
KEPT = {"ann zoe": list(range(8)), "eve": list(range(24, 30))}


@pytest.fixture
def photos(tiny_images: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    """The tiny images as a parquet file with a list column of people; ids are canaries."""
    images, labels = tiny_images
    encoded = [{"bytes": png(image), "path": None} for image in images]
    people = [[f"CANARY-{name}" for name in names] for names in PHOTOS]
    table = pa.table({"image": encoded, "label": labels, "people": people})
    pq.write_table(table, tmp_path / "photos.parquet")
    return tmp_path / "photos.parquet"


def _rows_of(person: str) -> list[int]:
    return [row for row, names in enumerate(PHOTOS) if person in names]


def _sum(loop: Loop, blank: Collection[int]) -> torch.Tensor:
    """The clipped sum of all units through the loop's own rows, with nothing in place of some images."""
    box = make_box(loop.family.network, clip_norm=CLIP, keys=RunKeys.for_tests(0))
    try:
        for rows in loop.passes(0, np.arange(loop.table.unit_count)):
            weight = np.where(np.isin(rows.image, list(blank)), 0, rows.weight).astype(np.float32)
            owner = torch.from_numpy(rows.owner)
            box.accumulate(loop.row_losses(rows, 0), owner, torch.from_numpy(weight))
        return release(box)
    finally:
        box._source.close()  # type: ignore[attr-defined]


def _moved_by(person: str, data: dpd.PrivateImages, base: Any) -> float:
    """How far the sum moves when the images of a person are blank, in units of the clip norm."""
    loop = new_loop(base, ATTENTION, data.images, data.labels, draws=2, owner=data.owner)
    source = np.delete(np.arange(len(PHOTOS)), data.dropped)
    blank = np.flatnonzero(np.isin(source, _rows_of(person))).tolist()
    return float((_sum(loop, ()) - _sum(loop, blank)).norm()) / CLIP


def test_guarantee_a_person_on_many_photos_moves_the_sum_by_at_most_the_clip_norm(
    photos: Path, tiny_base: Callable[..., Any]
) -> None:
    data = dpd.PrivateImages.open(photos, label="label", unit="people")
    assert data.multi_owner
    assert data.unit_count == len(KEPT)
    assert np.delete(np.arange(30), data.dropped).tolist() == [*KEPT["ann zoe"], *KEPT["eve"]]
    for person in ("zoe", "ann", "eve"):
        found = _moved_by(person, data, tiny_base())
        assert found > 0.999
        assert bounded(found)
    assert _moved_by("ben", data, tiny_base()) == 0


def _first_counts(units: Any, count: int) -> Owners:
    """Only the first name of a list counts."""
    names = [people[0] for people in units]
    owner = np.unique(names, return_inverse=True)[1]
    return Owners(kept=np.ones(count, bool), owner=owner, unit_count=int(owner.max()) + 1, multi_owner=True)


def _each_image(units: Any, count: int) -> Owners:
    """Each image is a unit of its own."""
    return Owners(kept=np.ones(count, bool), owner=np.arange(count), unit_count=count, multi_owner=True)


def _each_set(units: Any, count: int) -> Owners:
    """Each distinct set of people is a unit, whoever else they are with."""
    numbers: dict[Any, int] = {}
    owner = np.array([numbers.setdefault(people, len(numbers)) for people in units])
    return Owners(kept=np.ones(count, bool), owner=owner, unit_count=len(numbers), multi_owner=True)


@pytest.mark.planted
@pytest.mark.parametrize("defect", [_first_counts, _each_image, _each_set])
def test_planted_units_that_share_people(
    defect: Callable[..., Owners],
    photos: Path,
    tiny_base: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(assembly, "owners_of", defect)
    data = dpd.PrivateImages.open(photos, label="label", unit="people")
    found = _moved_by("zoe", data, tiny_base())
    print(f"{defect.__name__}: a person moves the sum by {found:.2f} C")
    assert not bounded(found)
    assert found > 1.5


def _recipe(tiny_recipe: Path, photos: Path, adjacency: str) -> Recipe:
    small_budget(tiny_recipe)
    sets = [f"data.path={photos}", "budget.unit=people", f"budget.adjacency={adjacency}"]
    return Recipe.load(tiny_recipe, sets)


@pytest.mark.slow
def test_guarantee_a_release_says_that_ownership_is_public_and_nothing_else_about_it(
    tiny_recipe: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cheap_trainings(monkeypatch.setattr)
    said: list[str] = []
    recipe = _recipe(tiny_recipe, photos, "zero_out")
    made = train(recipe, tmp_path / "run", lambda **facts: said.append(str(facts.get("message", ""))))
    (sentence,) = [text for text in made.certificate.assumptions if text.startswith("Ownership: ")]
    assert "several of people" in sentence
    assert "public" in sentence
    record = tmp_path / "run" / "private" / "ownership.json"
    assert json.loads(record.read_text()) == {
        "unit": "people",
        "multi_owner": True,
        "images": 30,
        "units": 2,
        "dropped_images": 16,
        "dropped_rows": list(range(8, 24)),
        "surplus_units": [],
        "surplus_rows": [],
        "empty_slots": 0,
    }
    assert "CANARY" not in record.read_text()
    for path in (tmp_path / "run" / "release").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"CANARY" not in content
            assert b"dropped" not in content
    shown = "\n".join([*said, *capsys.readouterr()])
    assert "CANARY" not in shown
    assert "dropped" not in shown


def test_guarantee_shared_images_under_add_remove_are_refused_and_cost_nothing(
    tiny_recipe: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person who leaves would change who else is used: no bound of add_remove holds."""
    cheap_trainings(monkeypatch.setattr)
    with pytest.raises(ParameterError, match="which add_remove does not allow for") as caught:
        train(_recipe(tiny_recipe, photos, "add_remove"), tmp_path / "run")
    assert "zero_out" in str(caught.value.hint)
    assert "CANARY" not in caught.value.message
    assert not (tmp_path / "run" / "private" / "ownership.json").exists()
    with Ledger.open(tmp_path / "tiny.ledger") as ledger:
        assert ledger.spent().epsilon == 0


def _limited(tiny_recipe: Path, adjacency: str, population: int) -> Recipe:
    """The tiny images, each a unit, at most 12 in a step, in `population` slots."""
    small_budget(tiny_recipe, steps=1)
    sets = ["mechanism.max_units=12", f"mechanism.population={population}", "mechanism.expected_units=3"]
    return Recipe.load(tiny_recipe, [*sets, f"budget.adjacency={adjacency}"])


@pytest.mark.slow
def test_guarantee_slots_of_nobody_are_written_to_the_safe_alone(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cheap_trainings(monkeypatch.setattr)
    said: list[str] = []
    recipe = _limited(tiny_recipe, "zero_out", 33)
    train(recipe, tmp_path / "run", lambda **facts: said.append(str(facts.get("message", ""))))
    record = json.loads((tmp_path / "run" / "private" / "ownership.json").read_text())
    assert (record["surplus_units"], record["empty_slots"]) == ([], 3)
    shown = "\n".join([*said, *capsys.readouterr()])
    assert not re.search(r"\b(3|30|three) (empty|slots|units)|empty_slots", shown)


@pytest.mark.slow
@pytest.mark.parametrize("adjacency", ["add_remove", "zero_out", "replace"])
def test_guarantee_units_without_a_slot_are_refused_before_anything_is_charged(
    adjacency: str, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that left would make room for another one: the sum would move by two clip norms."""
    cheap_trainings(monkeypatch.setattr)
    monkeypatch.setattr(running, "released_proportions", lambda *given, **named: pytest.fail("charged"))
    with pytest.raises(ParameterError, match="the data hold more units than"):
        train(_limited(tiny_recipe, adjacency, 28), tmp_path / "run")
    with Ledger.open(tmp_path / "tiny.ledger") as ledger:
        assert ledger.spent().epsilon == 0


@pytest.fixture(scope="module")
def chest() -> dpd.PrivateImages:
    """The chest X-rays in the size of the tiny model, patient by patient."""
    if not CHEST.exists():
        pytest.skip(f"{CHEST} is absent")
    return dpd.PrivateImages.open(CHEST, label="label", unit="patient_id", size=8, channels=1)


@pytest.mark.parametrize(
    "most", [pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow), 30]
)
def test_guarantee_a_patient_of_thirty_images_moves_the_sum_by_at_most_the_clip_norm(
    most: int, chest: dpd.PrivateImages, tiny_base: Callable[..., Any]
) -> None:
    sizes = np.bincount(chest.owner)
    patient = int(sizes.argmax())
    assert sizes[patient] == 30
    loop = new_loop(tiny_base(), ATTENTION, chest.images, chest.labels, draws=2, owner=chest.owner, most=most)
    others = [int(unit) for unit in np.flatnonzero(sizes == 1)[:2]] + [int(np.argsort(sizes)[-2])]
    loop.runtime = loop.runtime.model_copy(update={"rows_per_pass": 7})
    found = contribution(loop, patient), moved(loop, [patient, *others], leaves=patient)
    assert min(found) > 0.999
    assert all(map(bounded, found))


def _one_large_unit(base: Any, limit: int) -> Loop:
    """A unit of 28 images, all of them used in a step, beside two of one; passes of `limit` rows."""
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1)).astype(np.uint8)
    owner = np.array([0] * 28 + [1, 2])
    loop = new_loop(base, ATTENTION, images, np.arange(30) % 3, draws=2, owner=owner, most=3_000)
    loop.runtime = loop.runtime.model_copy(update={"rows_per_pass": limit})
    return loop


@pytest.mark.slow
def test_guarantee_a_large_unit_adds_the_same_however_its_rows_are_cut(tiny_base: Callable[..., Any]) -> None:
    whole = clipped_sum(_one_large_unit(tiny_base(), 256), [0, 1, 2])
    for limit in (5, 16):
        loop = _one_large_unit(tiny_base(), limit)
        assert max(len(rows.position) for rows in loop.passes(0, np.arange(3))) <= limit
        assert float((clipped_sum(loop, [0, 1, 2]) - whole).norm()) < 1e-3 * CLIP
        assert bounded(contribution(loop, 0))


@pytest.mark.planted
def test_planted_clipping_of_each_pass(
    tiny_base: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that goes on in the next pass is clipped in each of them."""
    monkeypatch.setattr(ClippedSum, "_carry_over", lambda self, last, now: set())
    monkeypatch.setattr(ClippedSum, "refuse_returning", lambda self, ids: None)
    assert bounded(contribution(_one_large_unit(tiny_base(), 256), 0))
    assert contribution(_one_large_unit(tiny_base(), 5), 0) > 1.5


@pytest.mark.slow
def test_guarantee_epsilon_is_per_patient_on_the_real_file(tiny_recipe: Path, tmp_path: Path) -> None:
    if not CHEST.exists():
        pytest.skip(f"{CHEST} is absent")
    sets = [f"data.path={CHEST}", "budget.unit=patient_id", "mechanism.population=2846"]
    sets += ["mechanism.expected_units=40", "training.max_images_per_unit=30", "budget.delta=1e-4"]
    made = train(Recipe.load(tiny_recipe, sets), tmp_path / "run")
    assert made.certificate.unit == "patient_id"
    assert made.certificate.epsilon is not None
    assert made.certificate.epsilon <= 5
    (entry,) = made.certificate.mechanisms
    assert entry["sampling_probability"] == pytest.approx(40 / 2846)
    assert dpd.Certificate.verify(tmp_path / "run" / "release").valid
