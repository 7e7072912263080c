"""The pictures of a study: what they show, against means computed here; that they are the same each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dp_diffusers.studying import pictures
from dp_diffusers.studying.drawing import _said, far, limits, public_lines
from dp_diffusers.studying.heat_map import heat_maps_of, said
from dp_diffusers.studying.results import Images, StudyResult
from dp_diffusers.studying.trade_offs import Panel, accuracy, frechet, panels_of
from study_support import accuracy_of, grid_result

ACCURACY = accuracy("held-out real images")


def panel(result: object, key: str) -> Panel:
    (found,) = [one for one in panels_of(result.to_rows(), ACCURACY) if one.axis.key == key]  # type: ignore[attr-defined]
    return found


def test_a_panel_for_each_setting_that_varies_with_means_over_the_rest() -> None:
    result = grid_result()
    found = panels_of(result.to_rows(), ACCURACY)
    assert [one.axis.key for one in found] == ["epsilon", "rank", "noise-draws", "trainable-parameters"]
    rank = panel(result, "rank")
    assert rank.other is not None
    assert rank.other.short == "ε"
    assert [line.value for line in rank.lines] == [1.0, 4.0, 10.0]
    point = rank.lines[1].points[2]
    expected = [accuracy_of(4.0, 16, k, 0) for k in (1, 2, 4)]
    assert (point.x, point.runs) == (16, tuple(expected))
    assert point.mean == pytest.approx(np.mean(expected))
    assert (rank.over, rank.balanced, rank.public) == (("K",), True, (("public model", 91.0),))
    other = panel(result, "epsilon").other
    assert other is not None
    assert other.short == "rank"


def test_intervals_are_over_seeds_that_have_all_cells_of_a_point() -> None:
    result = grid_result(ranks=(2,), draws=(1, 2), seeds=(0, 1, 2))
    point = panel(result, "epsilon").lines[0].points[0]
    means = [accuracy_of(1.0, 2, 1, seed) for seed in (0, 1, 2)]
    reach = 4.30265 * np.std(means, ddof=1) / np.sqrt(3)  # Student's, two degrees of freedom
    assert point.low == pytest.approx(np.mean(means) - reach, abs=1e-4)
    assert point.high == pytest.approx(np.mean(means) + reach, abs=1e-4)
    one = grid_result(ranks=(2,), draws=(1,), seeds=(0,))
    assert panel(one, "epsilon").lines[0].points[0].low is None
    # means over K, of which the last seed has one value only: it says nothing about the spread
    whole = grid_result(epsilons=(1.0, 10.0), ranks=(2, 4), draws=(1, 2), seeds=(0, 1, 2))
    kept = [
        place
        for place, record in enumerate(whole.records)
        if not (record.seed == 2 and "draws=2" in record.cell)
    ]
    cut = replace(
        whole,
        records=tuple(whole.records[place] for place in kept),
        settings=tuple(whole.settings[place] for place in kept),
    )
    point = panel(cut, "rank").lines[0].points[0]
    means = [np.mean([accuracy_of(1.0, 2, k, seed) for k in (1, 2)]) for seed in (0, 1)]
    assert len(point.runs) == 5
    assert point.high == pytest.approx(
        np.mean(means) + 12.7062 * np.std(means, ddof=1) / np.sqrt(2), abs=1e-3
    )


def test_strategies_are_never_averaged_nor_is_a_run_without_parameters_among_those_that_have_some() -> None:
    result = grid_result(draws=(1,))
    settings = [dict(one) for one in result.settings]
    for one, record in zip(settings, result.records, strict=True):
        if record.trainable_parameters == 15656 * 16:
            one["strategy"] = "frozen_a"
    records = list(result.records)
    settings[-1]["strategy"], records[-1] = "pe", replace(records[-1], trainable_parameters=0)
    mixed = replace(result, settings=tuple(settings), records=tuple(records))
    for found in panels_of(mixed.to_rows(), ACCURACY):
        assert found.other is not None
        assert found.other.key == "strategy"
        assert all(point.x > 0 for line in found.lines for point in line.points)
    trained = panel(mixed, "trainable-parameters")
    assert [line.value for line in trained.lines] == ["lora", "frozen_a"]


def test_the_heat_map_has_the_two_most_important_keys_and_empty_fields_for_what_has_not_run() -> None:
    result = grid_result()
    (found,) = heat_maps_of(result.to_rows(), ACCURACY, result.grid)
    assert (found.keys, found.over) == (("strategy.rank", "budget.epsilon"), ("K",))
    assert (found.down, found.across) == (("2", "4", "16"), ("1", "4", "10"))
    assert found.means[1, 2] == pytest.approx(np.mean([accuracy_of(10.0, 4, k, 0) for k in (1, 2, 4)]))
    rows = [row for row in result.to_rows() if (row["rank"], row["budget.epsilon"]) != (16, 10.0)]
    (part,) = heat_maps_of(rows, ACCURACY, result.grid)
    assert np.isnan(part.means).sum() == 1
    assert np.isnan(part.means[2, 2])
    assert heat_maps_of(result.to_rows(), ACCURACY, result.grid[:1]) == []


def two_variants_and_a_ceiling() -> StudyResult:
    """`lora` of rank x ε; `wide`, three points better at another learning rate; two variants without ε."""
    result = grid_result(ranks=(2, 4), draws=(1,), epsilons=(1.0, 10.0))
    records, settings = (
        list(result.records),
        [{**one, "training.learning_rate": 2e-3} for one in result.settings],
    )
    for record, chosen in list(zip(records, settings, strict=True))[1:]:
        better = replace(record, cell=record.cell.replace("lora", "wide", 1), accuracy=record.accuracy + 3)
        records.append(better)
        settings.append({**chosen, "training.learning_rate": 4e-3, "strategy": "frozen_a"})
        ceiling = replace(better, cell=record.cell.replace("lora", "none", 1), accuracy=99.0, epsilon=None)
        records.append(ceiling)
        settings.append({**chosen, "budget.epsilon": None})
        odd = replace(better, cell=better.cell.replace("wide", "odd", 1), accuracy=99.0, epsilon=None)
        records.append(odd)
        settings.append(dict(chosen))
    grid = ("strategy.rank", "training.noise_draws", "budget.epsilon")
    return replace(result, records=tuple(records), settings=tuple(settings), planned=len(records), grid=grid)


def test_a_field_is_a_mean_over_private_runs_of_one_variant_and_says_over_what() -> None:
    result = two_variants_and_a_ceiling()
    lora, wide = heat_maps_of(result.to_rows(), ACCURACY, result.grid)
    assert (lora.variant, wide.variant) == ("lora", "wide")
    assert lora.means[0, 0] == pytest.approx(accuracy_of(1.0, 2, 1, 0))
    assert wide.means[1, 1] == pytest.approx(accuracy_of(10.0, 4, 1, 0) + 3)
    assert said(lora) == "a run each"
    # one variant whose cells differ beside the grid: that is named too
    keys = ("strategy.rank", "budget.epsilon")
    whole = grid_result(ranks=(2, 4), epsilons=(1.0, 10.0))
    settings = [{**one, "mechanism.steps": 3 + number} for number, one in enumerate(whole.settings)]
    (mixed,) = heat_maps_of(replace(whole, settings=tuple(settings)).to_rows(), ACCURACY, whole.grid)
    assert (mixed.keys, mixed.variant) == (keys, None)
    assert said(mixed) == "mean over K and steps; not all combinations have run"


def test_a_point_of_a_trade_off_is_no_mean_with_runs_without_privacy() -> None:
    result = two_variants_and_a_ceiling()
    for found in panels_of(result.to_rows(), ACCURACY):
        assert all(run < 99 for line in found.lines for point in line.points for run in point.runs)
    ceilings = [place for place, record in enumerate(result.records) if record.epsilon is None]
    rows = [result.to_rows()[place] for place in ceilings]
    assert panels_of(rows, ACCURACY), "a study without any private run shows what it has"


def test_each_public_model_is_a_line_of_its_own_up_to_three() -> None:
    result = grid_result(ranks=(2,), draws=(1,))
    for count, drawn in ((1, 1), (3, 3), (4, 0)):
        more = [
            replace(result.records[0], cell=f"public model {number}", accuracy=80.0 + number, seed=seed)
            for number in range(2, count + 1)
            for seed in (0, 1)
        ]
        records, settings = (*more, *result.records), (*[result.settings[0]] * len(more), *result.settings)
        found = panel(replace(result, records=records, settings=settings), "epsilon")
        assert dict(found.public) == {
            "public model": 91.0,
            **{f"public model {number}": 80.0 + number for number in range(2, count + 1)},
        }
        assert len(public_lines(found)) == drawn
        assert ("4 public models, not drawn" in _said(found)) == (count == 4)


def test_a_distance_is_not_cut_to_per_cent() -> None:
    result = grid_result(ranks=(2,), draws=(1,), seeds=(0, 1), distances="FD-x")
    (found, *_) = panels_of(result.to_rows(), frechet("FD-x"))
    point = found.lines[0].points[0]
    assert point.low is not None
    assert point.mean > 100
    assert point.high is not None
    assert point.high > 108


def test_a_line_far_from_all_others_is_named_rather_than_shown() -> None:
    result = grid_result(ranks=(2, 4, 16), draws=(1,))
    assert far(panel(result, "epsilon")) == []
    records = [
        replace(record, accuracy=12.0) if "rank=16" in record.cell else record for record in result.records
    ]
    found = panel(replace(result, records=tuple(records)), "epsilon")
    assert [line.value for line in far(found)] == [16]
    low, high = limits(found)
    assert 88 < low < 91.0 < 93.0 < high < 95


@pytest.mark.slow
def test_pictures_are_the_same_each_time_and_those_of_an_earlier_state_go(tmp_path: Path) -> None:
    result = grid_result(ranks=(2,), draws=(1, 2), epsilons=(1.0, 10.0), distances="FD-x")
    (tmp_path / "trade-off-steps.png").write_text("of an earlier state")
    (tmp_path / "trade-off-notes.txt").write_text("somebody's")
    stand_in = Images(public_stand_in=True, note="a public stand-in")
    result = replace(result, images=stand_in)
    names = pictures.draw(result, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.glob("*.[sp][vn]g")}
    assert set(names) == {name for name in first if name.endswith(".png")}
    assert {
        "accuracy.svg",
        "trade-offs.svg",
        "trade-off-noise-draws.svg",
        "trade-off-heat-map-fid.png",
    } <= set(first)
    assert "trade-off-steps.png" not in first
    assert (tmp_path / "trade-off-notes.txt").exists()
    pictures.draw(result, tmp_path)
    assert first == {path.name: path.read_bytes() for path in tmp_path.glob("*.[sp][vn]g")}
    drawn = [path.read_text() for path in tmp_path.glob("*.svg") if "fid" not in path.name]
    assert all("on held-out public images (%)" in text for text in drawn)
    assert not any("held-out real images" in text for text in drawn)
    assert b"<dc:date>" not in first["trade-offs.svg"]
