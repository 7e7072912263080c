"""A study: every variant and seed is run once, whatever stops it, each with a ledger of its own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.errors import BudgetError, RecipeError, RunFolderError
from dp_diffusers.evaluation import classifier, reading
from dp_diffusers.loop.rows import RowTable
from dp_diffusers.recipe import Recipe
from dp_diffusers.recipe import study as study_recipe
from dp_diffusers.recipe.study import load_study
from dp_diffusers.studying import chart, pictures, planned, runs, study
from dp_diffusers.studying.contents import sha256_of_base, sha256_of_images
from dp_diffusers.studying.kept import Scoring, known
from dp_diffusers.studying.public_row import public_images
from dp_diffusers.studying.results import RunRecord, StudyResult
from dp_diffusers.studying.row_count import expected_rows_at_most, layer_queries
from loop_support import cheap_trainings


@pytest.fixture
def study_file(tiny_recipe: Path, tiny_images: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    names = [f"class {index}" for index in range(3)]  # the base's, which its images have as well
    write_images(*tiny_images, names, tmp_path / "held-out", format="parquet")
    cells = [{"name": "lora"}, {"name": "bias", "set": {"strategy": {"name": "bias"}}}]
    document = {
        "recipe": tiny_recipe.name,
        "cells": cells,
        "seeds": [0, 1],
        "evaluate": {"reference": str(tmp_path / "held-out"), "seeds": 2, "passes": 1},
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.slow
def test_a_stopped_study_goes_on_and_no_cell_is_done_twice(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap_trainings(monkeypatch.setattr)
    loaded, out, done = load_study(study_file), tmp_path / "study", []
    real = runs._done

    def stopping(run: planned.Run, *rest: object) -> object:
        if len(done) in (1, 3):
            done.append("stopped")
            raise KeyboardInterrupt
        record = real(run, *rest)  # type: ignore[arg-type]
        done.append((run.cell, run.seed))
        return record

    monkeypatch.setattr(runs, "_done", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            study(loaded, out)
    result = study(loaded, out)
    finished = [entry for entry in done if entry != "stopped"]
    assert sorted(set(finished)) == sorted(finished)
    assert {cell for cell, _ in finished} == {"public model", "lora", "bias"}
    assert len(result.records) == 6
    assert len(list(out.glob("cells/*/*.ledger"))) == 4
    assert (out / "results.csv").read_text().count("\n") == 7


def record(cell: str, seed: int, accuracy: float, epsilon: float | None = 5.0) -> RunRecord:
    facts = {"delta": 1e-5, "steps": 3, "expected_rows_at_most": 60, "trainable_parameters": 9, "images": 10}
    return RunRecord(cell=cell, seed=seed, epsilon=epsilon, accuracy=accuracy, seconds=1.0, **facts)


def test_a_table_has_means_with_intervals_and_says_whose_epsilon_it_shows(tmp_path: Path) -> None:
    records = (record("public model", 0, 80.0, 0.0), record("lora", 0, 90.0), record("lora", 1, 92.0))
    result = StudyResult(records=records, planned=4, features="cnn")
    public, lora = result.rows
    assert (public.mean, public.low, public.accuracies) == (80.0, None, (80.0,))
    assert (lora.mean, lora.accuracies) == (91.0, (90.0, 92.0))
    assert lora.low == pytest.approx(91 - 12.706, abs=1e-2)
    assert "| lora | 5 | 91.00 |" in result.to_markdown()
    assert "one seed" in result.to_markdown()
    assert "together they are not" in result.to_markdown()
    assert result.to_csv().splitlines()[0].startswith("cell,seed,epsilon,delta")
    assert not result.to_dict()["complete"]
    assert chart.draw(result.rows, tmp_path / "a.svg").read_text().count("<svg") == 1


def test_cells_and_grid_make_recipes_with_their_seeds_and_no_shared_ledger(study_file: Path) -> None:
    without = "strategy: null, training: null, runtime: null"
    pe = f"cells.1={{name: pe, set: {{mechanism: {{name: pe, population: 30}}, {without}}}}}"
    loaded = load_study(study_file, [pe, "grid={budget.epsilon: [2, 3]}"])
    assert [cell.name for cell in loaded.cells] == [
        "lora+epsilon=2",
        "lora+epsilon=3",
        "pe+epsilon=2",
        "pe+epsilon=3",
    ]
    lora, evolved = loaded.cells[1].recipes[1], loaded.cells[2].recipes[1]
    assert (lora.budget.epsilon, lora.training.seed, lora.generation.seed) == (3, 1, 1)
    assert (evolved.mechanism.name, evolved.training.seed, evolved.generation.seed) == ("pe", 0, 1)
    assert (
        len({run.settings(Path("out")).budget.ledger for run in planned.runs_of(loaded) if not run.public})
        == 8
    )
    assert expected_rows_at_most(lora, 3) == 3 * 10 * 2
    assert expected_rows_at_most(evolved, 4) == 4 * 30


def test_rows_are_those_of_all_images_of_a_person_and_of_the_query_for_layers(study_file: Path) -> None:
    """By what the loop does: a step, or a query, passes all rows of `RowTable` for the units it meets."""
    settings = {"unit": "patient"}, {"max_images_per_unit": 3, "augmentations": 2, "noise_draws": 2}
    changes = {f"budget.{key}": value for key, value in settings[0].items()}
    changes |= {f"training.{key}": value for key, value in settings[1].items()}
    cell = load_study(study_file, [f"cells.1={json.dumps({'name': 'patients', 'set': changes})}"]).cells[1]
    recipe = cell.recipes[0]
    table = RowTable(np.repeat(np.arange(10), 5), noise_draws=2, max_images=3, augmentations=2, variants=2)
    keys = SimpleNamespace(uniform=lambda domain, step, units, width: np.zeros((len(units), width)))
    rows = sum(len(part.position) for part in table.passes(keys, 0, np.arange(10), 7))  # type: ignore[arg-type]
    assert expected_rows_at_most(recipe, 1) == rows == 10 * 3 * 2 * 2
    asked = [{"name": "dpsgd", "steps_charged": 4}, {"name": "saliency", "steps_charged": 2}]
    assert expected_rows_at_most(recipe, 4, layer_queries(asked)) == 6 * rows


@pytest.mark.parametrize(
    ("grid", "rows"),
    [
        ("data.classes: [[a, b, c], [a, c, b]]", 2),
        ("data.size: [8, 16]", 2),
        ("data.caption: [an x-ray, a photograph]", 2),
        ("budget.epsilon: [1, 2]", 1),
    ],
)
def test_each_way_of_making_public_images_has_a_row(study_file: Path, grid: str, rows: int) -> None:
    loaded = load_study(study_file, [f"grid={{{grid}}}"])
    public = {run.folder(Path("out")) for run in planned.runs_of(loaded) if run.public}
    assert len(public) == rows * len(loaded.settings.seeds)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that are scored without a training; the list says which were."""
    made: list[str] = []

    def trained(run: planned.Run, out: Path) -> runs.Made:
        made.append(f"{run.cell} {run.seed}")
        pictures = SimpleNamespace(images=np.zeros((9, 8, 8, 1), np.uint8))
        facts = {"epsilon": 5.0, "delta": 1e-3, "steps": 3, "trainable_parameters": 9}
        facts["expected_rows_at_most"] = expected_rows_at_most(run.recipe, 3)
        return runs.Made(facts=facts, images=pictures, base=sha256_of_base(run.recipe.base))  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "_trained", trained)
    monkeypatch.setattr(Recipe, "plan", lambda recipe: None)  # no noise to calibrate

    def scored(*_: object, passes: int | None, **__: object) -> SimpleNamespace:
        # as an evaluation does, by the size of the images
        seen = classifier.default_passes(8) if passes is None else passes
        named = {"classifier": classifier.NAME, "passes": seen}
        return SimpleNamespace(accuracy=SimpleNamespace(mean=80.0), distances=(), **named)

    monkeypatch.setattr(runs, "evaluate", scored)
    monkeypatch.setattr(pictures, "draw", lambda *args: [])
    return made


