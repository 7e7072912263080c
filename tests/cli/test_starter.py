"""`init`: what is answered on the command line is in the recipe, and names of the Hub stay as they are."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dp_diffusers.cli.main import main
from dp_diffusers.recipe import Recipe


def started(folder: Path, *words: str) -> Recipe:
    """The recipe that `init` writes."""
    assert main(["init", *words, "--population", "35", "--out", str(folder / "new.yaml")]) == 0
    return Recipe.load(folder / "new.yaml")


def test_a_name_of_the_hub_is_written_as_it_is_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    recipe = started(tmp_path, "hf://clinic/xrays:train")
    assert (recipe.data.path, recipe.data.label) == ("hf://clinic/xrays:train", "label")
    assert recipe.budget.ledger == str(tmp_path / "xrays.ledger")


def test_the_recipe_of_a_name_of_the_hub_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "hf://clinic/xrays", "--population", "35"]) == 0
    assert (tmp_path / "recipe.yaml").is_file()


def test_label_unit_and_classes_are_in_the_recipe(tmp_path: Path) -> None:
    words = ("--label", "finding", "--unit", "patient", "--classes", f"well, ill,{'x' * 90},0")
    recipe = started(tmp_path, "hf://clinic/xrays", *words)
    assert (recipe.data.label, recipe.budget.unit) == ("finding", "patient")
    assert recipe.data.classes == ["well", "ill", "x" * 90, "0"]


def test_an_answer_goes_before_what_the_images_say(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "1.dcm").write_bytes(b"never opened")
    recipe = started(tmp_path, str(tmp_path / "films"), "--label", "Modality", "--unit", "StudyInstanceUID")
    assert (recipe.data.label, recipe.budget.unit) == ("Modality", "StudyInstanceUID")


def test_null_is_no_labels(tmp_path: Path) -> None:
    assert started(tmp_path, "hf://clinic/xrays", "--label", "null").data.label is None


def keys_of(model: type[BaseModel]) -> set[str]:
    return {name for field in model.model_fields for name in (field, *keys_in(model.model_fields[field]))}


def keys_in(field: FieldInfo) -> Iterable[str]:
    kind = field.annotation
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else ()


def test_it_lists_what_one_decides_and_with_all_every_key(tmp_path: Path) -> None:
    short = started(tmp_path, "hf://clinic/xrays")
    text = (tmp_path / "new.yaml").read_text()
    (tmp_path / "new.yaml").unlink()
    assert started(tmp_path, "hf://clinic/xrays", "--all") == short, "the other keys have their defaults"
    every = (tmp_path / "new.yaml").read_text()
    listed = {match[1] for match in re.finditer(r"^ *(?:# )?([a-z_]+):", every, re.M)}
    assert keys_of(Recipe) - listed == set()
    assert len(text.splitlines()) < 40 < len(every.splitlines())
    assert {"  # cap", "  epsilon", "# teacher"} <= {line.partition(":")[0] for line in text.splitlines()}
    assert "init --all" in text
    assert "init --all" not in every


def test_what_images_can_be_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    assert main(["init", "--help"]) == 0
    assert "  Folder, parquet, CSV, or hf://owner/name; not opened.\n" in capsys.readouterr().out


def test_a_population_that_is_not_known_yet_is_a_blank_that_plan_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "films").mkdir()
    path = tmp_path / "recipe.yaml"
    assert main(["init", str(tmp_path / "films")]) == 0
    assert f"fill in mechanism.population in {path}" in capsys.readouterr().err
    lines = path.read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if re.match(r"  population: +#", line))
    assert not any("expected_units:" in line for line in lines)
    assert main(["init", str(tmp_path / "films"), "--all", "--out", str(tmp_path / "all.yaml")]) == 0
    assert re.search(r"(?m)^  # expected_units: +# mean number", (tmp_path / "all.yaml").read_text())
    assert main(["plan", str(path)]) == 2
    said = capsys.readouterr().err
    assert (
        f"error: recipe.yaml:{number}: expected mechanism.population to be a whole number, got null" in said
    )
    lines[number - 1] = "  population: 35"
    path.write_text("\n".join(lines) + "\n")
    assert Recipe.load(path).mechanism.expected_units == 3


def test_a_base_that_is_here_is_found_from_the_recipe_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "public").mkdir(parents=True)
    (tmp_path / "models" / "link").symlink_to(tmp_path / "models" / "public")
    (tmp_path / "study" / "own").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for number, (asked, written) in enumerate(
        {
            "models/link": str(tmp_path / "models" / "link"),  # by its own name, as it was called
            "study/own": "own",
            "study/../models/public": str(tmp_path / "models" / "public"),
            "google/ddpm-cifar10-32": "google/ddpm-cifar10-32",
            "runs/none-yet": "runs/none-yet",
        }.items()
    ):
        path = tmp_path / "study" / f"{number}.yaml"
        words = ("init", "hf://clinic/xrays", "--population", "35", "--base", asked, "--out", str(path))
        assert main([*words]) == 0
        assert yaml.safe_load(path.read_text())["base"] == written


def test_the_next_command_can_be_typed_where_a_folder_has_blanks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "our x-rays" / "recipe.yaml"
    path.parent.mkdir()
    assert main(["init", "hf://clinic/xrays", "--population", "35", "--out", str(path)]) == 0
    assert f"next: dp-diffusers plan '{path}'\n" in capsys.readouterr().err
    assert main(["pretrain", str(path), "--out", str(tmp_path / "model")]) == 2
    assert f"`dp-diffusers train '{path}' --out DIR` runs it" in capsys.readouterr().err


def test_it_writes_one_noise_draw_and_the_default_of_all_else(tmp_path: Path) -> None:
    recipe = started(tmp_path, "hf://clinic/xrays")
    assert recipe.training.noise_draws == 1
    default = type(recipe.training)()
    assert recipe.training.model_copy(update={"noise_draws": default.noise_draws}) == default
    assert recipe.strategy == type(recipe.strategy)()
    assert (recipe.mechanism.clip_norm, recipe.mechanism.steps) == (1.0, 200)
