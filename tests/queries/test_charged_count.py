"""A question to a finished run: paid before it is answered, answered once, whenever a process dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asked_support import NAMES, Made, cheap_accounts, make_run, pictures
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.errors import BudgetError, DataError, LedgerError, ParameterError, RunFolderError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.receipt import Receipt
from dp_diffusers.privacy.reservation import Reservation
from dp_diffusers.queries import charged_count
from dp_diffusers.queries.charged_count import CountAnswer, ask, keep, plan_of_count
from dp_diffusers.run.asked_run import AskedRun

assert cheap_accounts
pytestmark = pytest.mark.slow
QUESTION = {"question": "how many are light"}
EPSILON = 2.0


def silent(**_: Any) -> None:
    """Progress that nobody sees."""


def light(run: AskedRun) -> tuple[PrivateImages, np.ndarray]:
    data = run.open_images(8, 1)
    return data, (data.images.mean((1, 2, 3)) > 120).astype(float)


def asked(made: Made, epsilon: float = EPSILON, question: dict[str, str] | None = None) -> CountAnswer:
    run = AskedRun.open(made.run)
    return ask(run, plan_of_count(run, epsilon), question or QUESTION, lambda: light(run), silent)


def charges(made: Made) -> int:
    return made.entries().count("charge") - 1  # one is the training's


def test_guarantee_an_answer_is_paid_for_once_and_close(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    before = made.spent()
    answer = asked(made)
    assert answer.noisy == pytest.approx(100, abs=6 * answer.std)
    assert answer.noisy != 100
    assert made.entries()[-4:] == ["reserve", "lane", "charge", "settle"]
    assert made.spent() > before
    assert answer.document["ledger"]["spent_epsilon"] == made.spent()
    with Ledger.open(made.ledger) as ledger:
        (run,) = [run for run in ledger.runs() if run.run_id != "training"]
        assert (run.status, run.steps_charged) == ("settled", 1)
        assert run.cost.epsilon == pytest.approx(answer.document["epsilon"])
    assert asked(made) == answer
    keep(answer, {"answer": "many"})
    assert asked(made) == answer
    assert charges(made) == 1
    assert asked(made, question={"question": "another"}).noisy != answer.noisy
    assert asked(made, epsilon=1.0).noisy != answer.noisy
    assert charges(made) == 3
    assert oct(answer.file.stat().st_mode)[-3:] == "600"
    assert oct(answer.file.parent.stat().st_mode)[-3:] == "700"


def unpaid(made: Made) -> bool:
    """The property: an answer is kept that the ledger knows nothing of."""
    asked(made)
    return charges(made) < 1


@pytest.mark.planted
def test_planted_answer_without_a_charge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, planted = (make_run(tmp_path / name) for name in ("sound", "planted"))
    assert not unpaid(sound)

    def forged(self: Any, step: int) -> Receipt:
        return Receipt(step=step, lane=self._lane, plan_fingerprint=self.plan_fingerprint)

    monkeypatch.setattr(Reservation, "charge", forged)
    monkeypatch.setattr(Reservation, "settle", lambda self, **_: None)
    assert unpaid(planted)


INSTANTS: dict[str, tuple[Any, str, str, int, int]] = {
    # where it dies: object, name, before or after the call, which call; how often it is paid for in all
    "before the reservation": (Ledger, "reserve", "before", 1, 1),
    "reserved": (Ledger, "reserve", "after", 1, 1),
    "lane open": (Reservation, "open_lane", "after", 1, 1),
    "counted": (charged_count, "unit_total", "after", 1, 1),
    "paid": (Reservation, "charge", "after", 1, 2),
    "drawn": (charged_count, "noisy_count", "after", 1, 2),
    "kept": (charged_count, "_write", "after", 2, 1),
    "settled": (Reservation, "settle", "after", 1, 1),
}


def die_at(place: Any, name: str, when: str, nth: int, work: Callable[[], Any]) -> int:
    """Does the work in a process of its own, which is killed at that instant; the signal that ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls, real = [0], getattr(place, name)

    def deadly(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if when == "before" and calls[0] == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*args, **named)
        if when == "after" and calls[0] == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(place, name, deadly)
    try:
        work()
    finally:
        os._exit(1)


