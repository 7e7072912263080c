"""`benchmarks/table.py`: what it asks for, that it asks once, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import PretrainRecipe, Recipe
from dp_diffusers.recipe.sections import TeacherSettings

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import label_public
import table as tables
import table_commands
from table_rows import Made, Table

TABLES = sorted((Path(__file__).parents[2] / "benchmarks" / "tables").glob("*.yaml"))
ONE = {"name": "one", "recipe": "mnist-eps1.yaml"}


class Program:
    """Stands for the commands: notes each one, and answers."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.accuracy = 92.0
        self.fails_at: str | None = None

    def __call__(self, argv: Sequence[str]) -> tuple[int, str]:
        asked = list(argv[3:]) if argv[1] == "-m" else [Path(argv[1]).name, *argv[2:]]
        self.asked.append(asked)
        if "--out" in asked:
            made = Path(asked[asked.index("--out") + 1])
            assert asked[0] in ("train", "pretrain") or not made.exists(), "it is there already"
            made.mkdir(parents=True, exist_ok=True)
        if asked[0] == self.fails_at:
            return 3, ""
        return 0, json.dumps(self._answer(asked[0]))

    def _answer(self, verb: str) -> Mapping[str, Any]:
        if verb == "train":
            return {"epsilon": 0.99, "delta": 1e-5, "release": "release"}
        if verb == "ledger":
            return {"spent_epsilon": 1.5, "delta": 1e-5}
        if verb != "evaluate":
            return {}
        self.accuracy += 1.0
        score = {"mean": self.accuracy, "low": self.accuracy - 1, "high": self.accuracy + 1}
        rows = [
            {"trained_on": "synthetic", "images": 10, "fid": 7.5},
            {"trained_on": "public model, ε = 0", "images": 10, "fid": None},
        ]
        nothing = dict.fromkeys(("public", "with_public", "real"))
        public = {"public_model": {"mean": 60.0, "low": 59.0, "high": 61.0}}
        return {"accuracy": score, **public, **nothing, "rows": rows, "features": "some", "seeds": 3}

    def verbs(self) -> list[str]:
        return [asked[0] for asked in self.asked]


def maker(tmp_path: Path, *rows: Mapping[str, Any], **more: Any) -> tables.Maker:
    path = tmp_path / "table.yaml"
    bases = {"public-digits": "public-digits.yaml"}
    whole = {"title": "t", "dataset": "d", "test": "test.parquet", "bases": bases, **more}
    path.write_text(yaml.safe_dump({**whole, "rows": [dict(row) for row in rows]}))
    return tables.Maker(Table.read(path), tmp_path / "data", tmp_path / "out")


def recipe_of(tmp_path: Path, name: str) -> Any:
    return yaml.safe_load((tmp_path / "out" / "recipes" / f"{name}.yaml").read_text())


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    found = Program()
    monkeypatch.setattr(table_commands, "_waited_for", found)
    return found


