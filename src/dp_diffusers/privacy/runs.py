"""Where the runs of a ledger stand, read from their entries.

Guarantee: everything that was charged is in `Run.charged`, and all that a run costs is derived from it.
Imports the standard library and the records. Source: the entries that `ledger.py` lists; fields that an
older ledger lacks mean that there was nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dp_diffusers.errors import LedgerError
from dp_diffusers.privacy.events import GaussianMechanism, Record, record_from_dict, training_record
from dp_diffusers.privacy.ledger_file import Entry, LedgerFile
from dp_diffusers.privacy.spending import Cost


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where one run stands: `status` is open, settled or cancelled; `cost` counts an open run's limit.

    `queries`: the planned side queries; `asked`: how often each was charged. `limit`: the most steps that
    may be charged. `reserved_cost`: the queries and `limit` steps, whatever the status. `charged_cost`: what
    was charged, once it is settled. `given_up`: it was closed by `settle` or `abandon` of the ledger.
    `unseen`: who closed it stated to have seen nothing of it. `opened`: some process began to charge it.
    """

    run_id: str
    plan_fingerprint: str
    record: GaussianMechanism
    queries: tuple[Record, ...] = ()
    asked: Mapping[str, int] = field(default_factory=dict)
    limit: int
    steps_charged: int
    status: str
    budget_epsilon: float
    cost: Cost
    reserved_cost: Cost
    charged_cost: Cost | None = None
    given_up: bool = False
    abandoned: bool = False
    unseen: bool = False
    opened: bool = False
    folder: str | None = None

    @property
    def charged_queries(self) -> tuple[Record, ...]:
        """The side queries as often as they were charged; those that were not are left out."""
        return asked_records(self.queries, self.asked)

    @property
    def charged(self) -> tuple[Record, ...]:
        """Records of everything that was charged: the queries, then the steps."""
        steps = (self.record.with_steps(self.steps_charged),) if self.steps_charged else ()
        return (*self.charged_queries, *steps)

    @property
    def reserved_queries(self) -> tuple[Record, ...]:
        """The side queries as often as they are paid for: as planned, or more where they were redone."""
        return reserved(self.queries, self.asked)

    @property
    def is_early(self) -> bool:
        """Whether it has charged less than its plan, and than its limit.

        What lies beyond the plan are steps that crashes made it redo, taken not to depend on its outputs.
        """
        missing = any(self.asked.get(query.name, 0) < query.steps for query in self.queries)
        return missing or self.steps_charged < min(self.record.steps, self.limit)

    @property
    def how_far(self) -> str:
        """What it has charged of its plan, in words."""
        steps = f"{self.steps_charged} of {self.record.steps} steps"
        missing = [query.name for query in self.queries if self.asked.get(query.name, 0) < query.steps]
        return steps if not missing else f"{steps}, and without its query {', '.join(missing)}"

    def refuse_late_statement(self, *, unseen: bool) -> None:
        """Raises `LedgerError` where `unseen` is stated of an early end that was closed without it."""
        if unseen and self.is_early and self.charged and not self.unseen:
            raise LedgerError(
                f"run {self.run_id} was closed without the statement that nobody saw what it released",
                hint="a statement is part of closing a run and cannot be made later; what it counts stays",
            )


def asked_records(queries: tuple[Record, ...], asked: Mapping[str, int]) -> tuple[Record, ...]:
    """`queries` as often as they were `asked`; those that were not are left out."""
    counts = [(query, asked.get(query.name, 0)) for query in queries]
    return tuple(query.with_steps(count) for query, count in counts if count)


def reserved(queries: tuple[Record, ...], asked: Mapping[str, int]) -> tuple[Record, ...]:
    """`queries` as often as planned, or as `asked` where that is more."""
    return tuple(query.with_steps(max(query.steps, asked.get(query.name, 0))) for query in queries)


def read_run(file: LedgerFile, entry: Entry) -> Run:
    """The run that `entry` reserved, as its newest entries say."""
    last = file.last_of_run(entry.run) or entry
    newest: Mapping[str, Any] = getattr(file.last_of_run(entry.run, "query"), "content", {})
    lane: Mapping[str, Any] = getattr(file.last_of_run(entry.run, "lane"), "content", {})
    status = {"settle": "settled", "cancel": "cancelled"}.get(last.kind, "open")
    reserved_cost = newest.get("cost", entry.content["cost"])
    charged_cost = last.content.get("charged_cost")
    return Run(
        run_id=entry.run,
        plan_fingerprint=entry.content["fingerprint"],
        record=training_record(entry.content["mechanism"]),
        queries=tuple(record_from_dict(query) for query in entry.content.get("queries", ())),
        asked=newest.get("asked", {}),
        limit=newest.get("limit", entry.content["limit"]),
        steps_charged=last.content["count"],
        status=status,
        budget_epsilon=entry.content["budget"]["epsilon"],
        cost=Cost.from_dict(reserved_cost if status == "open" else last.content["cost"]),
        reserved_cost=Cost.from_dict(reserved_cost),
        charged_cost=None if charged_cost is None else Cost.from_dict(charged_cost),
        given_up=last.content.get("given_up", False),
        abandoned=last.content.get("abandoned", False),
        unseen=last.content.get("unseen", False),
        opened=bool(lane),
        folder=lane.get("folder"),
    )
