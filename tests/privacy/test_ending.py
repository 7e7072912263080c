"""Runs that are closed by hand, and what they count from then on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dp_diffusers.errors import BudgetError, LedgerError, RunClosed
from dp_diffusers.privacy import ending, ledger_file, reservation
from dp_diffusers.privacy import ledger as ledger_module
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.reservation import Reservation
from dp_diffusers.privacy.spending import total
from dp_diffusers.run.folder import RunFolder


@pytest.fixture(autouse=True)
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder `here`, relative to which `charged` works and where nobody is at work."""
    monkeypatch.chdir(tmp_path)
    RunFolder(Path("here")).create()
    with RunFolder(Path("here")).lock():
        pass


def charged(ledger: Ledger, plan: Any, lanes: Callable[..., Any], steps: int, name: str) -> Reservation:
    account = ledger.reserve(plan, run_id=name)
    account.open_lane(lanes(), folder="here")
    for step in range(steps):
        account.charge(step)
    return account


def test_a_run_is_found_by_the_beginning_of_its_name(ledger, roomy, new_keys) -> None:
    for name in ("abc1", "abd2"):
        ledger.reserve(roomy(), run_id=name)
    assert ending.find_run(ledger, "abc").run_id == "abc1"
    assert ending.find_run(ledger, "abd2").run_id == "abd2"
    with pytest.raises(LedgerError, match="2 runs") as caught:
        ending.find_run(ledger, "ab")
    assert caught.value.hint
    with pytest.raises(LedgerError, match="no run 'bcd1'") as caught:
        ending.find_run(ledger, "bcd1")
    assert caught.value.hint == "did you mean 'abc1'?"
    with pytest.raises(LedgerError, match="no run ''"):
        ending.find_run(ledger, "")


def test_settling_needs_a_charge_and_happens_once(ledger, plan, new_keys) -> None:
    charged(ledger, plan, new_keys, 0, "mine")
    with pytest.raises(LedgerError, match="charged nothing") as caught:
        ledger.settle("mine")
    assert "ledger abandon" in str(caught.value.hint)
    account = ledger.resume("mine")
    account.open_lane(new_keys(), folder="here")
    account.charge(0)
    assert ledger.settle("mi").status == "settled"
    head = ledger.head
    assert ledger.settle("mine").given_up
    assert ledger.head == head
    with pytest.raises(RunClosed, match="settled"):
        account.charge(1)
    with pytest.raises(LedgerError, match="settled already"):
        ledger.abandon("mine")


def test_abandoning_before_the_first_charge_gives_everything_back(ledger, plan, new_keys) -> None:
    charged(ledger, plan, new_keys, 0, "mine")
    run = ledger.abandon("mine")
    assert (run.status, run.abandoned) == ("cancelled", True)
    assert ledger.abandon("mine").abandoned, "again is the same"
    assert ledger.spent().epsilon == 0
    with pytest.raises(RunClosed, match="abandoned"):
        ledger.refuse_given_up("mine", complete=True)
    ledger.reserve(plan)


def test_a_run_given_up_is_refused_unless_it_is_complete(ledger, roomy, new_keys) -> None:
    charged(ledger, roomy(), new_keys, 3, "one")
    ledger.refuse_given_up("one", complete=False)
    ledger.settle("one")
    with pytest.raises(RunClosed, match=r"settled in the ledger .* after 3 of 30 steps") as caught:
        ledger.refuse_given_up("one", complete=False)
    assert caught.value.exit_code == 3
    ledger.refuse_given_up("one", complete=True)
    ledger.refuse_given_up("another", complete=False)


def counted(ledger: Ledger, name: str) -> float:
    return ledger.run(name).cost.epsilon


def test_guarantee_stopping_by_choice_gives_back_nothing_but_under_the_filter(
    ledger, roomy, new_keys
) -> None:
    """Who stops a run has seen its steps: only the filter's theorem covers that."""
    plan = roomy(cap=1.4)
    charged(ledger, plan, new_keys, 3, "one")
    reserved = ledger.run("one").reserved_cost
    ledger.settle("one")
    assert counted(ledger, "one") == reserved.epsilon
    assert ledger.spent().rule == "pld"
    assert ledger.spent().epsilon == reserved.epsilon_at_cap
    charged(ledger, plan, new_keys, 30, "two").settle()
    assert ledger.spent().rule == "filter"
    assert ledger.spent().epsilon <= 1.4
    joint = epsilon([plan.mechanism.record(plan.noise_multiplier, 33)], 1e-4)
    assert joint <= ledger.spent().epsilon


