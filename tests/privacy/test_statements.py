"""The answers to NIST SP 800-226: each question has one, each follows from the certificate."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from dp_diffusers.privacy.assumptions import assumptions_of
from dp_diffusers.privacy.statements import statements_of

TOPICS = [
    *("scope", "unit_of_privacy", "neighbouring_relation", "epsilon_and_delta", "sensitivity", "mechanism"),
    *("accounting", "composition", "trust_model", "population", "labels_and_classes", "public_data"),
    *("randomness", "floating_point", "side_channels", "tuning", "data_handling", "post_processing"),
    *("utility", "bias", "falsifiers"),
]
SGD = {
    "name": "dpsgd",
    "steps_planned": 30,
    "steps_charged": 12,
    "population": 1000,
    "expected_units": 500,
    "sampling_probability": 0.5,
    "max_units": None,
    "clip_norm": 0.25,
    "noise_multiplier": 3.0,
    "clipping": "flat",
}


def certificate(**changed: Any) -> dict[str, Any]:
    document = {
        "unit": "patient_id",
        "adjacency": "zero_out",
        "epsilon": 2.0,
        "delta": 1e-4,
        "not_private": False,
        "accountant": {"method": "pld"},
        "mechanisms": [SGD],
        "ledger": {"spent_epsilon": 2.5, "cap_epsilon": 3.0},
        "base_model": {"id": "public-digits"},
    }
    return {**document, **changed}


def answers(class_names_from_data: bool = False, multi_owner: bool = False, **changed: Any) -> dict[str, str]:
    found = statements_of(
        certificate(**changed), class_names_from_data=class_names_from_data, multi_owner=multi_owner
    )
    assert all(set(statement) == {"topic", "question", "answer"} for statement in found)
    return {statement["topic"]: statement["answer"] for statement in found}


def test_every_question_has_an_answer_in_short_sentences() -> None:
    found = answers()
    assert list(found) == TOPICS
    for topic, answer in found.items():
        assert answer.endswith("."), topic
        assert max(len(sentence.split()) for sentence in re.split(r"[.;:?] ", answer)) <= 40, topic


def test_answers_follow_from_the_certificate() -> None:
    found = answers()
    assert "One patient_id" in found["unit_of_privacy"]
    assert "replaced by nothing" in found["neighbouring_relation"]
    assert "Epsilon 2 at delta 0.0001" in found["epsilon_and_delta"]
    assert f"{100 * math.exp(2) / (1 + math.exp(2)):.4g} %" in found["epsilon_and_delta"]
    assert "length of 0.25" in found["sensitivity"]
    assert "12 times, noise multiplier 3" in found["mechanism"]
    assert "(Mironov, Talwar and Zhang 2019)" in found["mechanism"]
    assert "cap of epsilon 3" in found["composition"]
    assert "2.5" in found["composition"]


@pytest.mark.parametrize(
    ("topic", "words", "changed"),
    [
        ("labels_and_classes", "without a charge", {"class_names_from_data": True}),
        ("unit_of_privacy", "sets used", {"multi_owner": True}),
        ("neighbouring_relation", "is public and the same in both", {"multi_owner": True}),
        ("unit_of_privacy", "not for all together", {"unit": "image"}),
        ("neighbouring_relation", "has an image", {"unit": "image", "adjacency": "add_remove"}),
        ("neighbouring_relation", "by any others", {"adjacency": "replace"}),
        ("composition", "without a limit", {"ledger": {"spent_epsilon": 2.0, "cap_epsilon": None}}),
    ],
)
def test_what_differs_is_said(topic: str, words: str, changed: dict[str, Any]) -> None:
    assert words in answers(**changed)[topic]
    assert words not in answers()[topic]


def test_side_queries_are_said() -> None:
    query = {
        "name": "histogram",
        "steps_planned": 1,
        "steps_charged": 1,
        "classes": 3,
        "noise_multiplier": 5.0,
    }
    found = answers(mechanisms=[SGD, query])
    assert "histogram: a patient_id adds a vector of length at most 1" in found["sensitivity"]
    assert "histogram, 1 times, noise multiplier 5" in found["mechanism"]
    assert "released with noise" in found["labels_and_classes"]


def test_without_privacy_there_is_one_answer() -> None:
    assert list(answers(not_private=True)) == ["scope"]
    assert "NOT PRIVATE" in answers(not_private=True)["scope"]


def test_guarantee_no_sentence_says_less_than_the_bound() -> None:
    """7.996056 is not "7.996"."""
    ledger = {"spent_epsilon": 10.7944, "cap_epsilon": 20.0, "head": "0" * 64}
    facts = {"class_names_from_data": False, "multi_owner": False}
    said = str(statements_of(certificate(epsilon=7.996056, ledger=ledger), **facts))
    assert "Epsilon 7.997 at delta" in said
    assert "differ by a factor of at most e^7.997, plus delta" in said
    assert "it stood at epsilon 10.8 at a delta that is not stated." in said
    assert "ask what `ledger show` says today" in said
    ledger["spent_delta"] = 0.000012344
    said = str(statements_of(certificate(epsilon=7.996056, ledger=ledger), **facts))
    assert "it stood at epsilon 10.8 at delta 1.235e-05." in said


def test_guarantee_delta_and_noise_are_not_said_to_be_better_than_they_are() -> None:
    facts = {"class_names_from_data": False, "multi_owner": False}
    quantile = {"target_quantile": 0.5, "quantile_rate": 0.2, "quantile_noise": 9.87659}
    sgd = {**SGD, **quantile, "noise_multiplier": 1.23459, "clipping": "adaptive"}
    said = str(statements_of(certificate(delta=0.000123444, mechanisms=[sgd]), **facts))
    assert "at delta 0.0001235: with" in said
    assert "noise multiplier 1.234, shared by the sum and a count with noise 9.876." in said
    assert "% of the time, plus at most delta" in said
    assert "fail" not in said, "delta is not the probability that the factor is exceeded"


PUBLIC = {"name": "faces.parquet", "sha256": "1" * 64, "images": 70}
TEACHER = {"features": "efficientnet-lite0-64", "sha256": "2" * 64, "dimensions": 16, "public": None}


@pytest.mark.parametrize(
    ("changed", "words", "not_said"),
    [
        ({}, [], ["classifier", "network"]),
        ({"teacher": TEACHER}, ["the network 'efficientnet-lite0-64'"], ["faces", "safetensors"]),
        (
            {"teacher": {**TEACHER, "public": PUBLIC}},
            ["70 images 'faces.parquet'", "scaled"],
            ["safetensors"],
        ),
        (
            {"teacher": {**TEACHER, "features": "features-0123456789ab"}},
            ["the network 'features-0123456789ab' (teacher-features.safetensors of this release)"],
            ["faces"],
        ),
        (
            {
                "teacher": {**TEACHER, "public": PUBLIC},
                "public_images": {**PUBLIC, "batch_size": 8, "images": 9},
            },
            ["9 images 'faces.parquet'", "70 images 'faces.parquet'", "the network 'efficient"],
            [],
        ),
    ],
)
def test_guarantee_all_public_data_are_named_in_both(
    changed: dict[str, Any], words: list[str], not_said: list[str]
) -> None:
    document = certificate(**{"ledger": {"spent_epsilon": 2.5, "cap_epsilon": 3.0}, **changed})
    (assumed,) = [
        line
        for line in assumptions_of(document, class_names_from_data=False)
        if line.startswith("Public data")
    ]
    for text in (answers(**changed)["public_data"], assumed):
        assert all(word in text for word in words)
        assert not any(word in text for word in not_said)


def test_the_accounting_is_named_as_it_was_done() -> None:
    facts = {"class_names_from_data": False, "multi_owner": False}
    for method, words in (("pld", "By privacy loss distributions"), ("rdp", "By Rényi differential privacy")):
        assert words in str(statements_of(certificate(accountant={"method": method}), **facts))
