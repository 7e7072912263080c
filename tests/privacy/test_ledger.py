"""The ledger: what is charged is at least what is released, and never more than allowed."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import (
    BudgetError,
    BudgetExhausted,
    ExitCode,
    GuaranteeError,
    LedgerError,
    RunClosed,
)
from dp_diffusers.privacy import spending
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.ledger_file import EMPTY_HEAD
from dp_diffusers.privacy.receipt import Receipt
from dp_diffusers.privacy.reservation import Reservation

CHARGER = """
import os, sys
from types import SimpleNamespace
from dp_diffusers.privacy.ledger import Ledger
path, run, first, count, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
reservation = Ledger.open(path).resume(run)
keys = SimpleNamespace(lane=os.urandom(16), not_private=False)
reservation.open_lane(keys)
released = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for step in range(first, first + count):
    reservation.charge(step).redeem(step, keys.lane, reservation.plan_fingerprint)
    os.write(released, b"x")
"""


def start_charging(path: str, run: str, first: int, count: int, out: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", CHARGER, path, run, str(first), str(count), str(out)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE)


def charge_all(reservation: Reservation, keys: Any, steps: int) -> None:
    reservation.open_lane(keys)
    for step in range(steps):
        reservation.charge(step)


def test_a_run_from_reservation_to_settlement(ledger, plan, new_keys):
    assert ledger.head == EMPTY_HEAD
    assert ledger.spent().rule == "none"
    reservation = ledger.reserve(plan)
    assert ledger.spent().epsilon == pytest.approx(plan.epsilon, rel=0.01), "the whole cost is there at once"
    charge_all(reservation, new_keys(), 10)
    assert reservation.steps_charged == 10
    assert reservation.settle(unseen=True) == reservation.settle() == 10
    spent = ledger.spent()
    expected = epsilon([plan.mechanism.record(plan.noise_multiplier, 10)], plan.delta)
    assert (spent.epsilon, spent.delta, spent.rule) == (pytest.approx(expected), 1e-4, "pld")
    assert [entry.kind for entry in ledger.entries()][:3] == ["terms", "reserve", "lane"]


def test_guarantee_a_charge_is_synced_and_leaves_a_void_journal_in_its_place(tmp_path, plan, new_keys):
    """The journal's header is voided (28 bytes), its blocks stay: nothing is made or dropped."""
    journal, sizes = tmp_path / "data.ledger-journal", []
    with Ledger.open(tmp_path / "data.ledger") as ledger:
        account = ledger.reserve(plan)
        account.open_lane(new_keys())
        assert ledger.file._connection.execute("PRAGMA synchronous").fetchone() == (3,), "EXTRA"
        for step in range(3):
            account.charge(step)
            content = journal.read_bytes()
            assert content[:28] == bytes(28), "a journal that is not void takes the charge back"
            sizes.append(len(content))
    assert len(set(sizes)) == 1
    assert sizes[0] > 0


def test_in_memory(plan, new_keys):
    with Ledger.open(":memory:") as ledger:
        charge_all(ledger.reserve(plan), new_keys(), 2)
        assert ledger.runs()[0].steps_charged == 2


def test_guarantee_receipt_opens_one_release(ledger, plan, new_keys):
    reservation, keys = ledger.reserve(plan), new_keys()
    with pytest.raises(GuaranteeError, match="open_lane"):
        reservation.charge(0)
    reservation.open_lane(keys)
    receipt = reservation.charge(0)
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(GuaranteeError):
            copier(receipt)
    receipt.redeem(0, keys.lane, plan.fingerprint)
    with pytest.raises(GuaranteeError, match="before"):
        receipt.redeem(0, keys.lane, plan.fingerprint)


@pytest.mark.parametrize("wrong", ["step", "lane", "plan"])
def test_guarantee_receipt_refuses_another_release(ledger, plan, new_keys, wrong):
    reservation, keys = ledger.reserve(plan), new_keys()
    reservation.open_lane(keys)
    receipt = reservation.charge(3)
    asked = {"step": 3, "lane": keys.lane, "plan_fingerprint": plan.fingerprint}
    other = {"step": {"step": 4}, "lane": {"lane": new_keys().lane}, "plan": {"plan_fingerprint": "0"}}
    asked |= other[wrong]
    with pytest.raises(GuaranteeError, match=wrong):
        receipt.redeem(**asked)


