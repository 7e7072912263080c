"""A base that learnt from the private images is refused before anything is reserved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dp_diffusers.errors import ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.recipe import Recipe
from dp_diffusers.run import learnt_apart, running
from dp_diffusers.run.folder import RUN, RunFolder
from dp_diffusers.run.learnt_apart import require_learnt_apart
from teacher_support import KilledError, killed


def record(folder: Path, *sources: Any) -> Path:
    """A folder of `pretrain` that learnt from these."""
    folder.mkdir(exist_ok=True)
    (folder / "pretraining.json").write_text(json.dumps({"recipe": {"data": list(sources)}}))
    return folder


def test_guarantee_a_base_that_learnt_from_the_private_images_is_refused(
    tiny_recipe: Path, tiny_base_folder: Path, tmp_path: Path
) -> None:
    recipe = Recipe.load(tiny_recipe)
    record(
        tiny_base_folder,
        {"source": "drawn_digits", "count": 9},
        {"source": "files", "path": recipe.data.path},
    )
    with pytest.raises(
        ParameterError, match=r"base: .* learnt from .*, which is where the private images are"
    ):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not Path(recipe.budget.ledger or "").exists()


@pytest.mark.parametrize(
    ("path", "meets"), [("a/x.parquet", True), ("a", True), ("b", False), ("hf://a/x", False)]
)
def test_a_folder_stands_for_all_below_it(tmp_path: Path, path: str, meets: bool) -> None:
    (tmp_path / "a").mkdir()
    place = path if path.startswith("hf:") else str(tmp_path / path)
    features = record(tmp_path / "features", {"source": "files", "path": place})
    (features / "features.safetensors").touch()
    private = str(tmp_path / "a" / "x.parquet")
    settings = {
        "base": "somebody/model",
        "teacher": {"features": str(features / "features.safetensors") if meets else str(features)},
    }
    if meets:
        with pytest.raises(ParameterError, match=r"teacher.features: .* learnt from"):
            require_learnt_apart(settings, private)
    else:
        require_learnt_apart(settings, private)


def test_a_run_that_has_begun_may_end(tiny_recipe: Path, tiny_base_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny_recipe)
    run = RunFolder(tmp_path / "run")
    run.create()
    run.write(RUN, {})
    record(tiny_base_folder, {"source": "files", "path": recipe.data.path})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_prepared", killed)
        with pytest.raises(KilledError):
            train(recipe, run.root)


def test_what_cannot_be_read_any_more_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(learnt_apart, "require_apart", unreadable)
    base = record(tmp_path / "base", {"source": "files", "path": "/elsewhere"}, {"path": "relative"})
    require_learnt_apart({"base": str(base)}, str(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", '{"recipe": 3}', '{"recipe": {"data": [3]}}'])
def test_a_record_that_is_none_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "pretraining.json").write_text(text)
    require_learnt_apart({"base": str(tmp_path), "teacher": None}, str(tmp_path))


def test_arrays_have_no_place() -> None:
    require_learnt_apart({"base": "somebody/model"}, None)
