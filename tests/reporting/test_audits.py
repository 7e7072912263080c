"""Audits beside a certificate: of which training they are, and that their numbers follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_support import AUDIT, audit_file, plan_of

import dp_diffusers as dpd
from dp_diffusers.cli.main import main
from dp_diffusers.errors import InputError, ParameterError
from dp_diffusers.privacy.events import HistogramQuery
from dp_diffusers.reporting import report
from dp_diffusers.reporting.audits import read_audit, require_same_training

ATTACK = AUDIT["attacks"][0]


def certificate(run: Path) -> dict[str, Any]:
    """The document of a run's certificate."""
    return dpd.Certificate.read(run / "release").to_dict()


def mechanism(**changes: Any) -> dict[str, Any]:
    """Of the run, but for the changes."""
    record = plan_of(True).record
    assert record is not None
    return {**record.to_dict(), **changes}


@pytest.mark.slow
def test_an_audit_is_shown_with_the_training_that_it_attacked(shown: Path, tmp_path: Path) -> None:
    page = report(shown, out=tmp_path / "a.html", audit=audit_file(tmp_path / "held")).read_text()
    assert "The claim stands." in page
    more = [{**ATTACK, "epsilon_lower_bound": 5.0}]
    broken = audit_file(tmp_path / "broken", epsilon_lower_bound=5.0, attacks=more)
    assert "does not hold" in report(shown, out=tmp_path / "b.html", audit=broken).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"delta": 1e-5}, "another claim"),
        ({"adjacency": "replace"}, "another claim"),
        ({"epsilon_claimed": 9.0}, "another claim"),
        ({"epsilon_claimed": 0.01}, "another claim"),
        ({"mechanism": {"noise_multiplier": 9.0}}, "another training: noise_multiplier 9.0"),
        ({"mechanism": {"steps": 2}}, "another training: steps 2"),
        ({"mechanism": {"clip_norm": 7.0}}, "another training: clip_norm 7.0"),
        ({"mechanism": {"name": None}}, "another training: name None"),
    ],
)
def test_guarantee_an_audit_of_another_training_is_refused(
    changes: dict[str, Any], words: str, shown: Path, tmp_path: Path
) -> None:
    if "mechanism" in changes:
        changes = {"mechanism": mechanism(**changes["mechanism"])}
    found = read_audit(audit_file(tmp_path, **changes))
    with pytest.raises(ParameterError, match=words):
        require_same_training(found, certificate(shown))


@pytest.mark.slow
def test_a_strategy_is_compared_where_the_run_knows_its_own(shown: Path, tmp_path: Path) -> None:
    found = read_audit(audit_file(tmp_path))
    require_same_training(found, certificate(shown))
    require_same_training(found, certificate(shown), "lora")
    with pytest.raises(ParameterError, match="another training: strategy lora, this run has full"):
        require_same_training(found, certificate(shown), "full")


@pytest.mark.slow
def test_side_queries_are_no_part_of_what_is_attacked(shown: Path, tmp_path: Path) -> None:
    known = certificate(shown)
    query = {
        "steps_planned": 1,
        "steps_charged": 1,
        **HistogramQuery(classes=2, noise_multiplier=9).to_dict(),
    }
    asked = {**known, "epsilon": 2.3, "mechanisms": [*known["mechanisms"], query]}
    require_same_training(read_audit(audit_file(tmp_path)), asked)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attacks": [], "epsilon_lower_bound": 0.0}, "holds no attack"),
        ({"attacks": [{**ATTACK, "in_headline": False}]}, "holds no attack"),
        ({"epsilon_lower_bound": 0.1}, "its attacks give 0.7"),
        ({"mechanism": None}, "older version"),
        ({"strategy": None}, "older version"),
        ({"epsilon_claimed": "much"}, "not the result"),
        ({"delta": float("nan")}, "not the result"),
        ({"canaries": 1.5}, "not the result"),
        ({"notes": "none"}, "not the result"),
        ({"mechanism": "dpsgd"}, "not the result"),
        ({"attacks": [{**ATTACK, "confidence": "high"}]}, "not the result"),
        ({"attacks": [{**ATTACK, "correct": 51}]}, "not the result"),
        ({"attacks": ["gradient"]}, "not the result"),
    ],
)
def test_what_is_no_audit_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as refused:
        read_audit(audit_file(tmp_path, **changes))
    assert refused.value.hint


@pytest.mark.parametrize("text", ["[]", "3", "{"])
def test_another_document_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(InputError, match="not the result"):
        read_audit(tmp_path)


def test_fields_of_later_versions_are_ignored(tmp_path: Path) -> None:
    attacks = [{**ATTACK, "colour": "red"}]
    assert read_audit(audit_file(tmp_path, attacks=attacks, later=1)).attacks[0].correct == 40


@pytest.mark.slow
def test_a_text_for_a_number_is_one_line(
    shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = audit_file(tmp_path / "audit", epsilon_claimed="2")
    before = json.loads((shown / "release" / "certificate.json").read_text())
    assert main(["report", str(shown), "--audit", str(path)]) == 2
    assert "is not the result of an audit" in capsys.readouterr().err
    assert json.loads((shown / "release" / "certificate.json").read_text()) == before
