"""The unit that a budget protects is the unit that the images belong to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dp_diffusers as dpd
from dp_diffusers import finetuning
from dp_diffusers.drawing.images_out import png
from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import Recipe
from dp_diffusers.run import jobs, running


@pytest.fixture(scope="module")
def per_patient() -> dpd.Plan:
    budget = dpd.Budget(epsilon=5.0, delta=1e-3, unit="patient_id")
    return dpd.Plan.calibrate(budget, dpd.DPSGD(steps=2, expected_units=10, population=30))


@pytest.fixture
def patients(tiny_images: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    """The tiny images in class folders; two images a patient."""
    root = tmp_path / "patients"
    rows = ["file_name,patient_id"]
    for index, (image, label) in enumerate(zip(*tiny_images)):
        name = f"class {label}/{index:02d}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(image))
        rows.append(f"{name},p{index // 2}")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


def _attempt(base: Path, data: dpd.PrivateImages, plan: dpd.Plan, folder: Path) -> None:
    """Asks for a release per patient and expects to be refused before anything is written."""
    with pytest.raises(ParameterError, match="protects each 'patient_id', the unit of the images is 'image'"):
        dpd.finetune(base, data, plan, out=folder / "run", ledger=folder / "x.ledger", strategy={"rank": 2})
    assert not (folder / "run").exists()
    assert not (folder / "x.ledger").exists()


def test_guarantee_a_budget_per_person_refuses_images_without_persons(
    tiny_base_folder: Path, patients: Path, per_patient: dpd.Plan, tmp_path: Path
) -> None:
    _attempt(tiny_base_folder, dpd.PrivateImages.from_folder(patients, unit="image"), per_patient, tmp_path)


def test_guarantee_a_budget_per_person_refuses_a_folder_that_names_none(
    tiny_base_folder: Path, patients: Path, per_patient: dpd.Plan, tmp_path: Path
) -> None:
    (patients / "metadata.csv").unlink()
    data = dpd.PrivateImages.from_folder(patients)
    with pytest.raises(DataError, match=r"metadata\.csv"):
        dpd.finetune(tiny_base_folder, data, per_patient, out=tmp_path / "run", ledger=tmp_path / "x.ledger")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "x.ledger").exists()


def test_images_that_came_without_a_unit_take_the_column_that_is_asked_for(patients: Path) -> None:
    said_nothing = dpd.PrivateImages.from_folder(patients, size=4, channels=3)
    mine = said_nothing.of_unit("patient_id")
    expected = dpd.PrivateImages.from_folder(patients, size=4, channels=3, unit="patient_id")
    assert (mine.unit, mine.unit_count) == ("patient_id", 15)
    assert mine.owner.tolist() == expected.owner.tolist()
    assert np.array_equal(mine.images, expected.images)
    assert mine.notes == expected.notes
    assert said_nothing.of_unit("image") is said_nothing
    assert mine.of_unit("image") is mine


def test_guarantee_what_was_removed_is_not_read_again(patients: Path, per_patient: dpd.Plan) -> None:
    """Whoever leaves images out has no source that still holds them."""
    data = dpd.PrivateImages.from_folder(patients)
    assert data.labels is not None
    fewer = replace(data, images=data.images[:4], labels=data.labels[:4], owner=np.arange(4), unit_count=4)
    assert fewer.of_unit("patient_id") is fewer
    with pytest.raises(ParameterError, match="the unit of the images is 'image'"):
        running.require_unit(per_patient, fewer)


def test_a_run_of_python_among_its_images_is_refused(
    tiny_base_folder: Path, patients: Path, per_patient: dpd.Plan, tmp_path: Path
) -> None:
    data = dpd.PrivateImages.from_folder(patients, unit="patient_id")
    with pytest.raises(ParameterError, match=r"lies in data\.path"):
        dpd.finetune(tiny_base_folder, data, per_patient, out=patients / "run", ledger=tmp_path / "x.ledger")
    assert not (patients / "run").exists()
    assert not (tmp_path / "x.ledger").exists()


@pytest.mark.planted
def test_a_planted_blind_eye_for_units_is_seen(
    tiny_base_folder: Path,
    patients: Path,
    per_patient: dpd.Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finetuning, "require_unit", lambda plan, data: None)
    monkeypatch.setattr(finetuning, "run", lambda job, folder: None)
    with pytest.raises(pytest.fail.Exception):
        _attempt(
            tiny_base_folder, dpd.PrivateImages.from_folder(patients, unit="image"), per_patient, tmp_path
        )


def test_guarantee_a_training_whose_images_came_without_their_persons_spends_nothing(
    tiny_recipe: Path, patients: Path, per_patient: dpd.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = dpd.PrivateImages.open
    monkeypatch.setattr(
        jobs.PrivateImages, "open", lambda path, **options: original(path, **{**options, "unit": "image"})
    )
    monkeypatch.setattr(Recipe, "plan", lambda self: per_patient)
    sets = [f"data.path={patients}", "data.label=folder", "budget.unit=patient_id", "budget.cap=null"]
    with pytest.raises(ParameterError, match="the unit of the images is 'image'"):
        train(Recipe.load(tiny_recipe, sets), tmp_path / "run")
    with Ledger.open(tmp_path / "tiny.ledger") as ledger:
        assert ledger.spent().epsilon == 0
        assert [run.status for run in ledger.runs()] == ["cancelled"]


@pytest.mark.slow
def test_a_release_per_patient_from_a_folder_and_from_another_directory(
    tiny_base_folder: Path,
    patients: Path,
    per_patient: dpd.Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = dpd.PrivateImages.from_folder(patients)  # the budget says whose they are
    monkeypatch.chdir(tiny_base_folder.parent)
    options: dict[str, Any] = {
        "out": tmp_path / "run",
        "ledger": tmp_path / "x.ledger",
        "strategy": {"rank": 2},
    }
    release = dpd.finetune(tiny_base_folder.name, data, per_patient, **options)
    assert release.certificate.unit == "patient_id"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    images = dpd.generate(tmp_path / "run", per_label=1)
    assert (images / "data").is_dir()


def test_data_set_and_budget_that_agree_pass(per_patient: dpd.Plan, patients: Path) -> None:
    data = dpd.PrivateImages.from_folder(patients, unit="patient_id")
    running.require_unit(per_patient, data)
    with pytest.raises(ParameterError):
        running.require_unit(per_patient, replace(data, unit="hospital"))
