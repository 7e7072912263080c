"""Whole audits of a tiny model: what they say, what they never touch, and that a defect does not pass."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dp_diffusers as dpd
from apart_support import SAME, films
from dp_diffusers.auditing import attacking, audit_recipe
from dp_diffusers.cli.main import main
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.engine import private_gradient
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.errors import InputError, ModelError, ParameterError
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.recipe import Recipe, TrainingSettings
from loop_support import cheap_trainings

DELTA = 1e-4
FULL = dpd.DPSGD(steps=2, expected_units=500, population=500, clip_norm=0.1)  # no sampling: quick to account
STRATEGY = {"name": "lora", "rank": 4, "targets": "attention"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_trainings(monkeypatch.setattr)


def plan_of(epsilon: float) -> dpd.Plan:
    return dpd.Plan.calibrate(dpd.Budget(epsilon=epsilon, delta=DELTA), FULL)


def each_row_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defect: every noise draw is clipped on its own, so that K draws of a unit add up to K C."""
    ids = itertools.count()

    def each_row(owner: torch.Tensor) -> RowOwners:
        return RowOwners(ids=list(itertools.islice(ids, len(owner))), index=torch.arange(len(owner)), fold=1)

    monkeypatch.setattr(private_gradient.RowOwners, "of", staticmethod(each_row))


def tiny_audit(base: Any, epsilon: float = 4.0, **options: Any) -> Any:
    settings = {"strategy": STRATEGY, "training": TrainingSettings(noise_draws=8), "canaries": 600}
    return dpd.audit(base, plan_of(epsilon), **(settings | options))


@pytest.mark.slow
def test_an_audit_of_the_right_mechanism(tiny_base: Callable[..., Any], tmp_path: Path) -> None:
    base = tiny_base()
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    result = tiny_audit(base, out=tmp_path / "out")
    document = json.loads(json.dumps(result.to_dict()))
    assert document["epsilon_claimed"] == pytest.approx(4.0, rel=0.01)
    assert document["confidence"] == 0.95
    assert document["canaries"] == 600
    assert [attack["name"] for attack in document["attacks"]] == ["gradient", "gradient", "loss"]
    assert [attack["guesses"] for attack in document["attacks"]] == [120, 30, 16]
    headline = [attack["epsilon_lower_bound"] for attack in document["attacks"] if attack["in_headline"]]
    assert document["epsilon_lower_bound"] == max(headline)
    assert (tmp_path / "out" / "audit.svg").read_text().startswith("<?xml")
    assert "epsilon >= " in result.explain()
    assert base.network.state_dict().keys() == before.keys(), "the caller's model has no adapter"
    assert all(torch.equal(base.network.state_dict()[name], value) for name, value in before.items())