def test_guarantee_a_lane_never_repeats_a_step(ledger, plan, new_keys):
    reservation = ledger.reserve(plan)
    reservation.open_lane(new_keys())
    reservation.charge(5)
    for step in (5, 4):
        with pytest.raises(GuaranteeError, match="repeat"):
            reservation.charge(step)
    reservation.open_lane(new_keys())
    reservation.charge(4)
    assert reservation.steps_charged == 2, "a redone step is paid again"


def test_guarantee_known_lane_refused(ledger, roomy, new_keys):
    keys = new_keys()
    ledger.reserve(roomy()).open_lane(keys)
    with pytest.raises(LedgerError, match="used before"):
        ledger.reserve(roomy()).open_lane(keys)


def test_guarantee_older_lane_is_void(ledger, plan, new_keys):
    first = ledger.reserve(plan)
    first.open_lane(new_keys())
    first.charge(0)
    second = ledger.resume(first.run_id)
    second.open_lane(new_keys())
    with pytest.raises(LedgerError, match="taken over"):
        first.charge(1)
    second.charge(1)
    assert second.steps_charged == 2


def test_guarantee_older_lane_is_void_after_the_newer_one_has_finished(ledger, plan, new_keys):
    """It must not take the other's end for a budget that is spent, and release beside it."""
    first = ledger.reserve(plan)
    first.open_lane(new_keys())
    first.charge(0)
    first.require_affordable()
    second = ledger.resume(first.run_id)
    second.open_lane(new_keys())
    step = 1
    while second.steps_charged < second.limit:
        second.charge(step)
        step += 1
    with pytest.raises(BudgetExhausted):
        second.require_affordable()
    for _ in range(2):  # at the limit, and settled
        with pytest.raises(LedgerError, match="taken over"):
            first.require_affordable()
        second.settle()


def charges_beyond(reservation: Reservation, lanes) -> int:
    """Charges redone steps until refused; returns how many were charged."""
    while True:
        reservation.open_lane(lanes())
        try:
            for step in range(20):
                reservation.charge(step)
        except BudgetExhausted:
            return reservation.steps_charged


def holds_the_limit(ledger, plan, lanes) -> bool:
    reservation = ledger.reserve(plan)
    charged = charges_beyond(reservation, lanes)
    spent = epsilon([plan.mechanism.record(plan.noise_multiplier, charged)], plan.delta)
    return plan.steps <= charged == reservation.limit and spent <= plan.budget.epsilon


def test_guarantee_redone_steps_stay_within_the_budget(ledger, plan, new_keys):
    assert holds_the_limit(ledger, plan, new_keys)


@pytest.mark.planted
def test_planted_redone_steps_for_free(ledger, plan, new_keys, monkeypatch):
    monkeypatch.setattr(Reservation, "limit", property(lambda self: 3 * self._run.limit))
    assert not (charges_beyond(ledger.reserve(plan), new_keys) <= plan.steps * 1.05), (
        "the planted defect must be visible"
    )


def test_limit_uses_what_the_budget_leaves(tmp_path, new_keys):
    from dp_diffusers.mechanisms.dpsgd import DPSGD
    from dp_diffusers.plan import Plan
    from dp_diffusers.privacy.budget import Budget

    plan = Plan.calibrate(Budget(2.0, 1e-5), DPSGD(steps=300, expected_units=2000, population=10000))
    with Ledger.open(":memory:") as ledger:
        limit = ledger.reserve(plan).limit
        assert ledger.spent().epsilon <= 2.0
    more = epsilon([plan.mechanism.record(plan.noise_multiplier, limit + 4)], 1e-5)
    assert limit >= 300
    assert more > 2.0, "the limit is near the largest that fits"


def test_cap_refuses_with_exit_3_and_writes_nothing(ledger, plan, new_keys):
    charge_all(ledger.reserve(plan), new_keys(), 30)
    head = ledger.head
    with pytest.raises(BudgetError, match="cap of 1") as caught:
        ledger.reserve(plan)
    assert caught.value.exit_code == ExitCode.BUDGET_REFUSED
    assert caught.value.hint
    assert ledger.head == head


def reserved_or_refused(ledger: Ledger, plan) -> Reservation | None:
    try:
        return ledger.reserve(plan)
    except BudgetError:
        return None


