"""A study: every variant and seed is run once, whatever stops it, each with a ledger of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dp_diffusers.errors import RecipeError
from dp_diffusers.recipe.study import load_study
from dp_diffusers.studying import chart, runs, study
from dp_diffusers.studying.results import RunRecord, StudyResult
from loop_support import cheap_trainings


@pytest.fixture
def study_file(tiny_recipe: Path, tiny_parquet: Path, tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    cells = [{"name": "lora"}, {"name": "bias", "set": {"strategy": {"name": "bias"}}}]
    document = {
        "recipe": tiny_recipe.name,
        "cells": cells,
        "seeds": [0, 1],
        "evaluate": {"reference": str(tiny_parquet), "seeds": 2, "passes": 1},
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

    def stopping(run: runs.Run, *rest: object) -> object:
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
    facts = {"delta": 1e-5, "steps": 3, "images_processed": 60, "trainable_parameters": 9, "images": 10}
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
    pe = "cells.1={name: pe, set: {mechanism: {name: pe, population: 30}, strategy: null, training: null}}"
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
        len({run.settings(Path("out")).budget.ledger for run in runs.runs_of(loaded) if not run.public}) == 8
    )
    assert runs.images_processed(lora, 3) == 3 * 10 * 2
    assert runs.images_processed(evolved, 4) == 4 * 30


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cells.1.name=lora", "two cells are called 'lora'"),
        ("cells.1.name=a/b", "letters, digits"),
        ("seeds=[1, 1]", "distinct numbers"),
        ("grid={budget.epsilon: []}", "at least one"),
        ("grid={training.seed: [1]}", r"training\.seed is the study's own"),
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
