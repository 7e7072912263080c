"""What a refusal by the cap says of runs that hold it, and of what is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from dp_diffusers.errors import BudgetError
from dp_diffusers.privacy.ledger import Ledger

NAME = "91bea7031aec4f0e9d0c2d4e7f8a9b01"
IMAGES = "the releases that are there can go on giving images at no cost"


def begun(ledger: Ledger, plan: Any, keys: Any, steps: int, *, folder: str | None = "/runs/one") -> Any:
    account = ledger.reserve(plan, run_id=NAME)
    account.open_lane(keys, folder=folder)
    for step in range(steps):
        account.charge(step)
    return account


def refused(ledger: Ledger, plan: Any) -> str:
    with pytest.raises(BudgetError) as caught:
        ledger.reserve(plan)
    return str(caught.value.hint)


def test_a_run_that_fills_its_cap_alone_is_to_be_gone_on_with(ledger, plan, new_keys) -> None:
    """Closing it gives nothing back: who stops a run may have seen its steps."""
    begun(ledger, plan, new_keys(), 12)
    assert refused(ledger, plan) == (
        "run 91bea7031aec (12 of 30 steps) is open in /runs/one: go on with it there (--out that folder, or "
        "where it was moved to); closed by choice it counts all of it, but not if nobody saw what it made: "
        "`dp-diffusers ledger settle :memory: 91bea7031aec --unseen`"
    )
    ledger.settle("91bea7031aec", stopped_elsewhere=True)
    assert refused(ledger, plan).startswith("nothing usable is left of the cap"), "as the hint said"


def test_a_run_that_the_filter_covers_gives_back_what_it_has_not_charged(ledger, roomy, new_keys) -> None:
    plan = roomy(cap=1.4)
    begun(ledger, plan, new_keys(), 3)
    said = refused(ledger, plan)
    assert said.startswith("at most epsilon 0.4"), "that is left as well"
    assert said.endswith(
        "or close it with `dp-diffusers ledger settle :memory: 91bea7031aec`, which gives back what it has "
        "not charged"
    )
    ledger.settle("91bea7031aec", stopped_elsewhere=True)
    ledger.reserve(plan)  # as the hint said


def test_a_run_that_charged_nothing_is_given_back_whole(tmp_path, plan, new_keys) -> None:
    with Ledger.open(tmp_path / "our images.ledger") as ledger:
        begun(ledger, plan, new_keys(), 0)
        said = refused(ledger, plan)
        verb = f"`dp-diffusers ledger abandon '{ledger.path}' 91bea7031aec`"
        assert "(0 of 30 steps) is open in /runs/one: go on with it there" in said
        assert said.endswith(f"or give all of it back with {verb}")
        assert IMAGES not in said
        ledger.abandon("91bea7031aec", stopped_elsewhere=True)
        ledger.reserve(plan)


def test_a_run_of_no_folder_is_named_all_the_same(ledger, plan, new_keys) -> None:
    begun(ledger, plan, new_keys(), 1, folder=None)
    assert "is open and names no folder: go on with it where it was begun" in refused(ledger, plan)


def test_releases_are_named_where_a_run_has_ended(ledger, plan, new_keys) -> None:
    account = begun(ledger, plan, new_keys(), 30)
    assert IMAGES not in refused(ledger, plan)
    account.settle()
    said = refused(ledger, plan)
    assert said == f"nothing usable is left of the cap, and no later run can change it; {IMAGES}"


def test_of_several_the_newest_is_named_and_all_are_counted(
    ledger, roomy: Callable[..., Any], new_keys
) -> None:
    plan = roomy(cap=2.5)
    ledger.reserve(plan, run_id=NAME)
    with contextlib.suppress(BudgetError):
        for number in range(9):
            ledger.reserve(plan, run_id=f"{NAME[:15]}-{number}")
    said = refused(ledger, plan)
    assert f"run {NAME[:15]}-" in said, "twelve characters are not enough here"
    assert said.endswith(
        f"; `dp-diffusers ledger show :memory:` lists all {len(ledger.runs())} that are open"
    )
