"""A plan in plain words, for the engineer who runs it and the officer who answers for it.

Guarantee: says nothing that does not follow from the plan's public numbers, and no bound as less than it is.
Imports the standard library and the rounding of bounds only. Sources: Kasiviswanathan and Smith 2014 (arXiv
0803.3946) for the reading of epsilon as odds, and NIST SP 800-226 for what has to be said beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.compared import compared
from dp_diffusers.privacy.events import GaussianMechanism, Record
from dp_diffusers.privacy.quantile_noise import gradient_noise
from dp_diffusers.privacy.theorems import theorem_of
from dp_diffusers.rounding import rounded_down_text, rounded_up, rounded_up_text

_ABOUT: Final = {"add_remove": "the presence", "zero_out": "the images", "replace": "the images"}
BELIEF: Final = {
    "add_remove": "being in the data",
    "zero_out": "having images in the data",
    "replace": "having these images and not others",
}

_NOT_PRIVATE = """NOT PRIVATE. This plan neither clips nor adds noise: whoever sees the model or its images
may learn anything about anyone in the data. It is for measuring what privacy costs, on data that anyone may
see."""


def explain(
    budget: Budget | None,
    record: GaussianMechanism | None,
    epsilon: float,
    epsilon_rdp: float | None,
    *,
    without_limit: float | None = None,
    queries: Sequence[Record] = (),
    alone: Sequence[float] = (),
) -> str:
    """Several short paragraphs; `budget` and `record` None mean the run without privacy.

    `without_limit`: epsilon if `max_units` were not, where it is met often enough to matter. `queries`: what
    is asked beside the steps; `alone`: epsilon of each of them by itself.
    """
    if budget is None or record is None:
        return _NOT_PRIVATE
    costs: Sequence[float | None] = alone or [None] * len(queries)
    sampling = [
        *_quantile_sentences(record),
        *_limit_sentences(record, epsilon, without_limit),
        *map(_query_sentence, queries, costs),
    ]
    engineer = _engineer(budget, record, epsilon, epsilon_rdp, sampling)
    officer = _officer(budget, record, epsilon)
    return f"For the engineer\n{engineer}\n\nFor the data protection officer\n{officer}"


def _engineer(
    budget: Budget,
    record: GaussianMechanism,
    epsilon: float,
    epsilon_rdp: float | None,
    further: Sequence[str],
) -> str:
    lines = [
        *_step_sentences(budget, record),
        *further,
        f"Epsilon is {rounded_up_text(epsilon, 6)} of a budget of {budget.epsilon:g} at delta "
        f"{rounded_up_text(budget.delta)}, an upper bound by {_bound_words(epsilon, epsilon_rdp)}.",
        f"Theorem: {theorem_of(record, budget.adjacency)}.",
        _cap_sentence(budget),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _bound_words(epsilon: float, epsilon_rdp: float | None) -> str:
    if epsilon == epsilon_rdp:
        return "RDP alone, as delta is within the rounding of privacy loss distributions"
    return f"privacy loss distributions; {_rdp_words(epsilon_rdp)}"


def _step_sentences(budget: Budget, record: GaussianMechanism) -> Iterator[str]:
    if record.name == "count":
        yield (
            f"One number is asked, to which every {_name(budget)} adds a part of at most 1; Gaussian noise "
            f"of {_noise(record.noise_multiplier)} (noise multiplier) is added to it."
        )
        return
    if record.name == "pe":
        yield (
            f"In {_each_of(record.steps, 'iteration')} every {_name(budget)} has one vote for the synthetic "
            "images nearest to it, shared among its images; Gaussian noise of "
            f"{_noise(record.noise_multiplier)} votes (noise multiplier) is added to the count of each "
            "synthetic image."
        )
        return
    yield (
        f"In {_each_of(record.steps, 'step')} every {_name(budget)} takes part on its own with probability "
        f"{record.sampling_probability:.6g} ({record.expected_units:,} expected of {record.population:,})."
    )
    yield (
        f"One {_name(budget)} moves the sum of a step by at most {record.clip_norm:g} (clip norm); Gaussian "
        f"noise of {_noise(record.noise_multiplier)} x that (noise multiplier) is added to the sum."
    )
    if record.noise_multiplier:
        signal = math.sqrt(record.steps) * record.expected_units / record.noise_multiplier
        yield (
            f"Signal over noise of one number is at most {signal:,.0f}, "
            "sqrt(steps) x units / noise multiplier; of all trained numbers, that by the root of their "
            "count. Compare settings by it."
        )


def _noise(multiplier: float) -> str:
    """Four decimals, rounded down."""
    nearest = round(multiplier, 4)
    return f"{nearest if nearest <= multiplier else nearest - 1e-4:.4f}"


def _each_of(times: int, what: str) -> str:
    return f"each of {times:,} {what}s" if times > 1 else f"the one {what}"


def _officer(budget: Budget, record: GaussianMechanism, epsilon: float) -> str:
    shown = rounded_up(epsilon)
    lines = [
        f"Protected is each {_unit(budget)}: {_adjacency_sentence(budget)}",
        "Whatever anyone does with the model and its images: "
        f"{compared(_name(budget), budget.adjacency)}, the probabilities of anything that they could see or "
        f"conclude differ by a factor of at most e^{shown:g} = {_factor(shown)}, plus delta. "
        f"{_odds_sentence(epsilon)}",
        f"Delta = {rounded_up_text(budget.delta)} is added to every probability, that of a right guess "
        f"included; one in the {record.population:,} of the data would be {1 / record.population:.1g}.",
        f"Assumed public, and not protected: that the data hold {_how_many(budget, record)} (declared, not "
        "counted), the names of the classes, the settings of the run, the public model and data it starts "
        "from. Not covered: who can reach the private images, logs and memory while the run is on.",
        f"The bound is about {_ABOUT[budget.adjacency]} of one unit. What is true of the whole population "
        "can still be learnt; that is the purpose.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _unit(budget: Budget) -> str:
    """Whose presence is hidden; a column stands for all images that carry one of its ids."""
    if budget.unit == "image":
        return "image on its own (someone with several has them protected one by one, not together)"
    return f"{budget.unit}, meaning all images that carry its id, together"


def _name(budget: Budget) -> str:
    return "image" if budget.unit == "image" else f"unit named by {budget.unit}"


def _factor(epsilon: float) -> str:
    factor = math.exp(epsilon)
    if factor < 100:
        return rounded_up_text(factor, 3)
    return f"{math.ceil(factor):,}" if factor < 1e9 else f"{rounded_up(factor, 2):.1e}"


def _odds_sentence(epsilon: float) -> str:
    """The share of right guesses from even odds, up to delta: e^epsilon / (1 + e^epsilon), rounded up."""
    right = 100.0 / (1.0 + math.exp(-epsilon))
    if right < 99.0:
        return (
            f"Someone who begins at even odds is right at most {rounded_up_text(right, 3)} % of the time, "
            "plus at most delta."
        )
    share = (
        f"in {rounded_up_text(right)} % of cases, plus at most delta"
        if right < 99.99
        else "in more than 99.99 % of cases"
    )
    return (
        f"In the worst case that is near certainty: someone who begins at even odds could be right {share}. "
        "At an epsilon this large the bound by itself promises little; a smaller one promises more."
    )


def _cap_sentence(budget: Budget) -> str:
    if budget.cap is None:
        return "No cap: the ledger of the data set records what runs spend and refuses none."
    cap = budget.cap
    told = f"All runs on this data set together may spend epsilon {cap.epsilon:g} at delta {cap.delta:g}"
    return f"{told}, unless the first of them fixed another cap." if budget.asks_for_no_cap else f"{told}."


def _adjacency_sentence(budget: Budget) -> str:
    sentences = {
        "add_remove": "in which one is missing.",
        "zero_out": "in which one is blank, their number public.",
        "replace": "in which any other content stands in the place of one, their number public.",
    }
    return f"the bound compares the data with the same data {sentences[budget.adjacency]}"


def _rdp_words(epsilon_rdp: float | None) -> str:
    if epsilon_rdp is None:
        return "RDP has no theorem for this combination, so there is no cross-check"
    return f"RDP, which is looser, gives {epsilon_rdp:.4f}"


def _how_many(budget: Budget, record: GaussianMechanism) -> str:
    """Slots are public where a missing unit is an empty slot; else the number is only declared."""
    most = record.max_units is not None and budget.adjacency == "add_remove"
    return f"{'at most' if most else 'about'} {record.population:,}"


def _query_sentence(query: Record, alone: float | None) -> str:
    times = "once" if query.steps == 1 else f"{query.steps:,} times"
    return (
        f"Besides, and paid from the same budget: {query.name}, {times}, with Gaussian noise of "
        f"{rounded_down_text(query.noise_multiplier)} x what one unit adds at most."
        + ("" if alone is None else f" By itself it would cost epsilon {rounded_up_text(alone)}.")
    )


def _quantile_sentences(record: GaussianMechanism) -> Iterator[str]:
    if record.quantile_noise is None:
        return
    yield (
        "The clip norm only starts there: it follows a noisy count of the units whose gradients are shorter, "
        f"towards a share of {record.target_quantile:g}. The count has noise "
        f"{rounded_down_text(record.quantile_noise)}, the sum "
        f"{_noise(gradient_noise(record.noise_multiplier, record.quantile_noise))} x the clip norm of "
        f"its step; together they cost what {_noise(record.noise_multiplier)} alone would."
    )


def _limit_sentences(record: GaussianMechanism, epsilon: float, without_limit: float | None) -> Iterator[str]:
    if record.max_units is None:
        return
    yield (
        f"Of more than {record.max_units:,} in a step a random {record.max_units:,} stay; steps are drawn "
        f"from exactly {record.population:,} places, empty ones included, and units beyond them are never "
        "used."
    )
    if without_limit is not None:
        yield (
            f"That limit lies {record.deviations_to_limit():.1f} standard deviations above the mean, so it "
            f"is met often: it costs epsilon {epsilon:.4f} where the same noise without it would give "
            f"{without_limit:.4f}. At 5 standard deviations it costs next to nothing."
        )