def test_guarantee_killed_at_any_instant_a_lost_answer_is_paid_again_and_a_kept_one_is_not(
    tmp_path: Path,
) -> None:
    made = make_run(tmp_path, cap=60.0)
    asked(made, question={"question": "first, so that the accountant has been loaded"})
    before = charges(made)
    for instant, (place, name, when, nth, paid) in INSTANTS.items():
        question = {"question": instant}
        code = die_at(place, name, when, nth, lambda: asked(made, question=question))  # noqa: B023
        assert code == -signal.SIGKILL, instant
        answer = asked(made, question=question)
        assert charges(made) - before == paid, instant
        assert asked(made, question=question) == answer
        with Ledger.open(made.ledger) as ledger:
            assert not [run for run in ledger.runs() if run.status == "open"], instant
        before = charges(made)


def test_guarantee_a_refused_question_costs_nothing(tmp_path: Path) -> None:
    made = make_run(tmp_path, cap=1.2)
    before, answers = made.entries(), made.run / "private" / "answers"
    with pytest.raises(BudgetError, match="this question would bring the ledger") as refused:
        asked(made)
    assert "lower --charge" in str(refused.value.hint)
    assert made.entries() == before
    assert list(answers.iterdir()) == []
    made = make_run(tmp_path / "other")
    run = AskedRun.open(made.run)

    def broken() -> Any:
        raise DataError("image cannot be read")

    with pytest.raises(DataError):
        ask(run, plan_of_count(run, EPSILON), QUESTION, broken, silent)
    assert made.entries()[-1] == "cancel"
    assert charges(made) == 0
    assert made.spent() == pytest.approx(0.5, rel=0.02)
    assert asked(made).noisy > 0


def test_a_lost_answer_that_cannot_be_paid_again_is_refused(tmp_path: Path) -> None:
    made = make_run(tmp_path, cap=3.3)
    assert die_at(Reservation, "charge", "after", 1, lambda: asked(made)) == -signal.SIGKILL
    with pytest.raises(BudgetError, match="above its cap"):
        asked(made)
    assert made.spent() <= 3.3
    assert "open" not in {run.status for run in Ledger.open(made.ledger).runs()}


def test_guarantee_an_answer_that_this_ledger_did_not_see_paid_is_not_used(tmp_path: Path) -> None:
    made, other = make_run(tmp_path / "one"), make_run(tmp_path / "other")
    answer = asked(made)
    copied = other.run / "private" / "answers" / answer.file.name
    copied.parent.mkdir()
    text = answer.file.read_text()
    copied.write_text(text)
    with pytest.raises(LedgerError, match="does not contain the head"):
        asked(other)
    copied.write_text(text.replace(answer.document["ledger"]["head"], ""))
    assert asked(other).noisy != answer.noisy
    assert charges(other) == 1
    copied.write_text("{")
    with pytest.raises(RunFolderError, match="is damaged"):
        asked(other)


