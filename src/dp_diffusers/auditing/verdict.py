"""From scores to a verdict: which attack, how many guesses and which failure probability decide it.

Guarantees that all of that is fixed here, before any score exists, so that nothing is chosen by its outcome.
May import numpy and privacy/, never torch. Sources: those of `bounds`.
"""

from __future__ import annotations

from typing import Final

from dp_diffusers.auditing.bounds import Outcome, epsilon_of_any_mechanism
from dp_diffusers.auditing.family import epsilon_within_family, share_to_guess
from dp_diffusers.auditing.results import Attack, AuditResult
from dp_diffusers.auditing.scores import Scores
from dp_diffusers.plan import Plan

# The verdict: the better of two bounds from the gradient attack, which fail in 4 % and 1 % of audits at most.
FAILURE_OF_FAMILY: Final = 0.04
FAILURE_OF_ANY: Final = 0.01
CONFIDENCE: Final = 0.95
SHARE_OF_ANY: Final = 0.05  # of canaries that are guessed, the surest ones; `share_to_guess` for the family
SHARE_OF_LOSS: Final = 0.25
FAILURE_OF_LOSS: Final = 0.05


def concluded(plan: Plan, gradient: Scores, loss: Scores, notes: tuple[str, ...]) -> AuditResult:
    """The claim of `plan` beside what the scores prove."""
    assert plan.budget is not None
    assert plan.record is not None
    claimed, count = claim_of(plan), len(gradient.values)
    share, could_refute = share_to_guess(plan.record, plan.budget.adjacency, count, failure=FAILURE_OF_FAMILY)
    if not could_refute:
        notes = (*notes, f"{count} canaries are too few to refute this claim, whatever they show: use more")
    attacks = (
        within_family(plan, gradient, claimed, share=share, failure=FAILURE_OF_FAMILY),
        of_any_mechanism(plan, gradient, share=SHARE_OF_ANY, failure=FAILURE_OF_ANY),
        within_family(plan, loss, claimed, share=SHARE_OF_LOSS, failure=FAILURE_OF_LOSS, in_headline=False),
    )
    return AuditResult(
        epsilon_claimed=claimed,
        epsilon_lower_bound=max(attack.epsilon_lower_bound for attack in attacks if attack.in_headline),
        confidence=CONFIDENCE,
        canaries=count,
        delta=plan.budget.delta,
        adjacency=plan.budget.adjacency,
        attacks=attacks,
        notes=notes,
        mechanism=plan.record.to_dict(),
    )


def within_family(
    plan: Plan, scores: Scores, claimed: float, *, share: float, failure: float, in_headline: bool = True
) -> Attack:
    """The bound that takes the plan's mechanism for granted, but not its noise."""
    assert plan.budget is not None
    outcome = scores.outcome(share)
    found = epsilon_within_family(
        plan.record, plan.budget.adjacency, plan.budget.delta, outcome, failure=failure, claimed=claimed
    )
    return _attack(scores.name, "family", outcome, found, failure, in_headline)


def of_any_mechanism(plan: Plan, scores: Scores, *, share: float, failure: float) -> Attack:
    """The bound that takes nothing for granted."""
    assert plan.budget is not None
    outcome = scores.outcome(share)
    found = epsilon_of_any_mechanism(outcome, plan.budget.delta, failure)
    return _attack(scores.name, "nothing", outcome, found, failure, True)


def _attack(
    name: str, assumes: str, outcome: Outcome, found: float, failure: float, in_headline: bool
) -> Attack:
    return Attack(
        name=name,
        assumes=assumes,
        canaries=outcome.canaries,
        guesses=outcome.guesses,
        correct=outcome.correct,
        epsilon_lower_bound=found,
        confidence=1.0 - failure,
        in_headline=in_headline,
    )


def claim_of(plan: Plan) -> float:
    """Epsilon of the training alone: an audit asks no side query."""
    from dp_diffusers.privacy import accountant

    if not plan.queries:
        return plan.epsilon
    assert plan.budget is not None
    assert plan.record is not None
    return accountant.epsilon([plan.record], plan.budget.delta, plan.budget.adjacency)
