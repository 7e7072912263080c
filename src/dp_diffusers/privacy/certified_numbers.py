"""The numbers of a certificate, taken from plan and ledger.

Guarantee: what is certified is what was charged, and a run whose account is missing, open or another's, or
whose end was chosen, is refused. Imports privacy/ and the standard library. Source: the contract of the
certificate; each prefix of a run has its epsilon for a length fixed beforehand, not for one that is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from dp_diffusers.errors import GuaranteeError
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import GaussianMechanism, Record
from dp_diffusers.privacy.reservation import Reservation
from dp_diffusers.privacy.runs import Run


class CertifiablePlan(Protocol):
    """What a certificate needs of a plan."""

    @property
    def budget(self) -> Budget | None:
        """What the run could spend; None without privacy."""

    @property
    def record(self) -> GaussianMechanism | None:
        """The mechanism of the run; None without privacy."""

    @property
    def queries(self) -> tuple[Record, ...]:
        """The side queries of the run."""

    @property
    def records(self) -> tuple[Record, ...]:
        """Records of everything that was planned."""

    @property
    def fingerprint(self) -> str:
        """Identity of the plan."""

    @property
    def mechanism(self) -> Any:
        """The mechanism's public sizes: steps, expected_units, population, sampling_probability."""


def certified_numbers(plan: CertifiablePlan, account: Reservation | None) -> dict[str, Any]:
    """The fields of a certificate that say what was promised and what it cost.

    `account`: the run's settled reservation, None without privacy. Raises `GuaranteeError` if it is not the
    plan's, not settled, empty, or was ended early by a choice that may depend on what it released.
    """
    return _without_privacy(plan) if plan.record is None else _with_privacy(plan, account)


def _with_privacy(plan: CertifiablePlan, account: Reservation | None) -> dict[str, Any]:
    from dp_diffusers.privacy import accountant

    budget, record = plan.budget, plan.record
    assert budget is not None
    assert record is not None
    run, ledger = _settled_run(plan, account)
    spent, terms = run.ledger.spent(), run.ledger.terms
    charged = run.charged
    grid = accountant.grid_for(charged)
    test_keys = run.not_private
    epsilon = accountant.epsilon(charged, budget.delta, budget.adjacency, grid=grid)
    accountant.cross_check(epsilon, charged, budget.delta, budget.adjacency)
    cap = None if terms is None else terms.cap
    return {
        "unit": budget.unit,
        "adjacency": budget.adjacency,
        "epsilon": None if test_keys else epsilon,
        "delta": budget.delta,
        "accountant": {
            "method": accountant.method(charged, budget.delta),
            "library": accountant.library_version(),
            "grid": grid,
        },
        "mechanisms": tuple(_entries(plan, charged)),
        "ledger": {
            "spent_epsilon": spent.epsilon,
            "spent_delta": spent.delta,
            "cap_epsilon": None if cap is None else cap.epsilon,
            "cap_delta": None if cap is None else cap.delta,
            "head": ledger,
            "rule": spent.rule,
            "ended_unseen": run.ledger.run(run.run_id).is_early,  # an early end has no certificate else
        },
        "not_private": test_keys,
    }


def _settled_run(plan: CertifiablePlan, account: Reservation | None) -> tuple[Reservation, str]:
    if account is None:
        raise GuaranteeError("a private run has no certificate without its ledger account")
    if account.plan_fingerprint != plan.fingerprint:
        raise GuaranteeError("the ledger account belongs to another plan")
    run = account.ledger.run(account.run_id)
    if run.status != "settled":
        raise GuaranteeError("the run is not settled: its certificate could say too little")
    if account.steps_charged == 0:
        raise GuaranteeError("the run charged nothing, so there is nothing to certify")
    _require_no_choice(run)
    return account, account.ledger.head


def _require_no_choice(run: Run) -> None:
    """Raises `GuaranteeError` for an early end, unless the ledger states that nobody saw the run."""
    if run.is_early and not run.unseen:
        raise GuaranteeError(
            f"run {run.run_id} was ended after {run.how_far}: their "
            "epsilon does not cover a choice that may depend on what they released",
            hint="charge all of a plan, and leave unused what is not wanted, before settling; or state with "
            "unseen, when closing it, that nobody saw anything of the run",
        )


def _without_privacy(plan: CertifiablePlan) -> dict[str, Any]:
    mechanism = plan.mechanism
    numbers = {name: getattr(mechanism, name) for name in ("name", "population", "expected_units")}
    numbers |= {"sampling_probability": mechanism.sampling_probability, "max_units": None}
    numbers |= {"clip_norm": None, "noise_multiplier": 0.0, "clipping": None}
    return {
        "unit": None,
        "adjacency": None,
        "epsilon": None,
        "delta": None,
        "accountant": {"method": None, "library": None, "grid": None},
        "mechanisms": (_entry(numbers, mechanism.steps, mechanism.steps),),
        "ledger": {
            "spent_epsilon": None,
            "spent_delta": None,
            "cap_epsilon": None,
            "cap_delta": None,
            "head": None,
            "rule": None,
        },
        "not_private": True,
    }


def _entries(plan: CertifiablePlan, charged: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """The mechanism that trained, then the side queries; those that were not charged are left out."""
    planned = {record.name: record.steps for record in plan.records}
    for record in sorted(charged, key=lambda record: record.name in {query.name for query in plan.queries}):
        yield _entry(record.to_dict(), planned[record.name], record.steps)


def _entry(numbers: Mapping[str, Any], planned: int, charged: int) -> dict[str, Any]:
    rest = {name: value for name, value in numbers.items() if name not in ("name", "steps")}
    return {"name": numbers["name"], "steps_planned": planned, "steps_charged": charged, **rest}


def software() -> str:
    """Name and version of this package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"dp-diffusers {version('dp-diffusers')}"
    except PackageNotFoundError:
        return "dp-diffusers (not installed)"
