"""What `train` says in the folder of a run that someone closed in the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dp_diffusers.cli.main import main
from dp_diffusers.errors import BudgetExhausted, RunClosed
from dp_diffusers.finetuning import train
from dp_diffusers.privacy import ending, reservation
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import Recipe
from dp_diffusers.run import running
from loop_support import cheap_trainings, small_budget


@pytest.fixture(scope="module", autouse=True)
def _cheap() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        cheap_trainings(patch.setattr)
        yield


def _stopped_after(step: int) -> Any:
    def stop(**facts: Any) -> None:
        if facts.get("step") == step:
            raise KeyboardInterrupt

    return stop


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _run_id(ledger: Path) -> str:
    with Ledger.open(ledger) as opened:
        (run,) = opened.runs()
        return run.run_id


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["settle", "abandon"])
def test_guarantee_a_closed_run_trains_no_further_and_loses_nothing(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    small_budget(tiny_recipe)
    with pytest.raises(KeyboardInterrupt):
        train(Recipe.load(tiny_recipe), tmp_path / "run", _stopped_after(2))
    ledger = tmp_path / "tiny.ledger"
    assert main(["ledger", verb, str(ledger), _run_id(ledger)[:8], "--quiet"]) == 0
    before, entries = _files(tmp_path / "run"), ledger.read_bytes()
    capsys.readouterr()
    assert main(["train", str(tiny_recipe), "--out", str(tmp_path / "run"), "--quiet"]) == 3
    said = capsys.readouterr().err.splitlines()
    past = {"settle": "settled", "abandon": "abandoned"}[verb]
    assert f"was {past} in the ledger" in said[0]
    assert "after 2 of 3 steps" in said[0]
    assert said[2].startswith("hint: ")
    assert len(said) == 3
    assert _files(tmp_path / "run") == before
    assert ledger.read_bytes() == entries


@pytest.mark.slow
def test_a_training_that_was_complete_is_released_after_settle(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_budget(tiny_recipe)
    with monkeypatch.context() as patch:
        patch.setattr(running, "_finish", _stopped_after(0))
        with pytest.raises(TypeError):  # dies between the last step and the release
            train(Recipe.load(tiny_recipe), tmp_path / "run")
    with Ledger.open(tmp_path / "tiny.ledger") as ledger:
        run = ledger.settle(_run_id(tmp_path / "tiny.ledger"))
        assert run.cost == run.charged_cost
    release = train(Recipe.load(tiny_recipe), tmp_path / "run")
    assert release.certificate.to_dict()["mechanisms"][0]["steps_charged"] == 3


def test_guarantee_the_run_folder_in_the_ledger_keeps_others_from_closing_it(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    small_budget(tiny_recipe)
    codes: list[int] = []

    def close(**facts: Any) -> None:
        if facts.get("step") == 1:
            ledger = tmp_path / "tiny.ledger"
            codes.append(main(["ledger", "abandon", str(ledger), _run_id(ledger)]))

    release = train(Recipe.load(tiny_recipe), tmp_path / "run", close)
    assert codes == [2]
    assert release.certificate.to_dict()["mechanisms"][0]["steps_charged"] == 3


def _closed_after(recipe: Path, run: Path, step: int, **stated: bool) -> None:
    """A training whose run someone closes after `step`, from where its folder cannot be seen."""

    def close(**facts: Any) -> None:
        if facts.get("step") == step:
            ledger = run.parent / "tiny.ledger"
            with Ledger.open(ledger) as opened:
                opened.settle(_run_id(ledger), stopped_elsewhere=True, **stated)

    train(Recipe.load(recipe), run, close)


@pytest.mark.slow
@pytest.mark.parametrize("unseen", [False, True])
def test_guarantee_a_training_that_is_closed_under_way_releases_nothing(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unseen: bool
) -> None:
    """Its budget is not spent: someone chose, and may have seen what was released."""
    small_budget(tiny_recipe)
    monkeypatch.setattr(ending, "_hold", lambda run, stack: False)
    for message in ("is settled: it charges no more steps", "was settled in the ledger"):  # and when resumed
        with pytest.raises(RunClosed, match=message) as caught:
            _closed_after(tiny_recipe, tmp_path / "run", 1, unseen=unseen)
        assert caught.value.exit_code == 3
        assert not list((tmp_path / "run" / "release").rglob("*.*"))


@pytest.mark.planted
def test_planted_a_closed_run_taken_for_a_spent_budget(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_budget(tiny_recipe)
    monkeypatch.setattr(ending, "_hold", lambda run, stack: False)
    monkeypatch.setattr(reservation, "RunClosed", BudgetExhausted)
    _closed_after(tiny_recipe, tmp_path / "run", 1, unseen=True)
    assert (tmp_path / "run" / "release" / "certificate.json").exists(), "the planted defect must be visible"
