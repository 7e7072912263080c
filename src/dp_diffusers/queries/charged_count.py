"""A question to the private images of a finished run that is answered by one charged count.

Guarantees:
- the whole cost is in the ledger before an image is opened, the payment before the noise is drawn;
- whenever a process dies, an answer that is used was paid for, and one that was lost is paid for again;
- the same question is answered once: what was kept is given again, and costs nothing more.
May import the ledger and the mechanism. The argument is written out in docs/design/0015.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import BudgetError, ParameterError, RunFolderError
from dp_diffusers.mechanisms.count import Count, count_std, noisy_count, unit_total
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.canonical import fingerprint
from dp_diffusers.privacy.cap_words import cap_in_words, epsilon_at
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.reservation import Reservation
from dp_diffusers.rounding import rounded_up_text
from dp_diffusers.run.asked_run import OPENED, AskedRun
from dp_diffusers.run.folder import ANSWERS as FOLDER
from dp_diffusers.run.folder import RUN, RunFolder
from dp_diffusers.whole_files import write_text

Values = Callable[[], tuple[PrivateImages, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class CountAnswer:
    """noisy: the count, in units, with noise of standard deviation `std`; both may be shown.

    document: what every charged answer says of its price, for JSON. file: where the answer is kept.
    """

    noisy: float
    std: float
    population: int
    document: dict[str, Any]
    file: Path


def plan_of_count(run: AskedRun, epsilon: float) -> Plan:
    """The plan of one count at this epsilon, under the terms of the run. Raises as `Plan.calibrate` does."""
    try:
        return Plan.calibrate(run.budget_of_question(epsilon), Count(population=run.population))
    except BudgetError as error:
        hint = "ask with a smaller epsilon; this one would be answered nearly without noise"
        raise BudgetError(error.message, hint=hint) from error


def ask(
    run: AskedRun, plan: Plan, question: Mapping[str, Any], values: Values, progress: Callable[..., None]
) -> CountAnswer:
    """The noisy sum over units of the mean of each unit's values; paid for unless it was kept.

    plan: of `plan_of_count`. question: everything public that the values depend on, with its words under
    `question`. values: opens the private images and gives a value in [0, 1] for each, which must depend on
    that image and on public things alone; called after the reservation and before the payment. Raises
    `BudgetError` where the cap does not allow it; then, as after any failure before the payment, nothing is
    spent.
    """
    if run.ledger is None:
        raise ParameterError(f"the ledger of {run.folder.root} is not known", hint=OPENED)
    folder = run.folder.private / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = {"budget": _budget(plan), "population": plan.mechanism.population}
    file = folder / f"{fingerprint({'asked': dict(question), **facts})[:24]}.json"
    with run.folder.lock(), Ledger.open(run.ledger, create=False) as ledger:
        _require_heads(run, ledger)
        kept = _read(file)
        if kept is None or not _is_answered(kept, ledger):
            kept = _asked(run, ledger, plan, dict(question), file, kept, values, progress)
        else:
            progress(message=f"answered before, from {file}; nothing more is charged")
            _settle(ledger, kept)
        spent, terms = ledger.spent(), ledger.terms
    plan = Plan.from_json(kept["plan"])
    cap = None if terms is None else terms.cap
    document = {
        "question": question["question"],
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "noise_multiplier": plan.noise_multiplier,
        "adjacency": _budget(plan)["adjacency"],
        "unit": _budget(plan)["unit"],
        "population": plan.mechanism.population,
        "ledger": {
            "spent_epsilon": spent.epsilon,
            "spent_delta": spent.delta,
            "cap_epsilon": None if cap is None else cap.epsilon,
            "cap_delta": None if cap is None else cap.delta,
            "head": kept["head"],
        },
        "not_private": kept["not_private"],
        "compared_with_training": kept.get("compared", False),
    }
    std = count_std(plan.noise_multiplier)
    return CountAnswer(
        noisy=kept["noisy"], std=std, population=plan.mechanism.population, document=document, file=file
    )


def price_line(price: dict[str, Any]) -> str:
    """What an answer cost, of whom, and what the ledger comes to."""
    ledger = price["ledger"]
    total = epsilon_at(rounded_up_text(ledger["spent_epsilon"]), ledger.get("spent_delta"))
    cap = cap_in_words(ledger)
    if price["not_private"]:
        return "NOT PRIVATE: the noise was drawn with test keys"
    bound = epsilon_at(rounded_up_text(price["epsilon"]), price["delta"])
    return (
        f"charged: {bound} for each {price['unit']} ({price['adjacency']}); the ledger comes to {total}, "
        + ("no cap" if cap is None else f"with a cap of {cap}")
    )


def keep(answer: CountAnswer, document: Mapping[str, Any]) -> None:
    """Writes what was said in answer beside the count that it follows from, in the safe."""
    with RunFolder(answer.file.parents[2]).lock():
        _write(answer.file, {**(_read(answer.file) or {}), "said": dict(document)})


def _asked(
    run: AskedRun,
    ledger: Ledger,
    plan: Plan,
    question: dict[str, Any],
    file: Path,
    begun: dict[str, Any] | None,
    values: Values,
    progress: Callable[..., None],
) -> dict[str, Any]:
    """Reserve, open, count, pay, add noise, keep, settle. begun: what an earlier start left of it."""
    begun = _still_open(ledger, begun, progress)
    if begun is None:
        begun = {"run_id": uuid.uuid4().hex, "plan": plan.to_json(), "question": question}
        _write(file, begun)  # its name is on disk before it is in the ledger
    plan, run_id, account = Plan.from_json(begun["plan"]), begun["run_id"], None
    try:
        account = ledger.resume(run_id) if ledger.has_run(run_id) else _reserved(ledger, plan, run_id)
        keys = plan.fresh_keys()
        account.open_lane(keys, folder=str(run.folder.root.resolve()))
        data, found = values()
        compared = run.require_as_trained(data)
        total = unit_total(np.where(run.takes_part(data), found, 0.0), data.owner, data.unit_count)
        receipt = account.charge(0)  # pay, then noise; everything below is post-processing
        # whoever restores an older ledger would have to delete more than the answer
        run.folder.write(RUN, {**(run.folder.read(RUN) or {}), "head": account.newest})
        noisy = noisy_count(
            total,
            keys,
            receipt,
            noise_multiplier=plan.noise_multiplier,
            plan_fingerprint=plan.fingerprint,
        )
    except BaseException:
        _give_back(account, file, known=ledger.has_run(run_id) or "noisy" in begun)
        raise
    further = {"lane": keys.lane.hex(), "noisy": noisy, "not_private": keys.not_private, "compared": compared}
    kept = {**begun, **further, "head": account.newest}
    _write(file, kept)
    account.settle()
    return kept


def _reserved(ledger: Ledger, plan: Plan, run_id: str) -> Reservation:
    """Writes the whole cost. Raises `BudgetError` where the cap does not allow it; then nothing is spent."""
    try:
        return ledger.reserve(plan, run_id=run_id)
    except BudgetError as error:
        message = error.message.replace("this run", "this question")
        raise BudgetError(message, hint=_what_helps(error, ledger, plan)) from error


def _what_helps(error: BudgetError, ledger: Ledger, plan: Plan) -> str:
    """What somebody may still ask for; it names delta where that is what is short."""
    hint = (error.hint or "").replace("budget.epsilon", "--charge")
    terms, budget = ledger.terms, plan.budget
    if terms is None or terms.cap is None or budget is None:
        return hint
    if "deltas" not in error.message and terms.cap.delta < 2 * budget.delta:
        delta = f"the cap's delta of {terms.cap.delta:g}, which the first run fixed, has no room for another "
        return f"{hint}; {delta}{budget.delta:g}, so only the Rényi filter counts here"
    return hint


def _give_back(account: Reservation | None, file: Path, *, known: bool) -> None:
    """A failure before the payment costs nothing. account: None where none could be opened.

    known: an earlier start has a reservation, or an answer, under this name, which is kept then.
    """
    if account is not None:
        if account.steps_charged:
            return
        account.cancel()
    if account is not None or not known:
        file.unlink(missing_ok=True)


def _still_open(
    ledger: Ledger, begun: dict[str, Any] | None, progress: Callable[..., None]
) -> dict[str, Any] | None:
    """What an earlier start began, if it may go on; one that paid and lost its answer is closed for good."""
    if begun is None or not ledger.has_run(begun["run_id"]):
        return begun
    run = ledger.run(begun["run_id"])
    if run.status == "open" and not run.steps_charged:
        return begun
    if run.status == "open":
        ledger.resume(run.run_id).settle()
    if run.steps_charged:
        progress(message="an earlier answer was paid for and lost: it is paid for again")
    return None


def _is_answered(kept: Mapping[str, Any], ledger: Ledger) -> bool:
    """Whether there is an answer, and this ledger saw it paid for."""
    if "noisy" not in kept:
        return False
    paid = (entry for entry in ledger.entries() if entry.kind == "charge" and entry.run == kept["run_id"])
    return any(entry.content["lane"] == kept["lane"] for entry in paid)


def _settle(ledger: Ledger, kept: Mapping[str, Any]) -> None:
    """Closes the account of an answer whose process died after it was kept."""
    if ledger.run(kept["run_id"]).status == "open":
        ledger.resume(kept["run_id"]).settle()


def _require_heads(run: AskedRun, ledger: Ledger) -> None:
    """Raises `LedgerError` for a ledger that lacks what the run, or an answer it has kept, knows of it."""
    known = [run.folder.read(RUN) or {}]
    known += [_read(file) or {} for file in sorted((run.folder.private / FOLDER).glob("*.json"))]
    for document in known:
        if document.get("head"):
            ledger.require_head(document["head"])


def _budget(plan: Plan) -> dict[str, Any]:
    assert plan.budget is not None
    return plan.budget.to_dict()


def _read(file: Path) -> dict[str, Any] | None:
    """A kept answer, or one that was begun. Raises `RunFolderError` for a damaged one."""
    if not file.exists():
        return None
    try:
        document = json.loads(file.read_text())
        if isinstance(document, dict) and {"run_id", "plan"} <= document.keys():
            return document
    except ValueError:
        pass
    raise RunFolderError(
        f"{file} is damaged", hint="restore it, or delete it: the question is paid for again"
    )


def _write(file: Path, document: Mapping[str, Any]) -> None:
    write_text(file, json.dumps(document, indent=2, sort_keys=True) + "\n")
    file.chmod(0o600)