def test_guarantee_cap_holds_across_runs(ledger, roomy, new_keys):
    plan, runs = roomy(cap=2.5), 0
    while (reservation := reserved_or_refused(ledger, plan)) is not None:
        charge_all(reservation, new_keys(), 30)
        runs += 1
        assert ledger.spent().epsilon <= 2.5
        assert ledger.spent().rule == ("pld" if runs == 1 else "filter")
    assert runs >= 3, "runs add up to less than the sum of their epsilons"
    joint = epsilon([plan.mechanism.record(plan.noise_multiplier, 30 * runs)], 1e-4)
    assert joint <= ledger.spent().epsilon, "the filter is above the non-adaptive bound"


def test_settling_early_gives_the_rest_back(ledger, roomy, new_keys):
    plan = roomy(cap=1.4)
    first = ledger.reserve(plan)
    charge_all(first, new_keys(), 3)
    with pytest.raises(BudgetError):
        ledger.reserve(plan)
    first.settle()
    charge_all(ledger.reserve(roomy(cap=1.4)), new_keys(), 2)


def test_cancel_gives_all_back_and_only_before_the_first_charge(ledger, plan, new_keys):
    reservation = ledger.reserve(plan, run_id="mine")
    assert ledger.has_run("mine")
    with pytest.raises(LedgerError, match="already"):
        ledger.reserve(plan, run_id="mine")
    reservation.cancel()
    assert not ledger.has_run("mine")
    assert ledger.spent().epsilon == 0
    with pytest.raises(LedgerError, match="cancelled"):
        ledger.resume("mine")
    again = ledger.reserve(plan, run_id="mine")
    charge_all(again, new_keys(), 1)
    with pytest.raises(GuaranteeError, match="cannot be cancelled"):
        again.cancel()


def test_a_settled_run_can_be_certified_but_not_charged(ledger, plan, new_keys):
    reservation = ledger.reserve(plan)
    charge_all(reservation, new_keys(), 4)
    reservation.settle()
    resumed = ledger.resume(reservation.run_id)
    resumed.open_lane(new_keys())
    with pytest.raises(RunClosed, match="settled"):
        resumed.charge(4)
    assert resumed.settle() == 4
    assert 0 < resumed.epsilon() <= plan.epsilon


def test_no_cap_records_without_limit(ledger, roomy, new_keys):
    plan = roomy(cap=None)
    for _ in range(3):
        charge_all(ledger.reserve(plan), new_keys(), 30)
    spent = ledger.spent()
    assert (spent.rule, spent.delta) == ("sum", pytest.approx(3e-4))
    assert 2.9 < spent.epsilon <= 3.0


@pytest.mark.parametrize(
    ("change", "named"),
    [({"unit": "patient"}, "unit image there, patient asked"), ({"adjacency": "zero_out"}, "adjacency")],
)
def test_other_terms_are_refused_by_name(ledger, roomy, change, named):
    ledger.reserve(roomy())
    with pytest.raises(LedgerError, match=named):
        ledger.reserve(roomy(**change))
    with pytest.raises(LedgerError, match=r"cap \(epsilon 3, delta 0.0001\) there, \(epsilon 4"):
        ledger.reserve(roomy(cap=4.0))


def test_not_private_lane_marks_the_run(ledger, plan, new_keys):
    reservation = ledger.reserve(plan)
    reservation.open_lane(new_keys())
    assert not reservation.not_private
    reservation.open_lane(new_keys(not_private=True))
    reservation.open_lane(new_keys())
    assert ledger.resume(reservation.run_id).not_private


def test_guarantee_test_keys_cannot_pass_as_private(ledger, plan):
    """A lane is opened with the keys, never with bytes beside which a flag may be forgotten."""
    reservation = ledger.reserve(plan)
    with pytest.raises(AttributeError):
        reservation.open_lane(bytes(16))
    reservation.open_lane(RunKeys.for_tests(0))
    assert reservation.not_private


def test_append_only(file_ledger, plan):
    file_ledger.reserve(plan)
    connection = sqlite3.connect(file_ledger.path)
    other = "seq, kind, 'x', content, hash FROM entries WHERE seq = 1"
    statements = (
        "UPDATE entries SET run = 'x'",
        "DELETE FROM entries",
        f"INSERT OR REPLACE INTO entries SELECT {other}",
        f"INSERT OR REPLACE INTO entries SELECT seq + 1000{other.removeprefix('seq')}",
    )
    for statement in statements:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)


