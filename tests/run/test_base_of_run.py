"""A run goes on with the base that it began with, byte for byte, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from dp_diffusers.errors import RunFolderError
from dp_diffusers.finetuning import train
from dp_diffusers.recipe import Recipe
from dp_diffusers.run.base_of_run import noted, require_base_of_run
from dp_diffusers.run.folder import RUN, RunFolder
from loop_support import charges, cheap_trainings, small_budget

WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


def halve(base: Path) -> None:
    """Makes another model of a base folder."""
    file = base / WEIGHTS
    save_file({name: value / 2 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})


def stop(**facts: Any) -> None:
    if facts.get("step") == 1:
        raise KeyboardInterrupt


def stopped(recipe: Recipe, out: Path) -> Path:
    """A run that stops after its first step; what it knows of itself."""
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out, stop)
    return out / "private" / "run.json"


def test_only_the_base_that_was_noted_goes_on(tmp_path: Path) -> None:
    def job(sha256: str) -> Any:
        base = SimpleNamespace(sha256=sha256, source="public", identity="public")
        return SimpleNamespace(base=base, plan=SimpleNamespace(not_private=False))

    folder = RunFolder(tmp_path)
    folder.create()
    require_base_of_run(job("b"), folder)
    folder.write(RUN, noted(job("a")))
    require_base_of_run(job("a"), folder)
    with pytest.raises(RunFolderError, match="began on another base model than public is now"):
        require_base_of_run(job("b"), folder)


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["dpsgd", "none"])
def test_a_stopped_run_is_refused_on_a_changed_base(
    mechanism: str,
    tiny_recipe: Path,
    tiny_base_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cheap_trainings(monkeypatch.setattr)
    small_budget(tiny_recipe)
    recipe = Recipe.load(tiny_recipe, [f"mechanism.name={mechanism}"])
    stopped(recipe, tmp_path / "run")
    original = (tiny_base_folder / WEIGHTS).read_bytes()
    halve(tiny_base_folder)
    with pytest.raises(
        RunFolderError, match=rf"began on another base model than {tiny_base_folder} is"
    ) as refused:
        train(recipe, tmp_path / "run")
    assert refused.value.exit_code == 2
    if mechanism == "dpsgd":
        assert len(charges(tmp_path / "tiny.ledger")) == 1, "a refusal costs nothing"
    (tiny_base_folder / WEIGHTS).write_bytes(original)
    assert train(recipe, tmp_path / "run").path.exists()


@pytest.mark.slow
def test_a_run_that_noted_no_base_goes_on_and_notes_it(
    tiny_recipe: Path, tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As runs of 0.1.0 before it was noted."""
    cheap_trainings(monkeypatch.setattr)
    small_budget(tiny_recipe)
    recipe = Recipe.load(tiny_recipe)
    file = stopped(recipe, tmp_path / "run")
    known = json.loads(file.read_text())
    del known["base_sha256"]
    file.write_text(json.dumps(known))
    release = train(recipe, tmp_path / "run")
    assert json.loads(file.read_text())["base_sha256"] == release.certificate.base_model["sha256"]
