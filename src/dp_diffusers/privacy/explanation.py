"""A plan in plain words, for the engineer who runs it and the officer who answers for it.

Guarantee: says nothing that does not follow from the plan's public numbers. Imports the standard library
only. Sources: Kasiviswanathan and Smith 2014 (arXiv 0803.3946) for the reading of epsilon as odds, and
NIST SP 800-226 for what has to be said beside it.
"""

from __future__ import annotations

import math

from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import GaussianMechanism

_NOT_PRIVATE = """NOT PRIVATE. This plan neither clips nor adds noise: whoever sees the model or its images
may learn anything about anyone in the data. It is for measuring what privacy costs, on data that anyone may
see."""


def explain(
    budget: Budget | None, record: GaussianMechanism | None, epsilon: float, epsilon_rdp: float | None
) -> str:
    """Several short paragraphs; `budget` and `record` None mean the run without privacy."""
    if budget is None or record is None:
        return _NOT_PRIVATE
    engineer, officer = _engineer(budget, record, epsilon, epsilon_rdp), _officer(budget, record, epsilon)
    return f"For the engineer\n{engineer}\n\nFor the data protection officer\n{officer}"


def _engineer(budget: Budget, record: GaussianMechanism, epsilon: float, epsilon_rdp: float | None) -> str:
    lines = [
        f"Each of {record.steps:,} steps includes every {budget.unit} on its own with probability "
        f"{record.sampling_probability:.6g} ({record.expected_units:,} expected of {record.population:,}).",
        f"One {budget.unit} moves the sum of a step by at most {record.clip_norm:g} (clip norm); Gaussian "
        f"noise of {record.noise_multiplier:.4f} x that (noise multiplier) is added to the sum.",
        f"Epsilon is {epsilon:.4f} of a budget of {budget.epsilon:g} at delta {budget.delta:g}, an upper "
        f"bound by privacy loss distributions; RDP, which is looser, gives {epsilon_rdp:.4f}.",
        _cap_sentence(budget),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _officer(budget: Budget, record: GaussianMechanism, epsilon: float) -> str:
    lines = [
        f"Protected is each {_unit(budget)}: {_adjacency_sentence(budget)}",
        f"Whatever anyone believed beforehand about one {budget.unit} being in the data, the model and its "
        f"images can change the odds by a factor of at most e^{epsilon:.3g} = {_factor(epsilon)}. "
        + _odds_sentence(epsilon),
        f"This may fail with a probability of at most about delta = {budget.delta:g}, less than one in the "
        f"{record.population:,} of the data.",
        f"Assumed public, and not protected: that the data hold about {record.population:,} (declared, not "
        "counted), the names of the classes, the settings of the run, the public model and data it starts "
        "from. Not covered: who can reach the private images, logs and memory while the run is on.",
        "The bound is about the presence of one unit. What is true of the whole population can still be "
        "learnt; that is the purpose.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _unit(budget: Budget) -> str:
    """Whose presence is hidden; a column stands for all images that carry one of its ids."""
    if budget.unit == "image":
        return "image on its own (someone with several has them protected one by one, not together)"
    return f"{budget.unit}, meaning all images that carry its id, together"


def _factor(epsilon: float) -> str:
    factor = math.exp(epsilon)
    return f"{factor:.3g}" if factor < 100 else f"{factor:,.0f}" if factor < 1e9 else f"{factor:.1e}"


def _odds_sentence(epsilon: float) -> str:
    """The bound as the share of right guesses: e^epsilon / (1 + e^epsilon) for even odds beforehand."""
    right = 100.0 / (1.0 + math.exp(-epsilon))
    if right < 99.0:
        return f"Someone who begins at even odds can be right at most {right:.1f} % of the time."
    share = f"in {right:.2f} % of cases" if right < 99.99 else "in more than 99.99 % of cases"
    return (
        f"In the worst case that is near certainty: someone who begins at even odds could be right {share}. "
        "At an epsilon this large the bound by itself promises little; a smaller one promises more."
    )


def _cap_sentence(budget: Budget) -> str:
    if budget.cap is None:
        return "No cap: the ledger of the data set records what runs spend and refuses none."
    cap = budget.cap
    return f"All runs on this data set together may spend epsilon {cap.epsilon:g} at delta {cap.delta:g}."


def _adjacency_sentence(budget: Budget) -> str:
    if budget.adjacency == "zero_out":
        return "the bound compares the data with the same data in which one is blank, their number public."
    return "the bound compares the data with the same data in which one is missing."
