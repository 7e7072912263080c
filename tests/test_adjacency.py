"""Replacement and a limit of a step, through the whole path: plan, ledger, training, certificate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dp_diffusers.errors import ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.privacy import accountant
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.events import training_record
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import Recipe

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("adjacency", "limit"),
    [
        ("replace", "null"),
        ("replace", "16"),
        ("zero_out", "16"),
        ("zero_out", "null"),
        ("add_remove", "16"),
    ],
)
def test_guarantee_each_combination_is_charged_and_certified(
    adjacency: str, limit: str, tiny_recipe: Path, tmp_path: Path
) -> None:
    settings = Recipe.load(
        tiny_recipe, [f"budget.adjacency={adjacency}", f"mechanism.max_units={limit}", "budget.epsilon=20"]
    )
    train(settings, tmp_path / "run")
    release = tmp_path / "run" / "release"
    assert Certificate.verify(release).problems == ()
    said = json.loads((release / "certificate.json").read_text())
    (entry,) = said["mechanisms"]
    assert (said["adjacency"], entry["max_units"]) == (adjacency, None if limit == "null" else int(limit))
    record = training_record({**entry, "steps": entry["steps_charged"]})
    assert accountant.epsilon([record], said["delta"], adjacency) == pytest.approx(said["epsilon"], rel=1e-6)
    with Ledger.open(tmp_path / "tiny.ledger", create=False) as ledger:
        (run,) = ledger.runs()
        assert ledger.terms is not None
        has_theorem = accountant.has_renyi([record], adjacency)
        assert (ledger.terms.order is not None, run.cost.renyi is not None) == (has_theorem, has_theorem)


def test_surplus_units_spend_nothing_where_presence_counts(tiny_recipe: Path, tmp_path: Path) -> None:
    overrides = ["mechanism.max_units=8", "mechanism.population=9", "mechanism.expected_units=4"]
    settings = Recipe.load(tiny_recipe, [*overrides, "budget.epsilon=20"])
    with pytest.raises(ParameterError, match="more units than"):
        train(settings, tmp_path / "run")
    with Ledger.open(tmp_path / "tiny.ledger", create=False) as ledger:
        assert ledger.spent().epsilon == 0.0