def test_guarantee_a_cap_that_one_run_fills_is_not_refilled_by_stopping_it(ledger, plan, new_keys) -> None:
    charged(ledger, plan, new_keys, 1, "one")
    ledger.settle("one")
    assert ledger.run("one").cost == ledger.run("one").reserved_cost
    with pytest.raises(BudgetError):
        ledger.reserve(plan)


@pytest.mark.planted
def test_planted_a_stopped_run_counts_what_it_charged(ledger, plan, new_keys, monkeypatch) -> None:
    """Then a run could be stopped for what its steps showed, and its whole delta be had again by another."""
    monkeypatch.setattr(reservation, "cost_when_stopped", lambda charged, reserved, terms: charged)
    charged(ledger, plan, new_keys, 1, "one")
    ledger.settle("one")
    assert ledger.run("one").cost != ledger.run("one").reserved_cost, "the planted defect must be visible"


def test_unseen_it_counts_what_it_charged(ledger, plan, new_keys) -> None:
    charged(ledger, plan, new_keys, 3, "one")
    run = ledger.abandon("one", unseen=True)
    expected = epsilon([plan.mechanism.record(plan.noise_multiplier, 3)], 1e-4)
    assert run.abandoned
    assert ledger.spent().epsilon == pytest.approx(expected)
    assert ledger.entries()[-1].content["unseen"] is True


def test_a_run_that_came_to_its_planned_end_counts_what_it_charged(ledger, plan, new_keys) -> None:
    charged(ledger, plan, new_keys, 30, "one")
    run = ledger.settle("one")
    assert run.cost == run.charged_cost


def test_guarantee_a_run_at_work_is_left_alone(ledger, roomy, new_keys, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    account = ledger.reserve(roomy(), run_id="one")
    with folder.lock():
        account.open_lane(new_keys(), folder=str(folder.root))
        account.charge(0)
        for close in (ledger.settle, ledger.abandon):
            with pytest.raises(LedgerError, match="another process is at work on run one"):
                close("one")
        account.charge(1)
    assert ledger.settle("one").steps_charged == 2


@pytest.mark.parametrize("folder", ["gone", None])
def test_guarantee_a_run_out_of_sight_is_closed_only_where_it_is_stated_to_have_stopped(
    ledger, roomy, new_keys, folder: str | None
) -> None:
    """The folder is on another machine, outside of this container, or was never named."""
    account = ledger.reserve(roomy(), run_id="one")
    account.open_lane(new_keys(), folder=folder)
    account.charge(0)
    for close in (ledger.settle, ledger.abandon):
        with pytest.raises(LedgerError, match="a process may be at work on it") as caught:
            close("one")
        assert "--stopped-elsewhere" in str(caught.value.hint)
    account.charge(1)
    assert ledger.abandon("one", stopped_elsewhere=True).abandoned


def test_guarantee_a_lock_that_is_seen_is_held_whatever_is_stated(ledger, roomy, new_keys) -> None:
    charged(ledger, roomy(), new_keys, 1, "one")
    with RunFolder(Path("here")).lock(), pytest.raises(LedgerError, match="another process is at work"):
        ledger.settle("one", stopped_elsewhere=True)


def test_a_folder_that_cannot_be_opened_is_out_of_sight(ledger, roomy, new_keys) -> None:
    charged(ledger, roomy(), new_keys, 1, "one")
    lock = Path("here/private/lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(LedgerError, match="a process may be at work on it"):
        ledger.settle("one")


def test_a_run_that_no_process_began_needs_no_statement(ledger, roomy) -> None:
    ledger.reserve(roomy(), run_id="one")
    assert ledger.abandon("one").status == "cancelled"


def test_guarantee_times_never_matter(ledger, roomy, new_keys, monkeypatch) -> None:
    """A clock that is set back changes what entries say about when, and nothing else."""
    times = iter([f"{year}-01-01T00:00:00+00:00" for year in range(2040, 1990, -1)])
    for module in (ledger_file, ledger_module, reservation):
        monkeypatch.setattr(module, "utc_now", lambda: next(times))
    plan = roomy(cap=2.5)
    first = charged(ledger, plan, new_keys, 30, "one")
    first.settle()
    charged(ledger, plan, new_keys, 5, "two")
    resumed = ledger.resume("two")
    resumed.open_lane(new_keys())
    resumed.charge(3)
    assert ledger.run("two").steps_charged == 6
    assert ledger.run("two").status == "open"
    costs = [run.cost for run in ledger.runs()]
    assert ledger.spent() == total(costs, ledger.terms)
    written = [entry.content["at"] for entry in ledger.entries() if "at" in entry.content]
    assert written == sorted(written, reverse=True)
