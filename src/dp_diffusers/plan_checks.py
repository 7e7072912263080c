"""What has to hold of a plan's parts and of a plan's document before there is a plan.

Guarantee: what passes here is in range and fits together; what a document claims is compared, never believed.
Imports privacy/ and the mechanisms, never torch. Source: the contract of `Plan` in the design.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from dp_diffusers.errors import ParameterError, of_kind
from dp_diffusers.mechanisms.count import NAME as COUNT_NAME
from dp_diffusers.mechanisms.count import Count
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.evolution import NAME as PE_NAME
from dp_diffusers.mechanisms.evolution import PE
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.privacy.budget import Budget, promises_nothing
from dp_diffusers.privacy.events import GaussianMechanism, Record

SCHEMA: Final = 1
WRITTEN: Final = "`Plan.to_json` writes one"
SAME: Final = 1e-5  # relative: how far an epsilon computed again may lie from the one in a document


def require_kinds(budget: object, mechanism: object) -> None:
    """Raises `ParameterError` for what is no budget, such as the mechanism in its place, or no mechanism."""
    hint = "Plan.calibrate(budget, mechanism), in this order"
    if budget is not None:
        of_kind(Budget, budget=budget, hint=hint)
    of_kind(DPSGD, PE, Count, NonPrivate, mechanism=mechanism, hint=hint)


def require_budget(budget: Budget | None, mechanism: DPSGD | PE | Count) -> Budget:
    """The budget. Raises `ParameterError` without one, and for its delta, or its cap's, >= 1 / population."""
    if budget is None:
        raise ParameterError("a private mechanism needs a budget", hint="Budget(epsilon=..., delta=...)")
    deltas = {"delta": budget.delta} | ({} if budget.cap is None else {"cap.delta": budget.cap.delta})
    for name, delta in deltas.items():
        if promises_nothing(delta, mechanism.population):
            raise ParameterError(
                f"expected {name} < 1 / population = {1 / mechanism.population:.3g}, got {delta:g}",
                hint="at 1 / population, publishing one unit's images outright would count as private",
            )
    return budget


def require_slots(unit_count: int, population: int) -> None:
    """Raises `ParameterError` if there are more units than slots; how many there are is not said."""
    if unit_count > population:
        raise ParameterError(
            f"the data hold more units than mechanism.population = {population}, which max_units takes as "
            "public",
            hint="raise mechanism.population",
        )


def require_queries(mechanism: DPSGD | PE | Count, queries: Sequence[Record]) -> None:
    """Raises `ParameterError` unless each query is asked, each name once, each with a sample that is drawn.

    A query of one step's sample is asked with the sampler of the mechanism's steps: a record of another one
    would account for what is not done.
    """
    from dp_diffusers.mechanisms.saliency import record_of

    names = [query.name for query in queries]
    for query in queries:
        if query.steps < 1:
            raise ParameterError(
                f"expected the side query {query.name} to be asked once or more, got 0 times"
            )
        if names.count(query.name) > 1:
            raise ParameterError(
                f"the side query {query.name} is there {names.count(query.name)} times",
                hint="its answer is kept under its name: ask it once",
            )
        if not isinstance(query, GaussianMechanism):
            continue
        told = record_of(mechanism, query.noise_multiplier) if isinstance(mechanism, DPSGD) else None
        if query != told:
            raise ParameterError(
                f"the side query {query.name} does not sample and clip as the steps of {mechanism.name} do",
                hint="saliency_query(budget, mechanism) makes one that does",
            )


def mechanism_of(record: GaussianMechanism) -> DPSGD | PE | Count:
    """The mechanism with this record. Raises `ParameterError` if its sampling probability does not follow."""
    kinds: dict[str, Callable[[GaussianMechanism], DPSGD | PE | Count]] = {PE_NAME: _pe, COUNT_NAME: _count}
    mechanism = kinds.get(record.name, _dpsgd)(record)
    if record.sampling_probability != mechanism.sampling_probability:
        raise ParameterError(
            f"expected sampling probability expected_units / population = {mechanism.sampling_probability}, "
            f"got {record.sampling_probability}"
        )
    return mechanism


def _pe(record: GaussianMechanism) -> PE:
    """Raises `ParameterError` for a record of votes that says more than there is to say of them."""
    mechanism = PE(steps=record.steps, population=record.population)
    if record != mechanism.record(record.noise_multiplier):
        raise ParameterError("not a plan of pe: every unit is in every iteration, with one vote")
    return mechanism


def _count(record: GaussianMechanism) -> Count:
    """Raises `ParameterError` for a record of a count that says more than there is to say of one."""
    mechanism = Count(population=record.population)
    if record != mechanism.record(record.noise_multiplier):
        raise ParameterError("not a plan of a count: every unit is in it once, with a part of at most 1")
    return mechanism


def _dpsgd(record: GaussianMechanism) -> DPSGD:
    return DPSGD(
        steps=record.steps,
        expected_units=record.expected_units,
        population=record.population,
        clip_norm=record.clip_norm,
        clipping=record.clipping,
        max_units=record.max_units,
        target_quantile=record.target_quantile,
        quantile_rate=record.quantile_rate,
        quantile_noise=record.quantile_noise,
    )


def parse(document: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """The document as a mapping. Raises `ParameterError` for anything that is not a plan of this schema."""
    try:
        values = json.loads(document) if isinstance(document, str) else document
    except ValueError as error:
        raise ParameterError("not a plan: no JSON", hint=WRITTEN) from error
    if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
        raise ParameterError(f"not a plan of schema {SCHEMA}", hint=WRITTEN)
    return values


def same(claimed: Any, derived: Any) -> bool:
    """Whether a document's value is the one that its numbers give."""
    if isinstance(claimed, float) and isinstance(derived, float):
        return math.isclose(claimed, derived, rel_tol=SAME)
    return bool(claimed == derived)