def test_a_new_ledger_is_for_its_owner_alone(file_ledger):
    assert Path(file_ledger.path).stat().st_mode & 0o777 == 0o600


def test_a_ledger_of_the_first_format_goes_on(file_ledger, plan):
    file_ledger.reserve(plan)
    file_ledger.close()
    with contextlib.closing(sqlite3.connect(file_ledger.path)) as connection:
        connection.executescript("DROP TRIGGER never_replace; PRAGMA user_version = 1")
    with Ledger.open(file_ledger.path) as again:
        (run,) = again.runs()
        charge_all(again.resume(run.run_id), RunKeys.fresh(), 2)
        assert len(list(again.export())) == len(again.entries()) > 3
    with Ledger.open(file_ledger.path) as again:
        assert again.run(run.run_id).steps_charged == 2


TAMPER = {
    "content": "UPDATE entries SET content = replace(content, '\"count\":3', '\"count\":1') WHERE seq = 6",
    "last entry": "DELETE FROM entries WHERE seq = 6",
    "middle entry": "DELETE FROM entries WHERE seq = 5",
    "column": "UPDATE entries SET run = 'other' WHERE seq = 6",
    "not json": "UPDATE entries SET content = 'x' WHERE seq = 6",
}


@pytest.fixture(scope="module")
def charged_ledger(tmp_path_factory, plan):
    """Bytes of a ledger with three charges, and its head."""
    path = tmp_path_factory.mktemp("charged") / "data.ledger"
    with Ledger.open(path) as ledger:
        charge_all(ledger.reserve(plan), RunKeys.fresh(), 3)
        head = ledger.head
    Ledger.open(path, expect_head=head).close()
    return path.read_bytes(), head


@pytest.mark.parametrize("how", TAMPER)
@pytest.mark.parametrize("restore_triggers", [True, False])
def test_guarantee_alterations_are_noticed(tmp_path, charged_ledger, how, restore_triggers):
    path = tmp_path / "data.ledger"
    content, head = charged_ledger
    path.write_bytes(content)
    with sqlite3.connect(path) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(TAMPER[how])
        for _, sql in triggers if restore_triggers else []:
            connection.execute(sql)
    connection.close()
    with pytest.raises(LedgerError) as caught:
        Ledger.open(path, expect_head=head)
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_guarantee_an_older_copy_is_refused(tmp_path, plan, new_keys):
    path = tmp_path / "data.ledger"
    with Ledger.open(path) as ledger:
        reservation = ledger.reserve(plan)
        charge_all(reservation, new_keys(), 1)
        older = path.read_bytes()
        known = ledger.head
        reservation.charge(1)
        newer = ledger.head
    Ledger.open(path, expect_head=known).close()
    path.write_bytes(older)
    Ledger.open(path, expect_head=known).close()
    with pytest.raises(LedgerError, match="does not contain the head"):
        Ledger.open(path, expect_head=newer)


def test_files_that_are_not_ledgers(tmp_path, plan):
    (tmp_path / "text").write_text("hello, this is not a database at all" * 50)
    (tmp_path / "empty").touch()
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE t (x)").connection.close()
    for name in ("text", "empty", "other"):
        with pytest.raises(LedgerError):
            Ledger.open(tmp_path / name)
    for path in (tmp_path, tmp_path / "no" / "folder.ledger"):
        with pytest.raises(LedgerError):
            Ledger.open(path)
    with pytest.raises(LedgerError, match="no ledger at"):
        Ledger.open(tmp_path / "absent", create=False)
    with Ledger.open(tmp_path / "cut") as ledger:
        ledger.reserve(plan)
    content = (tmp_path / "cut").read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    with pytest.raises(LedgerError):
        Ledger.open(tmp_path / "cut")


