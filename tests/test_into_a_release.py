"""Images that someone asks to have written into a release, whose certificate lists what is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import dp_diffusers as dpd
from dp_diffusers import release as release_module
from dp_diffusers.errors import ParameterError, RunFolderError
from dp_diffusers.finetuning import train
from dp_diffusers.generating import generate
from dp_diffusers.merging import merge
from dp_diffusers.recipe import Recipe
from dp_diffusers.whole_files import write_text

_CHEAP = ("mechanism.name=none", "mechanism.steps=1")


@pytest.fixture
def run(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(release_module, "verify_in_a_fresh_process", lambda _: None)
    train(Recipe.load(tiny_recipe, [*_CHEAP]), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    "spelt", [lambda run: run / "release" / "images", lambda run: run / "x" / ".." / "release" / "images"]
)
def test_the_place_they_have_anyway_may_be_named(run: Path, spelt: Callable[[Path], Path]) -> None:
    generate(run, images=3, out=spelt(run))
    assert "images/README.md" in dpd.Certificate.read(run / "release").files
    assert generate(run, images=3) == run / "release" / "images"
    assert not dpd.Certificate.verify(run / "release").problems


@pytest.mark.slow
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


def test_guarantee_a_training_certifies_what_it_wrote_alone(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lay there before is refused before anything is paid, what came since before it is certified."""
    recipe, release = Recipe.load(tiny_recipe, [*_CHEAP]), tmp_path / "run" / "release"
    release.mkdir(parents=True)
    write_text(release / "notes.txt", "someone's")
    with pytest.raises(RunFolderError, match=r"holds what no training wrote: notes\.txt"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "private" / "run.json").exists()
    (release / "notes.txt").unlink()

    def meanwhile(_: Path) -> None:
        write_text(release / "adapter" / "more.txt", "someone's")

    with monkeypatch.context() as patched:
        patched.setattr(release_module, "_require_finite", meanwhile)
        with pytest.raises(RunFolderError, match=r"holds what no training wrote: adapter/more\.txt"):
            train(recipe, tmp_path / "run")
    assert not (release / "certificate.json").exists()


def test_a_release_is_the_same_from_another_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    release = dpd.Release.open("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert generate(release, images=3) == run / "release" / "images"
    assert not [*(tmp_path / "elsewhere").iterdir()]
    monkeypatch.chdir(run / "release")
    assert merge(".", tmp_path / "merged") == tmp_path / "merged"