def test_what_is_done_is_not_done_again(tmp_path: Path, program: Program) -> None:
    made = maker(tmp_path, ONE)
    first = made.row(made.table.rows[0])
    assert program.verbs() == ["train", "generate", "evaluate"]
    assert made.is_done(made.table.rows[0])
    again = maker(tmp_path, ONE)
    assert again.row(again.table.rows[0]) == first
    assert len(program.asked) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"change": {"strategy.rank": 99}},
        {"generate": {"images": 5}},
        {"evaluate": {"passes": 5}},
    ],
)
def test_what_was_made_otherwise_is_refused(
    tmp_path: Path, program: Program, capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    made = maker(tmp_path, ONE)
    made.row(made.table.rows[0])
    before = recipe_of(tmp_path, "one-0")
    changed = maker(tmp_path, {**ONE, **other})
    with pytest.raises(SystemExit) as stopped:
        changed.row(changed.table.rows[0])
    assert stopped.value.code == 2
    assert "was made otherwise" in capsys.readouterr().out
    assert recipe_of(tmp_path, "one-0") == before
    assert len(program.asked) == 3


def test_a_base_made_anew_makes_its_rows_otherwise(tmp_path: Path, program: Program) -> None:
    made = maker(tmp_path, ONE)
    made.bases()
    made.row(made.table.rows[0])
    made.bases()
    made.row(made.table.rows[0])
    done = tmp_path / "out/bases/public-digits.json"
    done.write_text(json.dumps({**json.loads(done.read_text()), "answer": {"other": 1}}))
    made.bases()
    with pytest.raises(SystemExit):
        made.row(made.table.rows[0])


def test_a_command_that_fails_is_asked_again_and_its_seconds_are_added(
    tmp_path: Path, program: Program
) -> None:
    made = maker(tmp_path, ONE)
    program.fails_at = "generate"
    with pytest.raises(SystemExit) as stopped:
        made.row(made.table.rows[0])
    assert stopped.value.code == 3
    times = tmp_path / "out/done/one/0/generate.seconds"
    times.write_text("1000\n")
    program.fails_at = None
    row = made.row(made.table.rows[0])
    assert program.verbs() == ["train", "generate", "generate", "evaluate"]
    assert row.runs[0]["commands"]["generate"]["seconds"] >= 1000
    assert not times.exists(), "the same again would count twice"


@pytest.mark.parametrize(
    "other",
    [
        {"generate": {"teacher": "off", "images": 7}},
        {"label": {"images": "more.parquet", "per_class": 7}},
        {"moments": {"images": 7}},
    ],
)
def test_images_of_another_row_lie_beside_its_release(
    tmp_path: Path, program: Program, other: dict[str, Any]
) -> None:
    made = maker(tmp_path, ONE, {"name": "two", "of": "one", **other})
    for row in made.table.rows:
        made.row(row)
    run, kept = str(tmp_path / "out/runs/one/0"), str(tmp_path / "out/done/two/0/images")
    asked, scored = program.asked[3:]
    if "label" in other:
        public = str(tmp_path / "data/more.parquet")
        assert asked == ["label_public.py", run, public, "--per-class", "7", "--out", kept]
    elif "moments" in other:
        assert asked == ["draw_moments.py", run, "--images", "7", "--out", kept]
    else:
        assert asked == ["generate", run, "--out", kept, "--images", "7", "--teacher", "off", "--json"]
    assert scored[:2] == ["evaluate", kept]


def test_public_images_with_labels_need_no_images_of_their_own_run(tmp_path: Path, program: Program) -> None:
    made = maker(tmp_path, {**ONE, "label": {"images": "more.parquet"}})
    made.row(made.table.rows[0])
    run, kept = str(tmp_path / "out/runs/one/0"), str(tmp_path / "out/done/one/0/images")
    assert program.verbs() == ["train", "label_public.py", "evaluate"]
    assert program.asked[1] == ["label_public.py", run, str(tmp_path / "data/more.parquet"), "--out", kept]
    assert program.asked[2][:2] == ["evaluate", kept]


def test_images_whose_answer_was_not_kept_are_made_again(tmp_path: Path, program: Program) -> None:
    """Killed between the end of the command and the file that says so: `generate` refuses a folder."""
    made = maker(tmp_path, ONE, {"name": "two", "of": "one"})
    program.fails_at = "evaluate"
    for row in made.table.rows:
        with pytest.raises(SystemExit):
            made.row(row)
    (tmp_path / "out/done/two/0/generate.json").unlink()
    program.fails_at = None
    made.row(made.table.rows[1])
    assert program.verbs().count("generate") == 3


def test_a_row_after_another_starts_from_its_merged_model_in_one_ledger(
    tmp_path: Path, program: Program
) -> None:
    made = maker(tmp_path, ONE, {"name": "two", "recipe": "mnist-votes.yaml", "after": "one"})
    line = made.row(made.table.rows[1]).lines()[0]
    assert program.verbs() == ["train", "merge", "train", "ledger", "generate", "evaluate"]
    first, second = recipe_of(tmp_path, "one-0"), recipe_of(tmp_path, "two-0")
    assert second["base"] == program.asked[1][-2] == str(tmp_path / "out/merged/one/0")
    assert second["budget"]["ledger"] == first["budget"]["ledger"]
    assert "training" not in second, "votes train nothing"
    assert (line["strategy"], line["variant"], line["epsilon"]) == ("mnist-votes", "two", 1.5), (
        "what both have cost together"
    )
    made.row(made.table.rows[0])
    assert program.verbs()[6:] == ["generate", "evaluate"]


def test_repeats_have_seeds_ledgers_and_an_interval_of_their_own(tmp_path: Path, program: Program) -> None:
    made = maker(tmp_path, {**ONE, "repeats": 2, "change": {"training": {"learning_rate": 0.1}}})
    line, *_, distance = made.row(made.table.rows[0]).lines()
    recipes = [recipe_of(tmp_path, f"one-{repeat}") for repeat in (0, 1)]
    assert [recipe["training"] for recipe in recipes] == [{"learning_rate": 0.1, "seed": k} for k in (0, 1)]
    assert [recipe["generation"]["seed"] for recipe in recipes] == [0, 1]
    assert len({recipe["budget"]["ledger"] for recipe in recipes}) == 2
    assert (line["seeds"], line["trainings"], line["mean"]) == (2, 2, 93.5)
    assert line["low"] < 93 < 94 < line["high"]  # Student's, of 93 and 94
    assert (distance["seeds"], distance["mean"], distance["low"]) == (2, 7.5, 7.5)


def test_images_that_no_training_changes_have_the_interval_of_their_classifiers() -> None:
    score = {"mean": 60.0, "low": 59.0, "high": 61.0}
    scores = dict.fromkeys(("accuracy", "public", "public_model", "with_public", "real"), score)
    run = {
        "train": {"epsilon": 1.0, "delta": 1e-5},
        "scores": {**scores, "rows": [], "features": None, "seeds": 3},
    }
    lines = Made(dataset="x", name="one", recipe="one", runs=[run, run]).lines()
    found = {
        (line["strategy"], line["metric"]): (line["low"], line["seeds"], line["trainings"]) for line in lines
    }
    assert found == {
        ("one", "accuracy"): (60.0, 2, 2),
        ("one", "accuracy with the public images"): (60.0, 2, 2),
        ("public", "accuracy of the public model's images"): (60.0, 2, 2),
        ("public", "accuracy"): (59.0, 3, 1),
        ("real", "accuracy"): (59.0, 3, 1),
    }


def test_figures_are_lines_of_the_results_format(tmp_path: Path, program: Program) -> None:
    made = maker(tmp_path, ONE)
    lines = made.row(made.table.rows[0]).lines()
    about = [(line["strategy"], line["epsilon"], line["metric"], line["mean"]) for line in lines]
    assert about == [
        ("mnist-eps1", 0.99, "accuracy", 93.0),
        ("public", 0, "accuracy of the public model's images", 60.0),
        ("mnist-eps1", 0.99, "fid (some, 10 images)", 7.5),
    ]
    fields = {"dataset", "epsilon", "delta", "strategy", "metric", "mean", "low", "high", "seeds"}
    assert [line.get("variant") for line in lines] == ["one", None, "one"]
    assert all(set(line) - {"variant"} == fields | {"trainings", "beside"} for line in lines)


def test_a_recipe_has_the_paths_of_this_machine_and_the_changes(tmp_path: Path, program: Program) -> None:
    change = {"mechanism": {"name": "none", "steps": 3}, "strategy.rank": 3, "teacher": None}
    made = maker(tmp_path, {**ONE, "change": change})
    made.row(made.table.rows[0])
    recipe = recipe_of(tmp_path, "one-0")
    assert recipe["base"] == str(tmp_path / "out/bases/public-digits")
    assert recipe["data"]["path"] == str(tmp_path / "data/mnist-train.parquet")
    assert recipe["mechanism"] == {"name": "none", "steps": 3}
    assert recipe["strategy"]["rank"] == 3
    assert "teacher" not in recipe


def test_the_document_has_all_rows_that_are_done_and_no_path_of_this_machine(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker(tmp_path, ONE, {"name": "two", "of": "one"})
    asked = ["table.py", str(tmp_path / "table.yaml"), "--data", str(tmp_path / "data")]
    for only in ("one", "two"):
        monkeypatch.setattr(sys, "argv", [*asked, "--out", str(tmp_path / "out"), "--only", only])
        tables.main()
    text = (tmp_path / "out/table.json").read_text()
    found = json.loads(text)
    assert {"commit", "command", "machine", "rows", "bases", "runs"} <= set(found)
    assert list(found["runs"]) == ["one", "two"]
    assert [line["strategy"] for line in found["rows"]].count("public") == 1, "the same images, told once"
    assert str(tmp_path) not in text
    monkeypatch.setattr(sys, "argv", [*asked, "--out", str(tmp_path / "out"), "--only", "three"])
    with pytest.raises(SystemExit) as stopped:
        tables.main()
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    "row",
    [
        {"name": "a"},
        {"name": "a", "of": "b"},
        {"name": "a", "of": "a", "recipe": "r"},
        {"name": "a", "recipe": "r", "moments": {"images": 7}},
        {"name": "a", "of": "b", "repeats": 2},
        {"name": "a", "of": "b", "generate": {"images": 7}, "label": {"images": "x"}},
        {"name": "a", "recipe": "r", "after": "b"},
    ],
)
def test_a_row_that_cannot_be_made_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match="row a"):
        maker(tmp_path, row)