def test_locked_ledger_says_so(file_ledger, plan):
    holder = sqlite3.connect(file_ledger.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    with pytest.raises(LedgerError, match="locked by another process") as caught:
        Ledger.open(file_ledger.path, busy_seconds=0.2)
    assert caught.value.hint
    assert time.monotonic() - began < 5
    holder.execute("ROLLBACK")
    file_ledger.reserve(plan)


def test_full_disk_is_one_error_and_no_receipt(ledger, plan, new_keys):
    reservation = ledger.reserve(plan)
    reservation.open_lane(new_keys())
    pages = ledger.file._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger.file._connection.execute(f"PRAGMA max_page_count = {pages}")
    receipts: list[Receipt] = []
    with pytest.raises(LedgerError, match="full"):
        receipts.extend(map(reservation.charge, range(30)))
    assert reservation.steps_charged == len(receipts) < 30


def test_charging_is_cheap(plan, new_keys):
    with Ledger.open(":memory:") as ledger:
        reservation = ledger.reserve(plan)
        reservation.open_lane(new_keys())
        began = time.process_time()
        for step in range(30):
            reservation.charge(step)
        assert (time.process_time() - began) / 30 < 0.005


def test_two_processes_charge_their_runs_at_once(tmp_path, roomy):
    with Ledger.open(tmp_path / "data.ledger") as ledger:
        runs = [ledger.reserve(roomy()).run_id for _ in range(2)]
        started = [start_charging(ledger.path, run, 0, 25, tmp_path / run) for run in runs]
        for process in started:
            assert process.wait(60) == 0, process.stderr.read()
    with Ledger.open(tmp_path / "data.ledger") as again:
        assert [run.steps_charged for run in again.runs()] == [25, 25]
        assert [(tmp_path / run).stat().st_size for run in runs] == [25, 25]


def ledger_covers_the_truth(path: Path, run: str, out: Path) -> bool:
    released = out.stat().st_size if out.exists() else 0
    with Ledger.open(path) as ledger:
        return ledger.run(run).steps_charged >= released


def test_guarantee_killed_at_any_time_the_ledger_says_enough(tmp_path, roomy):
    path, out = tmp_path / "data.ledger", tmp_path / "released"
    with Ledger.open(path) as ledger:
        run = ledger.reserve(roomy()).run_id
    for delay in (0.0, 0.002, 0.005):
        process = start_charging(str(path), run, 0, 10_000, out)
        before = out.stat().st_size if out.exists() else 0
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            if out.exists() and out.stat().st_size > before:
                break
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.wait()
        assert ledger_covers_the_truth(path, run, out)
    assert out.stat().st_size > 0


@pytest.mark.planted
def test_planted_release_before_the_charge_is_visible(tmp_path, plan, new_keys):
    """A release that the ledger does not know of makes the comparison fail."""
    with Ledger.open(tmp_path / "data.ledger") as ledger:
        reservation = ledger.reserve(plan)
        charge_all(reservation, new_keys(), 2)
    (tmp_path / "released").write_bytes(b"xxx")
    assert not ledger_covers_the_truth(tmp_path / "data.ledger", reservation.run_id, tmp_path / "released")


def test_filter_order_is_fixed_by_the_first_plan(file_ledger, roomy, plan):
    file_ledger.reserve(roomy())
    order = file_ledger.terms.order
    assert order > 1
    assert spending.Terms.first(roomy().budget, roomy().record).order == order
    with Ledger.open(file_ledger.path) as again:
        assert again.terms == file_ledger.terms


def test_read_only_ledger_can_be_shown(tmp_path, plan):
    path = tmp_path / "data.ledger"
    with Ledger.open(path) as ledger:
        ledger.reserve(plan)
    path.chmod(0o444)
    if os.geteuid() == 0:
        pytest.skip("root writes to read-only files")
    with Ledger.open(path, create=False) as ledger:
        assert ledger.spent().epsilon > 0
        with pytest.raises((LedgerError, BudgetError)):
            ledger.reserve(plan)


def test_a_run_that_was_cancelled_fixes_no_terms(roomy, file_ledger, new_keys):
    """Nothing was charged, so a recipe that named the wrong unit may be corrected; a charge binds."""
    file_ledger.reserve(roomy(unit="patent")).cancel()
    assert (file_ledger.terms, file_ledger.spent().epsilon) == (None, 0.0)
    account = file_ledger.reserve(roomy(unit="patient"))
    assert file_ledger.terms.unit == "patient"
    account.open_lane(new_keys())
    account.charge(0)
    with pytest.raises(LedgerError, match="unit patient there, patent asked"):
        file_ledger.reserve(roomy(unit="patent"))
    with Ledger.open(file_ledger.path) as opened:
        assert opened.terms == file_ledger.terms