@pytest.mark.slow
@pytest.mark.planted
@pytest.mark.parametrize("epsilon", [1.0, pytest.param(4.0, marks=pytest.mark.slow)])
def test_planted_clipping_of_each_draw(
    epsilon: float, tiny_base: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    each_row_its_own(monkeypatch)
    result = tiny_audit(tiny_base(), epsilon)
    assert result.refuted
    assert "DOES NOT HOLD" in result.explain()


@pytest.mark.slow
@pytest.mark.planted
def test_planted_sampler_that_takes_everyone(
    tiny_base: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The accountant is told q = 0.1, every unit is in every step."""
    from dp_diffusers.engine.sampling import PoissonSampler

    plan = dpd.Plan.calibrate(
        dpd.Budget(epsilon=1.0, delta=DELTA), dpd.DPSGD(steps=8, expected_units=50, population=500)
    )
    monkeypatch.setattr(PoissonSampler, "units", lambda self, step: np.arange(self._unit_count))
    assert dpd.audit(tiny_base(), plan, strategy=STRATEGY, canaries=600).refuted


@pytest.mark.slow
def test_fewer_entries_than_canaries_is_said(tiny_base: Callable[..., Any]) -> None:
    strategy = {"name": "lora", "rank": 1, "targets": ["to_q"]}
    result = tiny_audit(tiny_base(), strategy=strategy, canaries=600)
    assert 20 < result.canaries < 600
    assert f"{result.canaries} canaries instead of 600" in result.explain()


@pytest.mark.slow
def test_a_hard_limit_leaves_room_for_every_unit(tiny_base: Callable[..., Any]) -> None:
    limited = dpd.DPSGD(steps=2, expected_units=40, population=400, max_units=120)
    budget = dpd.Budget(epsilon=4.0, delta=DELTA, adjacency="zero_out")
    result = dpd.audit(tiny_base(), dpd.Plan.calibrate(budget, limited), strategy=STRATEGY, canaries=600)
    assert 300 < result.canaries <= 400 - attacking.PUBLIC_IMAGES
    assert result.adjacency == "zero_out"
    assert not result.refuted


def test_what_cannot_be_audited(tiny_base: Callable[..., Any]) -> None:
    plan = dpd.Plan.calibrate(None, NonPrivate(steps=2, expected_units=5, population=10))
    with pytest.raises(ParameterError, match="a plan without privacy"):
        dpd.audit(tiny_base(), plan)
    with pytest.raises(ParameterError, match="expected canaries > 0"):
        tiny_audit(tiny_base(), canaries=0)
    with pytest.raises(ModelError, match="base model"):
        tiny_audit("/no/such/model")


def without_private_files(recipe: Path) -> Path:
    """The tiny recipe, its images gone."""
    (recipe.parent / "images" / "data" / "train-00000-of-00001.parquet").unlink()
    return recipe


@pytest.mark.slow
def test_guarantee_an_audit_reads_no_private_image_and_costs_nothing(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("the audit opened private images")

    for opener in ("open", "from_parquet", "from_folder"):
        monkeypatch.setattr(PrivateImages, opener, never)
    out = tiny_recipe.parent / "audit"
    arguments = ["audit", str(without_private_files(tiny_recipe)), "--out", str(out), "--json"]
    assert main([*arguments, "--set", "audit.canaries=100"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "audit.json").read_text())
    assert {"epsilon_claimed", "epsilon_lower_bound", "confidence", "canaries"} <= printed.keys()
    planned = Recipe.load(tiny_recipe).plan().record
    assert planned is not None
    assert printed["mechanism"] == planned.to_dict()
    assert printed["strategy"] == "lora"
    assert sorted(path.name for path in out.iterdir()) == ["audit.json", "audit.svg"]
    assert not (tiny_recipe.parent / "tiny.ledger").exists()


@pytest.mark.slow
@pytest.mark.planted
def test_the_command_exits_with_4_where_the_claim_does_not_hold(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    each_row_its_own(monkeypatch)
    noisy = ["--set", "budget.epsilon=1", "--set", "training.noise_draws=12", "--set", "strategy.rank=8"]
    assert main(["audit", str(tiny_recipe), "--out", str(tiny_recipe.parent / "audit"), *noisy]) == 4
    assert "error: this training gives away more than the claimed epsilon of" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["the folder", "what lies above it", "what lies in it"])
def test_private_images_are_not_taken_for_public_ones(place: str, tiny_recipe: Path) -> None:
    recipe = Recipe.load(tiny_recipe)
    private = Path(recipe.data.path)
    public = {
        "the folder": private,
        "what lies above it": private.parent,
        "what lies in it": private / "data",
    }
    told = recipe.model_copy(update={"audit": recipe.audit.model_copy(update={"public": str(public[place])})})
    with pytest.raises(ParameterError, match="is where the private images are"):
        audit_recipe(told)


def taken_for_public(recipe: Path, public: object, private: object) -> bool:
    """Whether an audit goes on, or fails for another reason."""
    given = [f"data.path={private}", f"audit.public={public}", "audit.canaries=20"]
    try:
        audit_recipe(Recipe.load(recipe, given))
    except InputError as error:
        return "is where the private images are" not in str(error)
    return True


def test_private_images_under_another_name_are_not_taken_for_public_ones(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    taken = []
    for number, (case, same) in enumerate(SAME.items()):
        films(root := tmp_path / str(number) / "x")
        if taken_for_public(tiny_recipe, *same(root)):
            taken.append(case)
    assert taken == []


@pytest.mark.slow
def test_public_images_are_used(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = attacking.pictures.public_images
    monkeypatch.setattr(
        attacking.pictures, "public_images", lambda *args: seen.append(args[0]) or real(*args)
    )
    public = tiny_recipe.parent / "public.parquet"
    images = tiny_recipe.parent / "images" / "data" / "train-00000-of-00001.parquet"
    public.write_bytes(images.read_bytes())
    settings = Recipe.load(tiny_recipe, [f"audit.public={public}", "audit.canaries=40"])
    audit_recipe(settings)
    assert seen == [str(public)]