def test_guarantee_a_ledger_that_forgot_an_answer_is_refused(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    older = made.ledger.read_bytes()
    asked(made)
    made.ledger.write_bytes(older)
    with pytest.raises(LedgerError, match="does not contain the head"):
        asked(made, question={"question": "another"})


def test_guarantee_a_ledger_that_forgot_an_answer_is_refused_though_the_answer_is_gone(
    tmp_path: Path,
) -> None:
    made = make_run(tmp_path)
    older = made.ledger.read_bytes()
    asked(made).file.unlink()
    made.ledger.write_bytes(older)
    with pytest.raises(LedgerError, match="does not contain the head"):
        asked(made)
    assert (made.run / "private" / "run.json").read_text().count("head") == 1


def more(made: Made, *, changed: int = 0, added: int = 0) -> None:
    """Other private images at the same path: some changed, some there once more."""
    images, labels = pictures(200 + added, 1)
    images[:200] = pictures(200, 1)[0]
    images[200:] = images[0]
    images[:changed] = pictures(200, 77)[0][:changed]
    write_images(images, labels, NAMES, made.private.parent / "others", format="parquet")
    new = made.private.parent / "others" / "data" / "train-00000-of-00001.parquet"
    new.replace(made.private / "data" / new.name)


@pytest.mark.parametrize("others", [{"changed": 1}, {"added": 1}])
def test_guarantee_other_images_than_the_training_s_are_refused_and_cost_nothing(
    tmp_path: Path, others: dict[str, int]
) -> None:
    made = make_run(tmp_path)
    assert asked(made).document["compared_with_training"] is True
    before = made.spent()
    more(made, **others)
    with pytest.raises(ParameterError, match=r"images at data\.path are not those .* trained on"):
        asked(made, question={"question": "another"})
    assert made.spent() == before
    assert made.entries()[-1] == "cancel"
    made.forget_traces()
    assert asked(made, question={"question": "another"}).document["compared_with_training"] is False


def test_the_hint_names_delta_where_that_is_short(tmp_path: Path) -> None:
    with pytest.raises(BudgetError) as refused:
        asked(make_run(tmp_path, cap=1.2))
    assert "the cap's delta of 0.0001" in str(refused.value.hint)


def patients(values: list[list[float]]) -> PrivateImages:
    """Images of patients, one for each of a patient's values."""
    owner = np.array([index for index, unit in enumerate(values) for _ in unit], np.int64)
    return PrivateImages(
        images=np.zeros((len(owner), 8, 8, 1), np.uint8),
        labels=None,
        class_names=None,
        owner=owner,
        unit_count=len(values),
        unit="patient",
    )


def counted(
    made: Made, values: list[list[float]], monkeypatch: pytest.MonkeyPatch, plan: Plan | None = None
) -> float:
    """The number that gets its noise. plan: of the training, if it is another than the run's."""
    found: list[float] = []
    real, run = charged_count.noisy_count, AskedRun.open(made.run)
    run = run if plan is None else replace(run, plan=plan)

    def spy(total: float, *args: Any, **named: Any) -> float:
        found.append(total)
        return real(total, *args, **named)

    made.forget_traces()  # these are others than the run's
    with monkeypatch.context() as patch:
        patch.setattr(charged_count, "noisy_count", spy)
        pair = patients(values), np.concatenate(values)
        ask(run, plan_of_count(run, 0.5), {"question": str(values)}, lambda: pair, silent)
    return found[0]


def moved_by_a_patient_of_many_images(made: Made, monkeypatch: pytest.MonkeyPatch) -> float:
    without = counted(made, [[0.0], [0.0] * 50], monkeypatch)
    return abs(counted(made, [[0.0], [1.0] * 50], monkeypatch) - without)


def test_guarantee_a_unit_of_many_images_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert moved_by_a_patient_of_many_images(make_run(tmp_path, unit="patient"), monkeypatch) == 1.0


@pytest.mark.planted
def test_planted_one_count_per_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charged_count, "unit_total", lambda values, owner, units: float(values.sum()))
    assert moved_by_a_patient_of_many_images(make_run(tmp_path, unit="patient"), monkeypatch) == 50.0


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    run = AskedRun.open(made.run)
    with pytest.raises(ParameterError, match="epsilon in"):
        plan_of_count(run, 1000.0)
    with pytest.raises(ParameterError, match="is not private"):
        replace(run, plan=None).budget_of_question(1.0)
    with pytest.raises(ParameterError, match="the ledger of"):
        ask(replace(run, ledger=None), plan_of_count(run, 1.0), QUESTION, lambda: light(run), silent)
    extra = made.images / "data" / "more.parquet"
    extra.write_bytes((made.private / "data" / "train-00000-of-00001.parquet").read_bytes())
    with pytest.raises(RunFolderError, match="other images than the certificate lists"):
        run.require_certified_images()
    (made.run / "private" / "run.json").unlink()
    with pytest.raises(RunFolderError, match="does not know this run"):
        AskedRun.open(made.run)


def test_guarantee_units_without_a_slot_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_run(tmp_path, adjacency="zero_out", unit="patient")
    budget = AskedRun.open(made.run).budget_of_question(0.5)
    limited = Plan.calibrate(budget, DPSGD(steps=1, expected_units=20, population=200, max_units=60))
    assert counted(made, [[1.0]] * 150, monkeypatch, limited) == 150
    with pytest.raises(ParameterError, match="more units than"):
        counted(made, [[1.0]] * 250, monkeypatch, limited)
    several = replace(patients([[1.0]] * 3), multi_owner=True)
    made.forget_traces()
    AskedRun.open(made.run).require_as_trained(several)
    run = AskedRun.open(make_run(tmp_path / "presence", unit="patient").run)
    with pytest.raises(ParameterError, match="belong to several"):
        run.require_as_trained(several)


def test_units_without_a_slot_are_counted_by_nobody() -> None:
    from dp_diffusers.queries.class_histogram import takes_part

    limited = Plan.calibrate(
        Budget(epsilon=1.0, delta=1e-5, unit="patient", adjacency="zero_out"),
        DPSGD(steps=1, expected_units=1, population=2, max_units=1),
    )
    data = PrivateImages(
        images=np.zeros((4, 8, 8, 1), np.uint8),
        labels=None,
        class_names=None,
        owner=np.array([0, 1, 2, 2]),
        unit_count=3,
        unit="patient",
    )
    assert takes_part(limited, data).tolist() == [True, True, False, False]
