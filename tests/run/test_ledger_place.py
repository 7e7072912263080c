"""One ledger for a data set: by a link, by its folder or by a file in it, and no account that vanishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import dp_diffusers as dpd
from dp_diffusers import finetuning
from dp_diffusers.errors import LedgerError, ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.recipe import Recipe
from dp_diffusers.recipe.study import load_study
from dp_diffusers.run.ledger_place import default_ledger, other_ledger, require_first
from dp_diffusers.studying.planned import require_no_account
from dp_diffusers.studying.runs import study as run_study
from loop_support import cheap_trainings
from study_support import study_text


def test_guarantee_a_link_begins_no_ledger_beside_that_of_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    whole = tmp_path / "set" / "train.parquet"
    whole.write_bytes(b"")
    (tmp_path / "mine").mkdir()
    link = tmp_path / "mine" / "cohort.parquet"
    link.symlink_to(whole)
    own = str(default_ledger(str(link)))
    assert own == f"{link}.ledger", "what was there before goes on"
    require_first(own, str(link))
    Path(f"{whole}.ledger").write_bytes(b"")
    with pytest.raises(LedgerError, match=r"train\.parquet\.ledger is the ledger of images"):
        require_first(own, str(link))
    assert default_ledger(f"{tmp_path}/set/") == f"{tmp_path}/set.ledger"
    assert default_ledger("hf://owner/name") is None


@pytest.mark.parametrize(
    ("asked", "other", "refused"),
    [
        ("set/train.parquet", "set.ledger", True),
        ("set", "set/train.parquet.ledger", True),
        ("set", "other.ledger", False),
        ("set/data/part.parquet", "set.ledger", True),
        ("set", "set/data/part.parquet.ledger", True),
        ("set/train.parquet", "set/test.parquet.ledger", False),
    ],
)
def test_a_second_ledger_of_the_same_images_is_not_begun(
    tmp_path: Path, asked: str, other: str, refused: bool
) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "train.parquet").write_bytes(b"")
    (tmp_path / other).write_bytes(b"")
    data = str(tmp_path / asked)
    own = str(default_ledger(data))
    if refused:
        with pytest.raises(LedgerError, match="is the ledger of images that these may be"):
            require_first(own, data)
    else:
        require_first(own, data)
    require_first(str(tmp_path / "named.ledger"), data)  # whoever names one has decided


def test_a_training_asks_before_it_begins_one(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap_trainings(monkeypatch.setattr)
    keys: dict[str, Any] = yaml.safe_load(tiny_recipe.read_text())
    keys["budget"].pop("ledger")
    tiny_recipe.write_text(yaml.safe_dump(keys))
    recipe = Recipe.load(tiny_recipe)
    folder = Path(recipe.data.path).parent
    folder.with_name(f"{folder.name}.ledger").write_bytes(b"")
    with pytest.raises(LedgerError, match=r"\.ledger is the ledger of images that these may be"):
        train(recipe, tmp_path / "run")
    assert not Path(str(recipe.budget.ledger)).exists()


def test_another_ledger_than_the_images_have_is_named(tmp_path: Path) -> None:
    whole, link = tmp_path / "train.parquet", tmp_path / "link.parquet"
    whole.write_bytes(b"")
    link.symlink_to(whole)
    own, named = str(default_ledger(str(whole))), str(tmp_path / "named.ledger")
    assert other_ledger(named, str(whole)) is None, "they have none yet"
    Path(own).write_bytes(b"")
    fact = f"these images have a ledger of their own, {own}: what it counts comes on top of this run's"
    assert other_ledger(named, str(whole)) == fact
    assert other_ledger(named, str(link)) == fact
    assert other_ledger(own, str(whole)) is None
    assert other_ledger(str(tmp_path / "set" / ".." / "train.parquet.ledger"), str(whole)) is None
    assert other_ledger(named, "hf://owner/name") is None


def test_a_call_in_python_is_told_of_another_ledger(
    tiny_base_folder: Path, tiny_parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "run", lambda job, folder: None)
    own, lines = Path(str(default_ledger(str(tiny_parquet)))), list[str]()
    own.write_bytes(b"")
    data = dpd.PrivateImages.from_parquet(tiny_parquet)
    plan = dpd.Plan.calibrate(dpd.Budget(1.0, 1e-3), dpd.DPSGD(steps=1, expected_units=10, population=30))
    dpd.finetune(
        tiny_base_folder,
        data,
        plan,
        out=tmp_path / "run",
        ledger=tmp_path / "named.ledger",
        progress=lambda **facts: lines.append(str(facts.get("message"))),
    )
    assert lines == [other_ledger(str(tmp_path / "named.ledger"), str(tiny_parquet))]


def test_guarantee_a_study_does_not_train_beside_the_account_of_its_images(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(study_text())
    study = load_study(tmp_path / "study.yaml")
    require_no_account(study)
    (tmp_path / "images.parquet.ledger").write_bytes(b"")
    with pytest.raises(
        ParameterError, match=r"images\.parquet\.ledger, and the runs of a study are not in it"
    ):
        run_study(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_guarantee_no_training_pays_into_an_account_that_vanishes(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    data = dpd.PrivateImages(
        images=np.zeros((20, 8, 8, 1), np.uint8),
        labels=None,
        class_names=None,
        owner=np.arange(20),
        unit_count=20,
    )
    plan = dpd.Plan.calibrate(dpd.Budget(1.0, 1e-4), dpd.DPSGD(steps=1, expected_units=50, population=1000))
    with pytest.raises(ParameterError, match="forgets what was spent"):
        dpd.finetune(tiny_base_folder, data, plan, out=tmp_path / "run", ledger=":memory:")
