"""A study: every variant and seed is run once, whatever stops it, each with a ledger of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dp_diffusers.errors import RecipeError
from dp_diffusers.recipe.study import load_study
from dp_diffusers.studying import runs, study
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


def test_a_study_names_the_cell_with_a_problem(study_file: Path) -> None:
    with pytest.raises(RecipeError, match="cell bias"):
        load_study(study_file, ["cells.1.set.strategy.rnk=3"])