def test_options_are_those_of_the_command_line() -> None:
    asked = {"with_public": True, "real": None, "fidelity": False, "teacher": "off", "images": 7}
    assert tables.options(asked) == ["--with-public", "--teacher", "off", "--images", "7"]


@pytest.mark.slow
def test_a_command_that_is_told_to_stop_ends_in_its_own_time(tmp_path: Path) -> None:
    """SIGTERM goes on to the command, which has the time to save; its seconds are kept."""
    child = (
        "import signal, sys, time; from pathlib import Path\n"
        "def stop(*_): time.sleep(0.5); Path('saved').touch(); sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, stop); Path('began').touch(); time.sleep(60)"
    )
    parent = (
        "import sys; from pathlib import Path; import table_commands as t\n"
        f"t.Command.argv = lambda self: [sys.executable, '-c', {child!r}]\n"
        "t.Commands([]).run(Path('done.json'), t.Command(verb='train', arguments=[], made_of={}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(tables.__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path, env=environment) as running:
        until = time.monotonic() + 60
        while not (tmp_path / "began").exists() and time.monotonic() < until:
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == table_commands.TERMINATED
    assert (tmp_path / "saved").exists()
    assert float((tmp_path / "done.seconds").read_text()) > 0.4
    assert not (tmp_path / "done.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_of_this_repository_has_recipes_that_can_be_planned(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TeacherSettings, "require_there", lambda self: None)  # features are not made here
    table = Table.read(path)
    made = tables.Maker(table, tmp_path / "data", tmp_path / "out")
    for name in table.bases.values():
        assert PretrainRecipe.load(tables.RECIPES / name)
    for row in table.rows:
        if row.recipe is not None:
            keys = made._recipe_of(row, 0)
            keys["data"].setdefault("classes", [f"{place}" for place in range(10)])  # the base's
            (tmp_path / "one.yaml").write_text(yaml.safe_dump(keys))
            assert Recipe.load(tmp_path / "one.yaml").plan()
    assert len({row.name for row in table.rows}) == len(table.rows)


@pytest.mark.parametrize(
    "path", [path for path in TABLES if "after:" in path.read_text()], ids=lambda path: path.stem
)
def test_rows_that_follow_each_other_fit_one_ledger(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TeacherSettings, "require_there", lambda self: None)
    table = Table.read(path)
    made = tables.Maker(table, tmp_path / "data", tmp_path / "out")
    for second in table.rows:
        first = table.first(second)
        if first is None:
            continue
        with Ledger.open(":memory:") as ledger:
            for row in (first, second):
                (tmp_path / "one.yaml").write_text(yaml.safe_dump(made._recipe_of(row, 0)))
                ledger.reserve(Recipe.load(tmp_path / "one.yaml").plan())
            assert ledger.spent().epsilon > 0.95 * 10, "most of the budget is used"


def test_of_each_class_the_clearest_public_images_are_kept() -> None:
    answers = np.array([[0.9, 0.1], [0.6, 0.5], [0.8, 0.1], [0.2, 0.3], [0.0, 0.0]])
    assert label_public.chosen(answers, 2).tolist() == [0, 2, 3]
    assert label_public.chosen(answers, 9).tolist() == [0, 1, 2, 3], "the last has no class"


def test_by_counts_in_clusters_public_images_are_kept_as_the_units_are_spread() -> None:
    clusters, pixels = np.arange(300) // 100, np.arange(300, dtype=np.uint8).reshape(300, 1, 1, 1)
    labels, units = np.array([0, 1, -1]), np.array([30.0, 10.0, 0.0])
    teacher: Any = SimpleNamespace(
        classes=SimpleNamespace(labels=(4, 7)),
        judged=lambda images: (labels[clusters], (units / 100)[clusters]),
        rarity=lambda shares: shares / np.array([0.75, 0.25]),
    )
    kept, given = label_public.spread(teacher, pixels, 20)
    assert (np.diff(kept) > 0).all()
    assert (given == labels[clusters[kept]]).all()
    assert np.bincount(given, minlength=2).tolist() == [20, 20], "classes as asked, though units differ"
