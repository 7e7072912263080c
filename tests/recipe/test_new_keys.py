"""Work that an earlier version began, before a key of the recipe was there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dp_diffusers.errors import ModelError, RunFolderError
from dp_diffusers.recipe import Recipe
from dp_diffusers.run.earlier_recipe import require_same_recipe
from dp_diffusers.run.folder import RunFolder
from teacher_support import unopened_recipe

GONE = (("teacher", "drawn_by"), ("teacher", "clusters"), ("training", "augmentations"), ("budget", "cap"))


def begun(folder: Path, without: tuple[tuple[str, str], ...]) -> tuple[RunFolder, dict[str, Any]]:
    """A run folder whose recipe lacks some keys, and the recipe as it is written today."""
    recipe = Recipe.load(unopened_recipe(folder), ["teacher={}", "data.classes=[a, b]"])
    settings = recipe.model_dump(mode="json")
    older = recipe.model_dump(mode="json")
    for section, key in without:
        older[section].pop(key)
    run = RunFolder(folder / "run")
    run.root.mkdir()
    run.recipe.write_text(yaml.safe_dump(older))
    return run, settings


def test_a_key_that_came_later_has_its_default(tmp_path: Path) -> None:
    run, settings = begun(tmp_path, GONE)
    require_same_recipe(run, settings)
    settings["teacher"]["drawn_by"] = "trained"
    with pytest.raises(RunFolderError, match=r"another recipe: teacher\.drawn_by differs"):
        require_same_recipe(run, settings)


@pytest.mark.parametrize("strategy", [None, {"name": "lora", "rank": 4}])
def test_what_a_call_in_python_wrote_is_compared_as_well(tmp_path: Path, strategy: Any) -> None:
    run, settings = begun(tmp_path, ())
    called = {"base": "b", "plan": {"fingerprint": "x"}, "strategy": strategy, "classes": ["a", "b"]}
    called |= {"teacher": settings["teacher"], "training": settings["training"], "warmup": None}
    teacher = {"features": settings["teacher"]["features"]}
    run.recipe.write_text(yaml.safe_dump({**called, "teacher": teacher}))
    require_same_recipe(run, called)
    with pytest.raises(RunFolderError, match=r"another recipe: plan\.fingerprint differs"):
        require_same_recipe(run, {**called, "plan": {"fingerprint": "y"}})


def test_only_where_it_runs_may_differ(tmp_path: Path) -> None:
    run, settings = begun(tmp_path, ())
    settings["runtime"]["rows_per_pass"] = 7
    require_same_recipe(run, settings)
    settings["generation"]["images"] += 1
    with pytest.raises(RunFolderError, match=r"another recipe: generation\.images differs") as caught:
        require_same_recipe(run, settings)
    assert "generate RUN --set" in str(caught.value.hint)
    settings["training"]["ema"] = 0.5
    with pytest.raises(RunFolderError, match=r"training\.ema, generation\.images differ") as caught:
        require_same_recipe(run, settings)
    assert "another --out" in str(caught.value.hint)
    settings["data"]["path"] = str(tmp_path / "elsewhere" / "x.parquet")
    with pytest.raises(RunFolderError, match=r"data\.path") as caught:
        require_same_recipe(run, settings)
    assert "where nothing is now" in str(caught.value.hint)


def test_a_run_that_knows_its_base_from_the_working_directory_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, settings = begun(tmp_path, ())
    (tmp_path / "here" / "runs" / "public").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    run.recipe.write_text(yaml.safe_dump({**settings, "base": "runs/public"}))
    settings["base"] = str(tmp_path / "here" / "runs" / "public")
    require_same_recipe(run, settings)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFolderError, match="another recipe: base differs"):
        require_same_recipe(run, settings)


def test_a_base_that_was_moved_is_missed_and_is_no_other_recipe(tmp_path: Path) -> None:
    run, settings = begun(tmp_path, ())
    base = tmp_path / "models" / "public"
    run.recipe.write_text(yaml.safe_dump({**settings, "base": str(base)}))
    written = {**settings, "base": "models/public"}  # a recipe that leads to no folder stays as it is written
    with pytest.raises(ModelError, match=f"base model {base} is not there") as caught:
        require_same_recipe(run, written)
    assert "put it back" in str(caught.value.hint)
    with pytest.raises(RunFolderError, match="another recipe: base differs") as found:
        require_same_recipe(run, {**settings, "base": "org/another"})
    assert f"knows its base model at {base}, where nothing is now" in str(found.value.hint)
    base.mkdir(parents=True)
    require_same_recipe(run, {**settings, "base": str(base)})
    with pytest.raises(RunFolderError, match="another recipe: base differs"):
        require_same_recipe(run, written)
