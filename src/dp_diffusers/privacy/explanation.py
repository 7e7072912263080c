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
    guess = 100.0 / (1.0 + math.exp(-epsilon))
    certainty = f"{guess:.1f} %" if guess < 99.95 else "very nearly 100 %, which alone is no comfort,"
    lines = [
        f"Protected is each {budget.unit}, meaning all images of it together: {_adjacency_sentence(budget)}",
        f"Whatever anyone believed beforehand about one {budget.unit} being in the data, the model and its "
        f"images can change the odds by a factor of at most e^{epsilon:.3g} = {math.exp(epsilon):,.3g}. "
        f"Someone who begins at even odds is right at most {certainty} of the time.",
        f"This may fail with a probability of at most about delta = {budget.delta:g}, less than one in the "
        f"{record.population:,} of the data.",
        f"Assumed public, and not protected: that the data hold about {record.population:,} (declared, not "
        "counted), the names of the classes, the settings of the run, the public model and data it starts "
        "from. Not covered: who can reach the private images, logs and memory while the run is on.",
        "The bound is about the presence of one unit. What is true of the whole population can still be "
        "learnt; that is the purpose.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _cap_sentence(budget: Budget) -> str:
    if budget.cap is None:
        return "No cap: the ledger of the data set records what runs spend and refuses none."
    cap = budget.cap
    return f"All runs on this data set together may spend epsilon {cap.epsilon:g} at delta {cap.delta:g}."


def _adjacency_sentence(budget: Budget) -> str:
    if budget.adjacency == "zero_out":
        return "the bound compares the data with the same data in which one is blank, their number public."
    return "the bound compares the data with the same data in which one is missing."
