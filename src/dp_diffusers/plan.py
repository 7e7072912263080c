"""The one object that decides: budget, mechanism and noise, and everything derived from them.

Guarantee: a `Plan` exists only with a certified epsilon within its budget; sampler, clip, noise and
accountant are methods of one set of public numbers and cannot disagree. Imports privacy/, and the engine
through its mechanism inside functions (never torch at the top). Source: the execution plan of JAX Privacy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

from dp_diffusers.errors import GuaranteeError, ParameterError
from dp_diffusers.mechanisms.count import Count
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.evolution import PE
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.plan_checks import (
    SCHEMA,
    WRITTEN,
    mechanism_of,
    parse,
    require_budget,
    require_kinds,
    require_queries,
    require_slots,
    same,
)
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.canonical import canonical_json, fingerprint
from dp_diffusers.privacy.events import GaussianMechanism, Record, record_from_dict, training_record
from dp_diffusers.privacy.explanation import explain

if TYPE_CHECKING:
    from dp_diffusers.engine.plain_gradient import PlainGradient
    from dp_diffusers.engine.private_gradient import PrivateGradient
    from dp_diffusers.engine.randomness import RunKeys
    from dp_diffusers.engine.sampling import PoissonSampler, TruncatedPoissonSampler
    from dp_diffusers.privacy.calibration import PrefixTable

FREE_LIMIT: Final = 5.0  # standard deviations above the mean at which max_units costs nothing worth saying
_MADE_HERE: Final = object()
_FOLLOWS: Final = (  # what a document repeats of its budget and its mechanism
    *("delta", "noise_multiplier", "sampling_probability"),
    *("steps", "expected_units", "not_private"),
)


@final
class Plan:
    """Made by `Plan.calibrate` or `Plan.from_json` only; frozen. All of its numbers are public."""

    def __init__(
        self,
        budget: Budget | None,
        mechanism: DPSGD | PE | Count | NonPrivate,
        noise_multiplier: float,
        epsilon: float,
        epsilon_rdp: float | None,
        queries: tuple[Record, ...] = (),
        *,
        _token: object = None,
    ) -> None:
        if _token is not _MADE_HERE:
            raise GuaranteeError("a plan is made by Plan.calibrate or Plan.from_json, which certify it")
        fields: dict[str, Any] = {"budget": budget, "mechanism": mechanism, "queries": queries}
        fields |= {"noise_multiplier": noise_multiplier, "epsilon": epsilon, "epsilon_rdp": epsilon_rdp}
        self.__dict__.update(fields)

    budget: Budget | None
    mechanism: DPSGD | PE | Count | NonPrivate
    noise_multiplier: float
    """Accounted noise / clip norm; the engine uses it x (1 + 1e-4). 0 without privacy."""
    epsilon: float
    """Certified epsilon of all planned steps and queries; infinite without privacy."""
    epsilon_rdp: float | None
    """Epsilon by RDP at the same noise, the cross-check; None without privacy."""
    queries: tuple[Record, ...]
    """Side queries, asked beside the steps and paid from the same budget."""

    @classmethod
    def calibrate(
        cls, budget: Budget | None, mechanism: DPSGD | PE | Count | NonPrivate, queries: Sequence[Record] = ()
    ) -> Plan:
        """The least noise under which `mechanism` and `queries` stay within `budget`, to within 1 %.

        `queries`: records of side queries, whose noise is given. Raises `ParameterError` for what is no
        budget or mechanism, for delta >= 1 / population and where the count of adaptive clipping leaves no
        noise for the gradient, `BudgetError` if the noise multiplier would lie below 0.3 or the queries
        spend all.
        A `NonPrivate` mechanism ignores the budget, gives epsilon = inf and has no queries.
        """
        require_kinds(budget, mechanism)
        if isinstance(mechanism, NonPrivate):
            if queries:
                raise ParameterError("a run without privacy has no private queries to account for")
            return cls(None, mechanism, 0.0, math.inf, None, _token=_MADE_HERE)
        from dp_diffusers.privacy.calibration import calibrate_noise

        budget = require_budget(budget, mechanism)
        asked = tuple(queries)
        require_queries(mechanism, asked)
        found = calibrate_noise(budget.epsilon, budget.delta, mechanism.record, budget.adjacency, asked)
        mechanism.require_noise(found.noise_multiplier)
        numbers = found.noise_multiplier, found.epsilon, found.epsilon_rdp
        return cls(budget, mechanism, *numbers, asked, _token=_MADE_HERE)

    @classmethod
    def from_json(cls, document: str | Mapping[str, Any]) -> Plan:
        """Reads what `to_json` wrote, computes every number again and compares.

        Raises `ParameterError` for a document that is not a plan or whose numbers do not follow.
        """
        values = parse(document)
        try:
            plan = cls._rebuild(values)
            claimed = {name: values[name] for name in ("epsilon", "epsilon_rdp", "fingerprint")}
            derived = plan.to_dict()
            claimed |= {name: values[name] for name in _FOLLOWS if name in values}
        except (KeyError, TypeError, AttributeError) as error:
            raise ParameterError("not a plan: parts are missing or of another kind", hint=WRITTEN) from error
        for name, value in claimed.items():
            if not same(value, derived[name]):
                raise ParameterError(
                    f"the plan says {name} {value}, its numbers give {derived[name]}",
                    hint="the file was changed; calibrate again",
                )
        return plan

    @classmethod
    def _rebuild(cls, values: Mapping[str, Any]) -> Plan:
        if values["budget"] is None:
            sizes = {name: values["mechanism"][name] for name in ("steps", "expected_units", "population")}
            return cls.calibrate(None, NonPrivate(**sizes))
        from dp_diffusers.privacy import accountant

        budget, record = Budget.from_dict(values["budget"]), training_record(values["mechanism"])
        queries = tuple(record_from_dict(query) for query in values.get("queries", ()))
        mechanism = mechanism_of(record)
        require_budget(budget, mechanism)
        require_queries(mechanism, queries)
        mechanism.require_noise(record.noise_multiplier)
        certified = accountant.epsilon([*queries, record], budget.delta, budget.adjacency)
        by_rdp = accountant.cross_check(certified, [*queries, record], budget.delta, budget.adjacency)
        if certified > budget.epsilon * (1 + 1e-9):
            raise ParameterError(f"the plan spends epsilon {certified:.6g} of a budget of {budget.epsilon:g}")
        return cls(budget, mechanism, record.noise_multiplier, certified, by_rdp, queries, _token=_MADE_HERE)

    @property
    def not_private(self) -> bool:
        """True for the run without clip and noise."""
        return self.mechanism.not_private

    @property
    def record(self) -> GaussianMechanism | None:
        """The accountant's record of all planned steps; None without privacy."""
        return self.mechanism.record(self.noise_multiplier)

    @property
    def records(self) -> tuple[Record, ...]:
        """Records of everything that is paid for: the queries, then the mechanism; none without privacy."""
        record = self.record
        return self.queries if record is None else (*self.queries, record)

    @property
    def delta(self) -> float | None:
        """The budget's delta; None without privacy."""
        return None if self.budget is None else self.budget.delta

    @property
    def steps(self) -> int:
        """Planned steps."""
        return self.mechanism.steps

    @property
    def expected_units(self) -> int:
        """Mean number of units in a step, by which the noisy sum is divided."""
        return self.mechanism.expected_units

    @property
    def sampling_probability(self) -> float:
        """Chance of each unit to be in a step."""
        return self.mechanism.sampling_probability

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the public numbers: equal plans have equal fingerprints on every machine."""
        return fingerprint(self._public_numbers())

    def event(self, steps: int | None = None) -> Any:
        """The `dp_accounting.DpEvent` of `steps` (all, if not given) steps."""
        record = self.mechanism.record(self.noise_multiplier, steps)
        if record is None:
            raise GuaranteeError("a plan without privacy has no event to account for")
        return record.event()

    def events(self) -> tuple[Any, ...]:
        """The `dp_accounting.DpEvent` of each of `records`, in their order."""
        return tuple(record.event() for record in self.records)

    def epsilon_after(self, step_count: int) -> float:
        """Epsilon once the queries and `step_count` steps are out, rounded up to one of 50 prefixes."""
        if not 0 <= step_count <= self.steps:
            raise ParameterError(f"expected step_count in [0, {self.steps}], got {step_count}")
        return self._prefixes.after(step_count) if self._prefixes else (math.inf if step_count else 0.0)

    @staticmethod
    def fresh_keys() -> RunKeys:
        """New secret keys for one start of one process; their lane goes into the ledger."""
        from dp_diffusers.engine.randomness import RunKeys

        return RunKeys.fresh()

    def sampler(self, unit_count: int, keys: RunKeys) -> PoissonSampler | TruncatedPoissonSampler:
        """Which of `unit_count` units take part in each step.

        Raises `ParameterError` for more units than `population` with `max_units`: a unit that left, was
        blanked (which here is to have no images, and so no slot) or changed its place in the data would make
        room for a surplus one, and the theorem is about one unit.
        """
        record = self.record
        limited = record is not None and record.max_units is not None
        if limited and self.budget is not None:
            require_slots(unit_count, self.mechanism.population)
        return self.mechanism.sampler(unit_count, keys)

    def private_gradient(self, parameters: Any, keys: RunKeys) -> PrivateGradient | PlainGradient:
        """The closed box that clips, sums and adds the accounted noise; takes a module or parameters.

        Its guarantee holds for models whose rows are independent: `rehearse` of the box tries that first.
        """
        return self.mechanism.private_gradient(parameters, keys, self.noise_multiplier, self.fingerprint)

    def explain(self) -> str:
        """The plan in plain words, for the engineer and for the data protection officer."""
        further: dict[str, Any] = {"without_limit": self.epsilon_without_limit, "queries": self.queries}
        further["alone"] = tuple(self._alone(query) for query in self.queries)
        return explain(self.budget, self.record, self.epsilon, self.epsilon_rdp, **further)

    def _alone(self, query: Record) -> float:
        """Epsilon of a side query by itself."""
        from dp_diffusers.privacy import accountant

        assert self.budget is not None
        return accountant.epsilon([query], self.budget.delta, self.budget.adjacency)

    @cached_property
    def epsilon_without_limit(self) -> float | None:
        """Epsilon of the same noise without `max_units`; None where the limit is rare enough to be free.

        Free: five standard deviations or more above the mean number of units.
        """
        record, budget = self.record, self.budget
        if record is None or budget is None or record.deviations_to_limit() >= FREE_LIMIT:
            return None
        from dp_diffusers.privacy import accountant

        unlimited = dataclasses.replace(record, max_units=None)
        return accountant.epsilon([*self.queries, unlimited], budget.delta, budget.adjacency)

    def to_dict(self) -> dict[str, Any]:
        """The plan as a document: the public numbers and what follows from them."""
        return {
            "schema": SCHEMA,
            "epsilon": None if self.not_private else self.epsilon,
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
            "sampling_probability": self.sampling_probability,
            "steps": self.steps,
            "expected_units": self.expected_units,
            "epsilon_rdp": self.epsilon_rdp,
            "not_private": self.not_private,
            "fingerprint": self.fingerprint,
            "queries": [],
            **self._public_numbers(),
        }

    def to_json(self) -> str:
        """`to_dict` as canonical JSON."""
        return canonical_json(self.to_dict())

    def _public_numbers(self) -> dict[str, Any]:
        sizes = {"steps": self.steps, "expected_units": self.expected_units}
        sizes |= {"population": self.mechanism.population}
        record = self.record
        numbers: dict[str, Any] = {
            "budget": None if self.budget is None else self.budget.to_dict(),
            "mechanism": {"name": "none", **sizes} if record is None else record.to_dict(),
        }
        if self.queries:  # left out when empty, so that a plan without them keeps its fingerprint
            numbers["queries"] = [query.to_dict() for query in self.queries]
        return numbers

    @cached_property
    def _prefixes(self) -> PrefixTable | None:
        record = self.record
        if self.budget is None or record is None:
            return None
        from dp_diffusers.privacy.calibration import prefix_table

        budget = self.budget
        return prefix_table(record, budget.delta, budget.adjacency, self.epsilon, queries=self.queries)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a plan is frozen: {name} cannot be set; calibrate another one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a plan is frozen: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return (
            f"Plan(epsilon={self.epsilon:.6g}, delta={self.delta}, steps={self.steps}, "
            f"sampling_probability={self.sampling_probability:.6g}, "
            f"noise_multiplier={self.noise_multiplier:.6g})"
        )
