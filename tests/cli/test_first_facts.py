"""What `train` says under --quiet as well: another ledger of the same images, and a run without privacy."""

from __future__ import annotations

from pathlib import Path

import pytest

from dp_diffusers import finetuning
from dp_diffusers.cli.first_facts import first_facts
from dp_diffusers.cli.main import main
from dp_diffusers.errors import InputError
from dp_diffusers.recipe import Recipe
from dp_diffusers.run.folder import RUN, RunFolder
from dp_diffusers.run.ledger_place import default_ledger


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked here is said before the training begins."""

    def stop(*_: object) -> None:
        raise InputError("a training would begin")

    monkeypatch.setattr(finetuning, "train", stop)


@pytest.mark.slow
@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_a_run_in_another_ledger_says_so_once(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: tuple[str, ...]
) -> None:
    own = Path(str(default_ledger(Recipe.load(tiny_recipe).data.path)))
    own.write_bytes(b"")
    assert main(["plan", str(tiny_recipe)]) == 0
    assert f"note: these images have a ledger of their own, {own}: what it counts" in capsys.readouterr().err
    command = ["train", str(tiny_recipe), "--out", str(tmp_path / "run"), *quiet]
    main(command)
    assert capsys.readouterr().err.count(f"these images have a ledger of their own, {own}: ") == 1
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write(RUN, {"run_id": "1"})
    main(command)
    assert str(own) not in capsys.readouterr().err, "it was said when the run began"


def test_a_run_without_privacy_says_so_under_quiet(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(tiny_recipe), "--set", "mechanism.name=none", "--out", str(tmp_path / "run")]
    main([*words, "-q"])
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [
        "NOT PRIVATE: mechanism.name is none, so that what this run makes may show its images",
        "error: a training would begin",
    ]
    recipe = Recipe.load(tiny_recipe, ["mechanism.name=none"])
    assert list(first_facts(recipe, tmp_path / "run", quiet=False)) == [], "the plan that is shown says it"
