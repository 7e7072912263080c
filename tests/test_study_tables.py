"""The tables of a study: every setting that differs is a column, in files of one content."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dp_diffusers.recipe.study import load_study
from dp_diffusers.studying.planned import runs_of
from dp_diffusers.studying.results import CLAIM, Images, StudyResult
from dp_diffusers.studying.settings import settings_of
from study_support import grid_result, study_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(study_text())
    return path


def test_every_key_that_differs_between_cells_is_a_column(file: Path) -> None:
    cells = [
        "{name: a}",
        "{name: b, set: {strategy.targets: [to_q, to_v], strategy.also: [bias]}}",
        "{name: pe, set: {mechanism: {name: pe, population: 60000}, strategy: null, training: null}}",
    ]
    grid = "grid={budget.epsilon: [1, 10]}"
    loaded = load_study(file, [f"cells=[{', '.join(cells)}]", grid, "seeds=[0, 1]"])
    runs = runs_of(loaded)
    rows = settings_of([(run.recipe, run.public) for run in runs])
    public, plain, named, evolved = rows[0], rows[2], rows[6], rows[10]
    assert (plain["budget.epsilon"], rows[4]["budget.epsilon"]) == (1.0, 10.0)
    assert (plain["targets"], named["targets"]) == ("all", '["to_q", "to_v"]')
    assert named["strategy.targets"] == '["to_q", "to_v"]'
    assert named["strategy.also"] == '["bias"]'
    assert (plain["strategy"], plain["rank"], plain["noise_draws"]) == ("lora", 4, 1)
    assert (evolved["strategy"], evolved["rank"], evolved["noise_draws"]) == ("pe", None, None)
    assert public["budget.epsilon"] is None
    assert public["strategy"] is None
    # a seed, an own ledger and a cap that is the budget's differ in every cell and say nothing
    assert not {"training.seed", "generation.seed", "budget.ledger", "budget.cap.epsilon"} & plain.keys()
    assert "data.path" not in plain, "a key that is the same in all cells is no column"
    assert all(row.keys() == plain.keys() for row in rows)


def test_the_public_row_is_there_once_whatever_labels_the_runs_draw(file: Path) -> None:
    """Its labels are uniform: nothing private has told it how many images each class has."""
    more = ["cells=[{name: a}]", "grid={generation.labels: [histogram, uniform]}"]
    loaded = load_study(file, [*more, "recipe.data.classes=[a, b, c]"])
    runs = runs_of(loaded)
    assert [run.cell for run in runs if run.public] == ["public model"]
    public = settings_of([(run.recipe, run.public) for run in runs])[0]
    assert public["generation.labels"] is None
    two = load_study(file, ["cells=[{name: a}]", "grid={generation.steps: [2, 3]}"])
    assert len([run for run in runs_of(two) if run.public]) == 2


def test_csv_and_parquet_say_the_same_with_types(tmp_path: Path) -> None:
    result = grid_result()
    path = tmp_path / "results.parquet"
    path.write_bytes(result.to_parquet())
    table = pq.read_table(path)
    assert table.to_pylist() == result.to_rows()
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert (types["rank"], types["epsilon"], types["cell"], types["fid"]) == (
        "int64",
        "double",
        "string",
        "double",
    )
    assert (types["strategy.rank"], types["budget.epsilon"]) == ("int64", "double")
    lines = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert list(lines[0]) == table.column_names == list(result.to_rows()[0])
    assert [float(line["accuracy"]) for line in lines] == table["accuracy"].to_pylist()
    assert lines[0]["rank"] == ""
    assert lines[1]["rank"] == "2"
    head = "cell,seed,epsilon,delta,steps,expected_rows_at_most,trainable_parameters,images,accuracy,seconds"
    assert result.to_csv().startswith(head), "columns are only ever added at the end"


def test_a_result_shows_itself_and_says_which_images_it_is_about() -> None:
    result = grid_result(epsilons=(1.0,), ranks=(2,), draws=(1,))
    html = result._repr_html_()
    assert html.count("<tr>") == 1 + len(result.rows)
    assert "benchmark data" in html
    assert "together they are not covered" in html
    assert result.to_dict()["images"]["public_stand_in"] is False
    assert result.to_dict()["classifier"] == result.to_dict()["features"] == "cnn"
    assert "held-out real images, trained on the synthetic images; held-out reference: not cov" in html
    stand_in = replace(result, images=Images(public_stand_in=True, note="a public stand-in"))
    assert "Accuracy of cnn on held-out public images, trained on" in stand_in.to_markdown()
    assert "not covered by ε" not in stand_in.to_markdown().replace(CLAIM[1:], "")
    assert "real images" not in stand_in.to_markdown()
    spoilt = StudyResult(records=result.records, planned=9, features="<cnn>")
    assert "<cnn>" not in spoilt._repr_html_()
    assert "2 of 9 runs have finished" in spoilt.to_markdown()
