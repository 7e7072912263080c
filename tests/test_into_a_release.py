"""Images that someone asks to have written into a release, whose certificate lists what is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import dp_diffusers as dpd
from dp_diffusers import release as release_module
from dp_diffusers.errors import ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.generating import generate
from dp_diffusers.merging import merge
from dp_diffusers.recipe import Recipe
from dp_diffusers.whole_files import write_text


@pytest.fixture
def run(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(release_module, "verify_in_a_fresh_process", lambda _: None)
    train(Recipe.load(tiny_recipe, ["mechanism.name=none", "mechanism.steps=1"]), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "spelt", [lambda run: run / "release" / "images", lambda run: run / "x" / ".." / "release" / "images"]
)
def test_the_place_they_have_anyway_may_be_named(run: Path, spelt: Callable[[Path], Path]) -> None:
    generate(run, images=3, out=spelt(run))
    assert "images/README.md" in dpd.Certificate.read(run / "release").files
    assert generate(run, images=3) == run / "release" / "images"
    assert not dpd.Certificate.verify(run / "release").problems


@pytest.mark.parametrize("below", ["", "more", "images/more", "adapter"])
def test_guarantee_nothing_is_written_there_unlisted(run: Path, below: str) -> None:
    before = sorted(path for path in (run / "release").rglob("*"))
    with pytest.raises(
        ParameterError, match="lies in the release, whose certificate would not list"
    ) as refused:
        generate(run, images=3, out=run / "release" / below)
    assert "leave --out out" in str(refused.value.hint)
    assert sorted(path for path in (run / "release").rglob("*")) == before


def test_beside_it_is_as_good_as_anywhere(run: Path) -> None:
    write_text(run / "note", "someone's")
    assert generate(run, images=3, out=run / "more") == run / "more"
    assert not dpd.Certificate.verify(run / "release").problems


def test_what_is_released_others_may_read(run: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in (run / "release").rglob("*") if path.is_file()}
    assert len(modes) == 1


@pytest.mark.parametrize("below", ["more", "images/more"])
def test_guarantee_nothing_is_written_into_the_release_of_another_run(
    run: Path, tmp_path: Path, below: str
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other")) / "release"
    for writes in (partial(generate, images=3), merge):
        with pytest.raises(ParameterError, match="lies in a release, whose certificate would not list"):
            writes(run, out=other / below)
    assert not dpd.Certificate.verify(other).problems