ONE = ["public_model=false", "seeds=[0]", "cells=[{name: lora}]"]


def test_a_result_of_a_base_that_has_changed_is_refused(
    study_file: Path, tiny_base: Any, tmp_path: Path, untrained: list[str]
) -> None:
    loaded, out = load_study(study_file, ONE), tmp_path / "study"
    first = study(loaded, out)
    assert study(loaded, out).records == first.records
    assert untrained == ["lora 0"]
    tiny_base(seed=1).save(tmp_path / "base")
    with pytest.raises(RunFolderError, match=r"base .*base has changed since cell lora in .*study was run"):
        study(loaded, out)


def test_results_of_two_schedules_are_never_in_one_table(
    study_file: Path, tmp_path: Path, untrained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, out = load_study(study_file, [*ONE, "evaluate.passes=null"]), tmp_path / "study"
    study(loaded, out)
    study(loaded, out)
    real = classifier.default_passes
    monkeypatch.setattr(classifier, "default_passes", lambda size: 60_000)
    with pytest.raises(RunFolderError, match=r"evaluate\.passes 40000, which is 60000 now"):
        study(loaded, out)
    monkeypatch.setattr(classifier, "default_passes", real)
    kept = out / "cells" / "lora" / "seed-0.json"
    document = json.loads(kept.read_text())
    assert document["scored"] == {"classifier": classifier.NAME, "passes": 40_000, "size": 8}
    kept.write_text(json.dumps({**document, "scored": {**document["scored"], "classifier": "mine"}}))
    with pytest.raises(RunFolderError, match=f"evaluate.classifier mine, which is {classifier.NAME} now"):
        study(loaded, out)
    # a result from before schedules were kept: no number, no table
    del document["scored"]
    kept.write_text(json.dumps(document))
    with pytest.raises(RunFolderError, match="does not say how many images its classifiers saw") as error:
        study(loaded, out)
    assert str(kept) in str(error.value.hint)
    # with a number in the recipe there is nothing to look up
    document["asked"]["evaluate"]["passes"] = 1
    kept.write_text(json.dumps(document))
    given = load_study(study_file, ONE)
    run, scoring = planned.runs_of(given)[0], Scoring(settings=given.settings.evaluate)
    assert known(run, out, scoring) is not None


def test_a_cell_without_a_plan_is_named_before_anything_is_made(
    study_file: Path, tmp_path: Path, untrained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(recipe: Recipe) -> None:
        if recipe.budget.epsilon < 1:
            raise BudgetError("no noise meets this budget", hint="raise it")

    monkeypatch.setattr(Recipe, "plan", plan)
    cells = "cells=[{name: lora}, {name: strict, set: {budget.epsilon: 0.01}}]"
    loaded = load_study(study_file, ["seeds=[0]", cells])
    with pytest.raises(BudgetError, match=r"^cell strict: "):
        study(loaded, tmp_path / "study")
    assert untrained == []
    assert list((tmp_path / "study" / "cells").iterdir()) == []


def test_plans_are_made_once_for_all_runs_that_share_one(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = "grid={strategy.rank: [1, 2, 3], training.noise_draws: [1, 2], budget.epsilon: [1, 2]}"
    met: list[float] = []
    monkeypatch.setattr(Recipe, "plan", lambda recipe: met.append(recipe.budget.epsilon))
    planned.require_plans(planned.runs_of(load_study(study_file, ["cells=[{name: lora}]", grid])))
    assert sorted(met) == [1, 2]
    grid = "grid={teacher: [null, {share: 0.2}, {share: 0.9}]}"
    planned.require_plans(planned.runs_of(load_study(study_file, ["cells=[{name: lora}]", grid])))
    assert len(met) == 5, "each has noise of its own"


def test_names_of_many_keys_have_folders_that_every_disk_takes(study_file: Path) -> None:
    targets = [[f"block.{number}.attention.to_{letter}" for letter in "qkv"] for number in range(9)]
    loaded = load_study(
        study_file, [*ONE, f"grid={json.dumps({'strategy.targets': targets, 'data.size': [8]})}"]
    )
    folders = {run.folder(Path("out")).parent.name for run in planned.runs_of(loaded) if not run.public}
    assert len(folders) == len(loaded.cells) == 9
    assert max(map(len, folders)) <= 120
    longer = [["to_" + "q" * 400 + end] for end in "ab"]
    loaded = load_study(study_file, [*ONE, f"grid={json.dumps({'strategy.targets': longer})}"])
    folders = {run.folder(Path("out")).parent.name for run in planned.runs_of(loaded) if not run.public}
    assert (len(folders), max(map(len, folders))) == (2, 120)
    short = "lora+rank=4+noise_draws=1"
    assert study_recipe.folder_name(short) == short
    assert study_recipe.folder_name("a" * 120) == "a" * 120


def test_a_reference_is_read_once_and_again_where_it_has_changed(
    tiny_parquet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    real = reading.open_source
    monkeypatch.setattr(
        reading, "open_source", lambda *args, **named: opened.append(args) or real(*args, **named)
    )
    place = str(tiny_parquet.parent.parent)
    first = sha256_of_images(place)
    assert sha256_of_images(place) == first
    assert len(opened) == 1
    pq.write_table(pq.read_table(tiny_parquet).slice(1), tiny_parquet)
    assert sha256_of_images(place) != first
    assert len(opened) == 2


@pytest.mark.slow
def test_a_result_of_a_reference_that_has_changed_is_refused(
    study_file: Path, tmp_path: Path, untrained: list[str]
) -> None:
    loaded, out = load_study(study_file, ONE), tmp_path / "study"
    study(loaded, out)
    (reference,) = (tmp_path / "held-out").rglob("*.parquet")
    table = pq.read_table(reference)
    pq.write_table(table.slice(1), reference)
    with pytest.raises(RunFolderError, match=r"evaluate\.reference .* has changed since cell lora"):
        study(loaded, out)
    pq.write_table(table, reference)
    assert len(study(loaded, out).records) == 1


@pytest.mark.slow
def test_public_images_of_a_base_that_has_changed_are_not_scored(
    study_file: Path, tiny_base: Any, tmp_path: Path
) -> None:
    recipe = load_study(study_file).cells[0].recipes[0]
    (tmp_path / "cells").mkdir()
    images, first = public_images(recipe, tmp_path / "cells" / "seed-0")
    assert len(images.images) == 9
    assert public_images(recipe, tmp_path / "cells" / "seed-0")[1] == first
    tiny_base(seed=1).save(tmp_path / "base")
    with pytest.raises(RunFolderError, match=r"base .* has changed since the images in .* were made"):
        public_images(recipe, tmp_path / "cells" / "seed-0")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cells.1.name=lora", "two cells are called 'lora'"),
        ("cells.1.name=LoRA", "cells 'lora' and 'LoRA' would share a folder"),
        ("cells.1.name=public-model", "called 'public-model', as the row of the public model"),
        ("cells.1.name=Public-Model-2", "called 'Public-Model-2', as the row of the public model"),
        ("cells.1.name=a/b", "letters, digits"),
        ("seeds=[1, 1]", "distinct numbers"),
        ("grid={budget.epsilon: []}", "at least one"),
        ("grid={training.seed: [1]}", r"training\.seed is the study's own"),
        ("proxy=images.parquet", "one of proxy and evaluate.reference, got both"),
        ("cells.1.set.strategy=null", None),
    ],
)
def test_studies_that_cannot_run_are_refused_whole(
    study_file: Path, override: str, message: str | None
) -> None:
    if message is None:
        assert load_study(study_file, [override]).cells[1].recipes[0].strategy.name == "lora"
        return
    with pytest.raises(RecipeError, match=message):
        load_study(study_file, [override])


def test_a_study_names_the_cell_with_a_problem(study_file: Path) -> None:
    with pytest.raises(RecipeError, match="cell bias"):
        load_study(study_file, ["cells.1.set.strategy.rnk=3"])
