"""One ledger for a data set: by a link, by its folder or by a file in it, and no account that vanishes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import dp_diffusers as dpd
from dp_diffusers import finetuning
from dp_diffusers.errors import DataError, LedgerError, ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.recipe import Recipe
from dp_diffusers.recipe.study import load_study
from dp_diffusers.run import ledger_place
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


def _site(root: Path) -> Path:
    """Two pictures of two classes in `site/imgs/`, as nobody opens them."""
    for name in ("normal/1.png", "sick/2.png"):
        file = root / "site" / "imgs" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
    return root / "site" / "imgs"


def _listed(manifest: Path, *files: Path) -> Path:
    manifest.parent.mkdir(exist_ok=True)
    rows = [os.path.relpath(file, manifest.parent) for file in files]
    manifest.write_text("\n".join(["path", *rows]))
    return manifest


def _linked(folder: Path, *files: Path) -> Path:
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file)
    return folder


ROADS: dict[str, Callable[[Path, Path], Path]] = {
    "a manifest": lambda root, imgs: _listed(root / "team" / "list.csv", *imgs.glob("*/*")),
    "a manifest beside": lambda root, imgs: _listed(root / "site" / "imgs.tsv", *imgs.glob("*/*")),
    "a row of it": lambda root, imgs: _listed(
        root / "team" / "list.csv", root / "else.png", imgs / "sick" / "2.png"
    ),
    "a folder of links": lambda root, imgs: _linked(root / "links", *imgs.glob("*/*")),
    "a link to a class": lambda root, imgs: _linked(root / "links", imgs / "sick"),
    "a manifest of links": lambda root, imgs: _listed(
        root / "team" / "list.csv", *_linked(root / "links", *imgs.glob("*/*")).iterdir()
    ),
}


@pytest.mark.parametrize("ledger", ["imgs.ledger", "imgs/sick.ledger", "imgs/sick/2.png.ledger"])
@pytest.mark.parametrize("road", ROADS)
def test_guarantee_no_road_to_the_images_begins_a_second_ledger(
    road: str, ledger: str, tmp_path: Path
) -> None:
    data = str(ROADS[road](tmp_path, _site(tmp_path)))
    own, named = str(default_ledger(data)), str(tmp_path / "named.ledger")
    require_first(own, data)
    assert other_ledger(own, data) is None
    (tmp_path / "site" / ledger).write_bytes(b"")
    with pytest.raises(LedgerError, match=rf"{ledger} is the ledger of images that these may be") as caught:
        require_first(own, data)
    assert caught.value.hint
    assert caught.value.exit_code == 2
    require_first(named, data)
    assert other_ledger(named, data) == (
        f"{tmp_path / 'site' / ledger} is the ledger of images that these may be: "
        "what it counts comes on top of this run's"
    )
    assert other_ledger(str(tmp_path / "site" / ledger), data) is None


@pytest.mark.parametrize(
    ("beside", "refused"),
    [
        ("named", True),  # whose it is nobody can tell
        ("same.csv", True),
        ("others.csv", False),
        ("others.parquet", False),
        ("damaged.csv", True),
    ],
)
def test_a_ledger_among_the_files_is_theirs_unless_it_is_named_after_others(
    beside: str, refused: bool, tmp_path: Path
) -> None:
    folder = _site(tmp_path) / "sick"
    _listed(folder / "same.csv", folder / "2.png")
    _listed(folder / "others.csv", folder / "3.png")
    (folder / "damaged.csv").write_bytes(b"path\n\xfc\n")
    (folder / "others.parquet").write_bytes(b"")
    data = str(_linked(tmp_path / "links", folder / "2.png"))
    (folder / f"{beside}.ledger").write_bytes(b"")
    if refused:
        with pytest.raises(LedgerError, match=rf"{beside}\.ledger is the ledger of images"):
            require_first(str(default_ledger(data)), data)
    else:
        require_first(str(default_ledger(data)), data)


def test_what_lies_beside_tables_of_a_folder_is_not_asked_for(tmp_path: Path) -> None:
    folder, tables = _site(tmp_path), tmp_path / "tables"
    tables.mkdir()
    (tables / "metadata.csv").write_text("file_name\n")
    (tables / "others.ledger").write_bytes(b"")
    (folder / "metadata.csv").symlink_to(tables / "metadata.csv")
    require_first(str(default_ledger(str(folder))), str(folder))


def test_a_manifest_that_is_not_there_or_damaged_is_no_fact(tmp_path: Path) -> None:
    named, manifest = str(tmp_path / "named.ledger"), tmp_path / "list.csv"
    assert other_ledger(named, str(manifest)) is None
    manifest.write_bytes(b"path\n\xfc\n")
    assert other_ledger(named, str(manifest)) is None
    with pytest.raises(DataError, match="not UTF-8"):
        require_first(str(default_ledger(str(manifest))), str(manifest))


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


def test_guarantee_nor_beside_the_account_of_what_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(study_text())
    study = load_study(tmp_path / "study.yaml")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "scans.parquet").write_bytes(b"")
    (tmp_path / "images.parquet").symlink_to(tmp_path / "real" / "scans.parquet")
    require_no_account(study)
    (tmp_path / "real" / "scans.parquet.ledger").write_bytes(b"")
    with pytest.raises(
        LedgerError, match=r"scans\.parquet\.ledger is the ledger of images that these may be"
    ):
        run_study(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plan_opens_neither_folder_nor_manifest_for_another_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: Any, **__: Any) -> Any:
        raise AssertionError("data.path was looked into")

    monkeypatch.setattr(ledger_place, "_others", opened)
    manifest = tmp_path / "list.csv"
    manifest.write_text("image,label\nimgs/0.png,a\n")
    named = str(tmp_path / "named.ledger")
    assert other_ledger(named, str(manifest), follow=False) is None
    (tmp_path / "list.csv.ledger").write_bytes(b"")
    assert "a ledger of their own" in str(other_ledger(named, str(manifest), follow=False))


@pytest.mark.parametrize("link", ["notes.txt", ".venv/scan.png", "metadata.csv"])
def test_links_that_no_training_reads_lead_to_no_ledger(link: str, tmp_path: Path) -> None:
    images, other = tmp_path / "scans", tmp_path / "other"
    (images / link).parent.mkdir(parents=True)
    other.mkdir()
    (other / "mnist.ledger").write_bytes(b"")
    (other / Path(link).name).write_bytes(b"")
    (images / link).symlink_to(other / Path(link).name)
    require_first(str(default_ledger(str(images))), str(images))
