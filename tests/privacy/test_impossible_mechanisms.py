"""Certificates whose epsilon follows from mechanisms that nothing here could have run: not valid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from certificate_support import consistent, forge, read
from dp_diffusers.errors import ParameterError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.evolution import PE
from dp_diffusers.mechanisms.saliency import record_of
from dp_diffusers.plan import Plan
from dp_diffusers.privacy import accountant
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.certificate import TEACHER_FILE, Certificate
from dp_diffusers.privacy.events import record_from_dict
from dp_diffusers.privacy.files import hashes
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.teacher_features import NETWORK_FILE

Change = Callable[[dict[str, Any]], None]


SIZES = {"steps": 30, "expected_units": 500, "population": 1000}


@pytest.fixture
def release(tmp_path: Path, plan: Plan) -> Path:
    return certified(tmp_path, plan)


def certified(tmp_path: Path, plan: Plan) -> Path:
    folder = tmp_path / "release"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    with Ledger.open(":memory:") as ledger:
        account = ledger.reserve(plan)
        account.open_lane(SimpleNamespace(lane=b"0123456789abcdef", not_private=False))
        for step in range(30):
            account.charge(step)
        account.settle()
        base = {"id": "digits", "sha256": "0" * 64}
        draft = Certificate.draft(
            plan=plan, account=account, base_model=base, adapter={"trainable_parameters": 12}
        )
    draft.issue(folder)
    return folder


def problems(release: Path, change: Change) -> str:
    """What `verify` says of the certificate after a change, its epsilon, ledger and sentences made to fit."""
    document = read(release)
    before = dict(document["ledger"])
    change(document)
    records = [
        record_from_dict({**entry, "steps": entry["steps_charged"]}) for entry in document["mechanisms"]
    ]
    document["epsilon"] = accountant.epsilon(records, document["delta"], document["adjacency"])
    document["accountant"]["grid"] = accountant.grid_for(records)
    if document["ledger"] == before:
        document["ledger"] |= {"spent_epsilon": document["epsilon"], "rule": "sum"}
        document["ledger"] |= {"cap_epsilon": None, "cap_delta": None}
    forge(release, consistent(document))
    return "; ".join(Certificate.verify(release).problems)


def first(**fields: Any) -> Change:
    return lambda document: document["mechanisms"][0].update(fields)


def ledger(**fields: Any) -> Change:
    return lambda document: document["ledger"].update(fields)


def beside(**fields: Any) -> Change:
    return lambda document: document["mechanisms"].append({**document["mechanisms"][0], **fields})


def side(
    warmup: dict[str, Any] | None = None,
    lost: list[str] | None = None,
    labels: list[int] | None = [0, 1, 2],  # noqa: B006 - never changed
    **fields: Any,
) -> Change:
    """A query beside the steps, of a release with three classes or none."""

    def change(document: dict[str, Any]) -> None:
        document["mechanisms"].append(
            {"steps_planned": 1, "steps_charged": 1, "noise_multiplier": 50.0, **fields}
        )
        document["classes"] = None if labels is None else {"labels": labels, "names": None, "declared": True}
        document |= ({"warmup": warmup} if warmup else {}) | ({"lost_queries": lost} if lost else {})

    return change


@pytest.mark.parametrize(("labels", "classes"), [([0, 1, 2], 3), (None, 1)])
def test_queries_about_the_classes_of_the_release_are_no_problem(
    release: Path, labels: list[int] | None, classes: int
) -> None:
    asked = side({"dimensions": 6}, labels=labels, name="moments", classes=classes, dimensions=6)
    assert problems(release, asked) == ""


@pytest.mark.slow
def test_guarantee_a_network_of_features_is_the_one_that_the_teacher_names(release: Path) -> None:
    """One of the user's own is released, and its hash is that of the teacher's features."""
    for name in (TEACHER_FILE, NETWORK_FILE):
        (release / name).write_bytes(name.encode())
    teacher = {"features": "features-0123456789ab", "dimensions": 6, "public": None}
    query = {"name": "teacher", "classes": 3, "dimensions": 6}
    released, before = hashes(release), read(release)

    def change(sha256: str, files: dict[str, str], **features: str) -> str:
        def changed(document: dict[str, Any]) -> None:
            side(**query)(document)
            document["teacher"] = {**teacher, "sha256": sha256, **features}
            document["files"] = files

        forge(release, before)
        return problems(release, changed)

    says, right = f"the hash of the teacher's features is not that of {NETWORK_FILE}", released[NETWORK_FILE]
    assert change(right, released) == ""
    assert says in change("1" * 64, released)
    without = {name: digest for name, digest in released.items() if name != NETWORK_FILE}
    assert says in change(right, without)
    (release / NETWORK_FILE).unlink()
    assert change("1" * 64, without, features="efficientnet-lite0-64") == ""


SMALL = {"expected_units": 1, "sampling_probability": 1 / 1000}
WRONG = {
    "votes of a sample": (first(name="pe", **SMALL), "pe samples nobody"),
    "a count that trains": (first(name="count", **SMALL), "expected one that trains"),
    "two that train": (beside(name="pe", **SMALL), "expected one that trains"),
    "a query of another sample": (
        beside(name="saliency", steps_planned=1, steps_charged=1, **SMALL),
        "saliency does not sample as the steps of dpsgd do",
    ),
    "a query without the steps' limit": (
        lambda document: (first(max_units=600)(document), beside(name="saliency", max_units=None)(document)),
        "saliency does not sample",
    ),
    "votes that made an adapter": (
        first(name="pe", expected_units=1000, sampling_probability=1.0),
        "pe trains nothing",
    ),
    "nothing trained": (
        lambda document: document["adapter"].update(trainable_parameters=0),
        "a training releases adapter/",
    ),
    "less than nothing spent": (ledger(spent_epsilon=-5.0), "spent epsilon -5"),
    "no rule": (ledger(rule="none"), "this release is in it"),
    "a rule that nobody has": (ledger(rule="banana"), "the ledger's rule is 'banana'"),
    "a rule that is missing": (lambda document: document["ledger"].pop("rule"), "rule is None"),
    "a filter without a cap": (ledger(rule="filter", cap_epsilon=None), "expected sum"),
    "less than itself": (ledger(rule="sum", spent_epsilon=0.5), "as a sum, and this release alone"),
    "less than itself at the ledger's delta": (ledger(rule="filter", spent_epsilon=0.5), "alone 0.9997"),
    "less than itself, as one run": (ledger(spent_epsilon=0.5), "at delta 0.0001, and this release alone"),
    "less than itself at another delta": (
        ledger(rule="filter", spent_epsilon=1.0, spent_delta=1e-6),
        "at delta 1e-06, and this release alone 1.3",
    ),
    "a delta of nothing": (ledger(spent_delta=0.0), "the ledger's delta is 0.0"),
    "a delta that is no number": (ledger(spent_delta=None), "the ledger's delta is None"),
    "nothing spent without a cap": (
        ledger(rule="sum", spent_epsilon=0.0, cap_epsilon=None),
        "spent epsilon 0 as a sum",
    ),
    "a third of its steps": (first(steps_charged=10), "dpsgd was charged 10 of 30 steps"),
    "a million steps planned": (first(steps_planned=10**6), "dpsgd was charged 30 of 1000000 steps"),
    "planned to go back": (first(steps_planned=-7), "steps_planned -7 is not in"),
    "half a step planned": (first(steps_planned=0.5), "steps_planned 0.5 is not in"),
    "a histogram of other classes": (
        side(name="histogram", classes=4),
        "histogram asked about 4 classes, the release has 3",
    ),
    "moments of other classes": (
        side({"dimensions": 6}, name="moments", classes=2, dimensions=6),
        "moments asked about 2 classes, the release has 3",
    ),
    "a lost query of other classes": (
        side(None, ["teacher"], name="teacher", classes=4, dimensions=6),
        "teacher asked about 4 classes, the release has 3",
    ),
    "moments without classes": (
        side({"dimensions": 6}, labels=None, name="moments", classes=3, dimensions=6),
        "moments asked about 3 classes, the release has 1",
    ),
    "a clip norm below float32": (first(clip_norm=1e-300), "clip norm 1e-300 is not in [1e-30, 1e+30]"),
    "a clip norm of yes": (first(clip_norm=True), "clip norm True is not in"),
    "a unit that nobody sees": (lambda document: document.update(unit=" "), "the unit ' ' names nothing"),
    "a unit of two lines": (
        lambda document: document.update(
            unit="patient, adjacency replace\nsigned with the key that was given"
        ),
        r"the unit 'patient, adjacency replace\nsigned with the key that was given' names nothing",
    ),
    "a limit below the mean": (first(max_units=1), r"max_units 1 is not in"),
}


QUICK = ("a third of its steps", "less than itself", "moments of other classes", "a delta of nothing")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in WRONG]
)
def test_guarantee_a_mechanism_that_cannot_have_run_is_not_valid(release: Path, name: str) -> None:
    change, says = WRONG[name]
    assert says in problems(release, change)


def test_the_certificate_as_it_is_has_no_problem(release: Path) -> None:
    assert problems(release, lambda document: None) == ""


@pytest.mark.slow
@pytest.mark.parametrize("missing", [("cap_delta",), ("spent_delta",), ("cap_delta", "spent_delta")])
def test_guarantee_a_total_without_its_delta_is_not_valid(release: Path, missing: tuple[str, ...]) -> None:
    """It could be any: what it is at least is known for a delta alone."""
    document = read(release)
    document["ledger"] |= {"spent_epsilon": 1e-6, "cap_epsilon": 0.01, "rule": "filter"}
    for name in missing:
        document["ledger"].pop(name)
    document = consistent(document)
    forge(release, document)
    assert "delta" in "; ".join(Certificate.verify(release).problems)
    assert "a delta that is not stated" in str(document["statements"]) or "spent_delta" not in missing


VACUOUS = {"spent_epsilon": 0.2, "rule": "filter"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spent_delta": 0.5, "cap_delta": 0.5, **VACUOUS}, "at delta 0.5, not below 1 / population = 0.001"),
        ({"spent_delta": 1e-3, "cap_delta": 1e-3, **VACUOUS}, "at delta 0.001, not below 1 / population"),
        ({"spent_delta": 0.5, **VACUOUS}, "at delta 0.0001, and its total at 0.5"),
        ({"cap_delta": 0.5}, "at delta 0.5, and its total at 0.0001"),
        ({"cap_delta": None}, "the delta of the ledger's cap is missing"),
        ({"cap_epsilon": None, "rule": "sum"}, "no cap, and a cap's delta of 0.0001"),
    ],
)
def test_guarantee_a_cap_that_limits_nothing_is_not_valid(
    release: Path, change: dict[str, Any], says: str
) -> None:
    document = read(release)
    document["ledger"].update(change)
    forge(release, consistent(document))
    assert says in "; ".join(Certificate.verify(release).problems)


def test_a_sum_of_deltas_without_a_cap_is_told_for_what_it_is(release: Path) -> None:
    document = read(release)
    without = {"cap_epsilon": None, "cap_delta": None, "rule": "sum"}
    document["ledger"] |= {"spent_delta": 2e-3, "spent_epsilon": 20.0, **without}
    document = consistent(document)
    forge(release, document)
    assert Certificate.verify(release).problems == ()
    assert "is not below 1 / population, so this total promises nothing" in str(document["statements"])


def test_a_query_of_the_steps_own_sample_is_none(release: Path, plan: Plan) -> None:
    assert isinstance(plan.mechanism, DPSGD)
    query = record_of(plan.mechanism, 2.0).to_dict()
    entry = {**query, "steps_planned": query["steps"], "steps_charged": query.pop("steps")}
    assert problems(release, lambda document: document["mechanisms"].append(entry)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("change", [SMALL, {"max_units": 600}, {"clip_norm": 0.5}, {"name": "count"}])
def test_guarantee_a_plan_s_query_has_the_sample_of_its_steps(change: dict[str, Any]) -> None:
    mechanism, budget = DPSGD(steps=30, expected_units=500, population=1000), Budget(1.0, 1e-4)
    query = record_of(mechanism, 4.0)
    document = Plan.calibrate(budget, mechanism, [query]).to_dict()
    with pytest.raises(ParameterError, match="does not sample and clip as the steps"):
        Plan.calibrate(budget, mechanism, [replace(query, **change)])
    document["queries"][0].update(change)
    with pytest.raises(ParameterError, match="does not sample and clip as the steps"):
        Plan.from_json(document)


def test_votes_have_no_query_of_a_sample() -> None:
    query = record_of(DPSGD(steps=1, expected_units=500, population=1000), 4.0)
    with pytest.raises(ParameterError, match="as the steps of pe do"):
        Plan.calibrate(Budget(1.0, 1e-4), PE(steps=2, population=1000), [query])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cap", "rule", "spent"), [(None, "sum", 1.0), ({"epsilon": 1.0, "delta": 9e-4}, "pld", 0.78)]
)
def test_what_ledgers_of_other_caps_say_is_valid(
    tmp_path: Path, cap: dict[str, float] | None, rule: str, spent: float
) -> None:
    release = certified(tmp_path, Plan.calibrate(Budget(1.0, 1e-4, cap=cap), DPSGD(**SIZES)))
    stated = read(release)["ledger"]
    assert (stated["rule"], stated["spent_epsilon"]) == (rule, pytest.approx(spent, abs=0.01))
    assert Certificate.verify(release).problems == ()


def test_guarantee_a_claim_is_never_rounded_down(release: Path) -> None:
    document = read(release)
    for factor, follows in ((1 + 1e-4, True), (1 - 1e-4, False)):
        forge(release, consistent({**document, "epsilon": document["epsilon"] * factor}))
        assert Certificate.verify(release).valid is follows
