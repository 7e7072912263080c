"""Comparisons: what was measured in another way is named and in no chart; damaged scores are one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_support import make_run, score

from dp_diffusers.cli.main import main
from dp_diffusers.evaluation.reading import LabelledImages
from dp_diffusers.evaluation.sets import digest_of
from dp_diffusers.reporting import Report
from dp_diffusers.reporting.comparing import Comparison, compared
from dp_diffusers.reporting.measured import Measured

CHART = 'id="utility-title"'
SECRET = "d1" * 32


@pytest.fixture
def scored(shown: Path) -> Report:
    """The facts of a run with scores."""
    return Report.of(shown, scores=True)


def beside(report: Report, **changes: Any) -> Comparison:
    """The run beside itself, as if the second had been measured in another way."""
    assert report.measured is not None
    return compared([report, replace(report, measured=replace(report.measured, **changes))])


def test_one_reference_and_schedule_are_one_chart(scored: Report) -> None:
    page = beside(scored).to_html()
    assert CHART in page
    assert ">measured on<" not in page
    assert SECRET not in page


@pytest.mark.parametrize(
    ("changes", "words", "drawn"),
    [
        ({"reference": "e2" * 32}, "Accuracies were measured on different references.", False),
        ({"reference": None}, "It is not known whether", False),
        ({"passes": 7}, "Classifiers saw different numbers of images.", False),
        ({"seeds": 5}, "Accuracies are means of different numbers of seeds.", True),
    ],
)
def test_guarantee_other_measurements_are_named_and_not_drawn_together(
    changes: dict[str, Any], words: str, drawn: bool, scored: Report
) -> None:
    both = beside(scored, **changes)
    page = both.to_html()
    assert words in page
    assert (CHART in page) == drawn
    assert page.count("<td>reference 1, 40000 images seen, 3 seeds</td>") >= 2, "in each of the tables"
    assert any(line.startswith(words) for line in both.to_dict()["warnings"])
    for told in (page, json.dumps(both.to_dict()), repr(both)):
        assert SECRET not in told
        assert "e2" * 32 not in told


def test_a_run_without_scores_compares_with_any(scored: Report) -> None:
    both = compared([scored, replace(scored, scores=None, measured=None)])
    assert CHART in both.to_html()
    assert both.score_warnings == []


def test_a_digest_is_that_of_the_set_in_any_order() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 1), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1])

    def digest(order: list[int], names: tuple[str, ...] = ("a", "b"), **changes: Any) -> str:
        parts = {"images": pixels[order], "labels": labels[order], "class_names": names} | changes
        return digest_of(LabelledImages(**parts))

    assert digest([0, 1, 2, 3]) == digest([3, 1, 0, 2])
    others = [
        digest([0, 1, 2]),
        digest([0, 1, 2, 3], names=("b", "a")),
        digest([0, 1, 2, 3], images=pixels.reshape(4, 4, 1, 1)),
        digest([0, 1, 2, 3], images=pixels ^ 1),
    ]
    assert digest([0, 1, 2, 3]) not in others


@pytest.mark.slow
def test_an_earlier_document_has_no_reference(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    score(run)
    kept = run / "private" / "evaluation.json"
    document = json.loads(kept.read_text())
    assert document.pop("reference") == SECRET
    kept.write_text(json.dumps(document))
    assert Report.of(run, scores=True).measured == Measured(reference=None, passes=40_000, seeds=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ['{"a": 1}', "{", "[]", '{"images": null, "scores": 3}', "rows", "mean", "seeds"]
)
def test_damaged_scores_are_one_line(
    text: str, shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = shown / "private" / "evaluation.json"
    before = kept.read_text()
    document = json.loads(before)
    if text == "rows":
        document["scores"]["rows"] = [1]
    elif text == "mean":
        document["scores"]["rows"][0]["mean"] = "high"
    elif text == "seeds":
        del document["scores"]["seeds"]
    kept.write_text(text if text.startswith(("{", "[")) else json.dumps(document))
    try:
        assert main(["report", str(shown), "--out", str(tmp_path / "page.html")]) == 2
    finally:
        kept.write_text(before)
    said = capsys.readouterr().err
    assert "evaluation.json is damaged" in said
    assert "delete it and evaluate again" in said
    assert "Traceback" not in said
