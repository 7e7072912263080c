"""`benchmarks/table.py`: what it asks for, that it asks once, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import label_public
import table as tables

TABLES = sorted((Path(__file__).parents[2] / "benchmarks" / "tables").glob("*.yaml"))


class Commands:
    """Stands in for the program: notes each command, and answers."""

    def __init__(self, accuracy: float = 90.0) -> None:
        self.asked: list[list[str]] = []
        self.accuracy = accuracy
        self.fails_at: str | None = None

    def __call__(self, program: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked = program[3:] if program[1] == "-m" else [Path(program[1]).name, *program[2:]]
        self.asked.append(asked)
        if asked[0] == self.fails_at:
            return subprocess.CompletedProcess(program, 3, stdout="")
        self.accuracy += 1.0
        score = {"mean": self.accuracy, "low": self.accuracy - 1, "high": self.accuracy + 1}
        rows = [
            {"trained_on": "synthetic", "images": 10, "fid": 7.5},
            {"trained_on": "public model, ε = 0", "images": 10, "fid": None},
        ]
        answer = {"train": {"epsilon": 0.99, "delta": 1e-5}, "generate": {}}.get(asked[0]) or {
            "accuracy": score,
            "public_model": {**score, "mean": 60.0},
            **dict.fromkeys(("public", "with_public", "real")),
            "rows": rows,
            "features": "some",
            "seeds": 3,
        }
        return subprocess.CompletedProcess(program, 0, stdout=json.dumps(answer))


def maker(tmp_path: Path, rows: list[dict[str, Any]]) -> tables.Maker:
    path = tmp_path / "table.yaml"
    bases = {"public-digits": "public-digits.yaml"}
    path.write_text(
        yaml.safe_dump({"title": "t", "dataset": "d", "test": "test.parquet", "bases": bases, "rows": rows})
    )
    (tmp_path / "out").mkdir()
    return tables.Maker(tables.Table.read(path), tmp_path / "data", tmp_path / "out")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    found = Commands()
    monkeypatch.setattr(tables.subprocess, "run", found)
    return found


def test_what_is_done_is_not_done_again(tmp_path: Path, commands: Commands) -> None:
    made = maker(tmp_path, [{"name": "one", "recipe": "mnist-eps1.yaml"}])
    first = made.row(made.table.rows[0])
    assert [asked[0] for asked in commands.asked] == ["train", "generate", "evaluate"]
    assert made.row(made.table.rows[0]) == first
    assert len(commands.asked) == 3


def test_a_command_that_fails_is_asked_again_and_its_seconds_are_added(
    tmp_path: Path, commands: Commands
) -> None:
    made = maker(tmp_path, [{"name": "one", "recipe": "mnist-eps1.yaml"}])
    commands.fails_at = "generate"
    with pytest.raises(SystemExit) as stopped:
        made.row(made.table.rows[0])
    assert stopped.value.code == 3
    commands.fails_at = None
    made.row(made.table.rows[0])
    assert [asked[0] for asked in commands.asked] == ["train", "generate", "generate", "evaluate"]
    assert len((tmp_path / "out/done/one/0/generate.seconds").read_text().split()) == 2


def test_images_of_another_row_lie_beside_its_release(tmp_path: Path, commands: Commands) -> None:
    rows = [
        {"name": "one", "recipe": "mnist-eps1.yaml"},
        {"name": "two", "of": "one", "generate": {"teacher": False, "images": 7}},
    ]
    made = maker(tmp_path, rows)
    for row in made.table.rows:
        made.row(row)
    assert [asked[0] for asked in commands.asked] == ["train", "generate", "evaluate", "generate", "evaluate"]
    generate = commands.asked[3]
    assert generate[1] == str(tmp_path / "out/runs/one/0")
    assert generate[2:4] == ["--out", str(tmp_path / "out/done/two/0/images")]
    assert generate[4:8] == ["--images", "7", "--teacher", "off"]


def test_public_images_that_a_teacher_labels_take_the_place_of_those_made(
    tmp_path: Path, commands: Commands
) -> None:
    rows = [
        {"name": "one", "recipe": "mnist-eps1.yaml"},
        {"name": "two", "of": "one", "label": {"images": "more.parquet", "per_class": 7}},
    ]
    made = maker(tmp_path, rows)
    made.row(made.table.rows[1])
    kept = str(tmp_path / "out/done/two/0/images")
    label = ["label_public.py", str(tmp_path / "out/runs/one/0"), str(tmp_path / "data/more.parquet")]
    assert commands.asked[1] == [*label, "--per-class", "7", "--out", kept]
    assert commands.asked[2][:2] == ["evaluate", kept]


def test_repeats_have_seeds_ledgers_and_an_interval_of_their_own(tmp_path: Path, commands: Commands) -> None:
    made = maker(tmp_path, [{"name": "one", "recipe": "mnist-eps1.yaml", "repeats": 2}])
    line = made.row(made.table.rows[0]).figures()[0]
    recipes = [yaml.safe_load((tmp_path / f"out/recipes/one-{repeat}.yaml").read_text()) for repeat in (0, 1)]
    assert [recipe["training"]["seed"] for recipe in recipes] == [0, 1]
    assert len({recipe["budget"]["ledger"] for recipe in recipes}) == 2
    assert (line["seeds"], line["trainings"], line["mean"]) == (2, 2, 94.5)
    assert line["low"] < 93 < 96 < line["high"]  # Student's, of 93 and 96


def test_figures_are_lines_of_the_results_format(tmp_path: Path, commands: Commands) -> None:
    made = maker(tmp_path, [{"name": "one", "recipe": "mnist-eps1.yaml"}])
    lines = made.row(made.table.rows[0]).figures()
    about = [(line["strategy"], line["epsilon"], line["metric"], line["mean"]) for line in lines]
    assert about == [
        ("one", 0.99, "accuracy", 93.0),
        ("public", 0, "accuracy of the public model's images", 60.0),
        ("one", 0.99, "fid (some, 10 images)", 7.5),
    ]
    fields = {
        "dataset",
        "epsilon",
        "delta",
        "strategy",
        "metric",
        "mean",
        "low",
        "high",
        "seeds",
        "trainings",
    }
    assert all(set(line) == fields for line in lines)


def test_a_recipe_has_the_paths_of_this_machine_and_the_changes(tmp_path: Path, commands: Commands) -> None:
    change = {"mechanism": {"name": "none", "steps": 3}, "strategy.rank": 3, "teacher": None}
    made = maker(tmp_path, [{"name": "one", "recipe": "mnist-eps1.yaml", "change": change}])
    made.row(made.table.rows[0])
    recipe = yaml.safe_load((tmp_path / "out/recipes/one-0.yaml").read_text())
    assert recipe["base"] == str(tmp_path / "out/bases/public-digits")
    assert recipe["data"]["path"] == str(tmp_path / "data/mnist-train.parquet")
    assert recipe["mechanism"] == {"name": "none", "steps": 3}
    assert recipe["strategy"]["rank"] == 3
    assert "teacher" not in recipe


def test_commands_are_kept_without_paths_of_this_machine(tmp_path: Path, commands: Commands) -> None:
    made = maker(tmp_path, [{"name": "one", "recipe": "mnist-eps1.yaml"}])
    assert str(tmp_path) not in json.dumps(made.row(made.table.rows[0]).runs)


@pytest.mark.parametrize(
    "row", [{"name": "a"}, {"name": "a", "of": "b"}, {"name": "a", "of": "a", "recipe": "r"}]
)
def test_a_row_without_a_run_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match="row a"):
        maker(tmp_path, [row])


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_of_this_repository_names_recipes_that_are_there(path: Path) -> None:
    table = tables.Table.read(path)
    named = [*table.bases.values(), *(row.recipe for row in table.rows if row.recipe is not None)]
    assert all((tables.RECIPES / name).is_file() for name in named)
    assert len({row.name for row in table.rows}) == len(table.rows)


def test_of_each_class_the_clearest_public_images_are_kept() -> None:
    answers = np.array([[0.9, 0.1], [0.6, 0.5], [0.8, 0.1], [0.2, 0.3], [0.0, 0.0]])
    assert label_public.chosen(answers, 2).tolist() == [0, 2, 3]
    assert label_public.chosen(answers, 9).tolist() == [0, 1, 2, 3, 4]
