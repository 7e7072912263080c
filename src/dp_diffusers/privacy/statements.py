"""The questions that NIST SP 800-226 (2025) would have a privacy claim answer, and this release's answers.

Guarantees that each answer follows from the certificate's own fields and from what is true of every run of
this package, and that what nobody recorded is said to be unknown. Imports the standard library and privacy/.
Source: NIST SP 800-226, Guidelines for Evaluating Differential Privacy Guarantees; the words are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dp_diffusers.privacy.budget import promises_nothing
from dp_diffusers.privacy.cap_words import cap_in_words, epsilon_at
from dp_diffusers.privacy.compared import compared
from dp_diffusers.privacy.earlier_releases import earlier_releases
from dp_diffusers.privacy.events import record_from_dict
from dp_diffusers.privacy.teacher_features import network_of
from dp_diffusers.privacy.theorems import theorem_of
from dp_diffusers.rounding import rounded_down_text, rounded_up_text

_QUESTIONS: Final = {
    "scope": "What does the claim cover?",
    "unit_of_privacy": "Whose privacy is protected?",
    "neighbouring_relation": "Which data sets are compared?",
    "epsilon_and_delta": "How strong is it, and what do the numbers mean?",
    "sensitivity": "How far can one unit move what is computed, and what sees to it?",
    "mechanism": "What adds the noise, and by which theorem does it protect?",
    "accounting": "How were the steps added up?",
    "composition": "What of other releases from the same data?",
    "trust_model": "Who has to be trusted?",
    "population": "Is the number of units private?",
    "labels_and_classes": "Are labels, class names and prompts private?",
    "public_data": "What public data went in, and is it public?",
    "randomness": "Where does the randomness come from?",
    "floating_point": "Does the arithmetic of a computer weaken the claim?",
    "side_channels": "What else could be observed?",
    "tuning": "How were the settings chosen?",
    "data_handling": "Who could reach the private data, and what remains of them?",
    "post_processing": "May the release be worked on?",
    "utility": "Is it any good, and does epsilon cover the evaluation?",
    "bias": "Is everyone served alike?",
    "falsifiers": "What would make the claim false?",
}
_OF_EVERY_RUN: Final = {
    "trust_model": (
        "Central model: whoever ran the training saw the images. Trusted besides are the machine, its "
        "operating system, the libraries, the ledger file and, where several processes trained, the network "
        "between them, which carries sums without noise. Those who receive the release are not trusted at "
        "all."
    ),
    "population": (
        "No. It was declared beforehand, is taken to be public and was not counted from the data. The "
        "bound does not depend on the true number."
    ),
    "randomness": (
        "From 32-byte keys of the operating system, fresh at every start, never written down. The stream "
        "cipher that stretches them is taken to be indistinguishable from chance."
    ),
    "floating_point": (
        "Noise is the sum of several float64 draws, rounded to a fixed grid, which answers the known "
        "attacks on low bits. What rounding does beyond that, in norms and sums, is covered by a margin "
        "of the noise or assumed away; it is not proved."
    ),
    "side_channels": (
        "Time, memory use, screen and logs are not covered by epsilon. Losses, gradient norms and batch "
        "sizes are neither shown nor written outside the private folder. An observer of the machine is "
        "out of scope."
    ),
    "tuning": (
        "All numbers of this run were fixed before it read an image. How they were chosen is not "
        "recorded: trials on the same private data are covered only if they are runs in the same ledger."
    ),
    "data_handling": (
        "Not covered by epsilon. The private folder of the run, mode 0700, keeps traces of the "
        "images, and what a stopped run or a question about private images left; it is to be kept like the "
        "images or deleted. Access to the images is the owner's affair."
    ),
    "post_processing": (
        "Yes, with no further cost: more images, other samplers, other uses. Only new looks at the "
        "private images cost something, and they are new runs."
    ),
    "utility": (
        "No score is part of this claim. A score on private images that was published, or used to choose "
        "among releases, is not covered by epsilon."
    ),
    "bias": (
        "Not promised. Clipping and noise cost small groups and rare cases more than frequent ones; measure "
        "each group before use."
    ),
    "falsifiers": (
        "Ids that split one person into several units; trials outside the ledger, or a ledger deleted or put "
        "back to an older copy; a private folder that leaks; a base model that saw these images; altered "
        "software; an early end that was decided from what the run had released."
    ),
}


def statements_of(
    certificate: Mapping[str, Any], *, class_names_from_data: bool, multi_owner: bool
) -> list[dict[str, str]]:
    """{topic, question, answer} for one certificate's document, in the order of reading."""
    if certificate["not_private"]:
        answer = "Nothing is promised to anyone in the data: NOT PRIVATE."
        return [{"topic": "scope", "question": _QUESTIONS["scope"], "answer": answer}]
    answers = {
        **_OF_EVERY_RUN,
        "accounting": _accounting(certificate["accountant"]),
        "scope": (
            "Everything in this release together: adapter, synthetic images, this certificate, and all "
            "that is made from them. Nothing else."
        ),
        "unit_of_privacy": _unit(certificate["unit"], multi_owner),
        "neighbouring_relation": _neighbours(certificate["unit"], certificate["adjacency"], multi_owner),
        "epsilon_and_delta": _strength(certificate),
        "sensitivity": " ".join(_sensitivities(certificate)),
        "mechanism": " ".join(_mechanisms(certificate)),
        "composition": _composition(certificate),
        "labels_and_classes": _labels(certificate, class_names_from_data),
        "public_data": _public_data(certificate),
    }
    return [
        {"topic": topic, "question": question, "answer": answers[topic]}
        for topic, question in _QUESTIONS.items()
    ]


def _a(unit: str) -> str:
    return f"an {unit}" if unit[:1].lower() in "aeiou" else f"a {unit}"


def _unit(unit: str, multi_owner: bool) -> str:
    if unit == "image":
        return "One image. Someone with several images is protected for each by itself, not for all together."
    whole = f"One {unit}: all images that carry its id, together. The ids are taken to be right."
    if multi_owner:
        whole += f" Images of several {unit}s are used only where no {unit} is in two of the sets used."
    return whole


def _neighbours(unit: str, adjacency: str, multi_owner: bool) -> str:
    differ = {
        "add_remove": f"one has {_a(unit)} that the other lacks",
        "zero_out": f"the images of one {unit} are replaced by nothing; the number of units is public",
        "replace": f"the images of one {unit} are replaced by any others; the number of units is public",
    }
    text = f"Those that differ in one {unit} ({adjacency}): {differ.get(adjacency, 'see adjacency')}."
    return f"{text} Who is on which image is public and the same in both." if multi_owner else text


def _strength(certificate: Mapping[str, Any]) -> str:
    """Right guesses from even odds: (e^epsilon + delta) / (e^epsilon + 1), told as a sum that is above it."""
    epsilon, unit = certificate["epsilon"], certificate["unit"]
    right, bound = rounded_up_text(100.0 / (1.0 + math.exp(-epsilon))), rounded_up_text(epsilon)
    return (
        f"Epsilon {bound} at delta {rounded_up_text(certificate['delta'])}: "
        f"{compared(unit, certificate['adjacency'])}, the probabilities of anything that somebody could see "
        f"in the release or conclude from it differ by a factor of at most e^{bound}, plus delta. So whoever "
        f"begins at even odds on which of the two it was is right at most {right} % of the time, plus at "
        "most delta."
    )


def _sensitivities(certificate: Mapping[str, Any]) -> Iterator[str]:
    unit = certificate["unit"]
    for entry in certificate["mechanisms"]:
        if entry["name"] == "pe":
            yield (
                f"The images of {_a(unit)} vote for synthetic images, each with an equal share of one vote: "
                "a vector of length at most 1."
            )
        elif entry.get("clipping") == "adaptive":
            yield (
                f"All rows of {_a(unit)} make one gradient, clipped before it enters a step's sum, however "
                f"many images and noise draws it has. The length starts at {entry['clip_norm']:g} and "
                "follows a noisy count of units that stay below it, to which each adds at most one half, "
                "either way."
            )
        elif entry.get("clip_norm") is not None:
            yield (
                f"All rows of {_a(unit)} make one gradient, clipped to a length of {entry['clip_norm']:g} "
                "before it enters a step's sum, however many images and noise draws it has."
            )
        else:
            yield f"{entry['name']}: {_a(unit)} adds a vector of length at most 1."


def _mechanisms(certificate: Mapping[str, Any]) -> Iterator[str]:
    for entry in certificate["mechanisms"]:
        record = record_from_dict({**entry, "steps": entry["steps_charged"]})
        noise = f"noise multiplier {rounded_down_text(entry['noise_multiplier'])}"
        theorem = theorem_of(record, certificate["adjacency"])
        if entry.get("quantile_noise") is not None:
            count = rounded_down_text(entry["quantile_noise"])
            noise += f", shared by the sum and a count with noise {count}"
        yield f"{entry['name']}, {entry['steps_charged']} times, {noise}. {theorem}."


def _accounting(accountant: Mapping[str, Any]) -> str:
    by = "Rényi differential privacy" if accountant.get("method") == "rdp" else "privacy loss distributions"
    return (
        f"By {by}, as an upper bound of everything that was charged, steps done again included. "
        "`certificate verify` does it again from the mechanisms listed, with dp-accounting alone."
    )


def _composition(certificate: Mapping[str, Any]) -> str:
    ledger = certificate["ledger"]
    spent, cap, delta = ledger["spent_epsilon"], cap_in_words(ledger), ledger.get("spent_delta")
    limit = "without a limit" if cap is None else f"up to a cap of {cap}"
    population = max((entry.get("population", 1) for entry in certificate["mechanisms"]), default=1)
    vacuous = delta is not None and promises_nothing(delta, population)  # a sum of deltas, without a cap
    return (
        f"They add up. The ledger of the data set counts them, {limit}; when this run ended it stood at "
        f"{epsilon_at(rounded_up_text(spent), delta)}. "
        + ("That delta is not below 1 / population, so this total promises nothing. " if vacuous else "")
        + "Later runs and questions come on top, and so do releases that another ledger counts, or none: "
        "ask what `ledger show` says today."
    )


def _labels(certificate: Mapping[str, Any], class_names_from_data: bool) -> str:
    names = (
        "Class names were taken from the data and are published without a charge."
        if class_names_from_data
        else "Class names and prompts come from the recipe or the public model, never from private columns."
    )
    histogram = any(entry["name"] == "histogram" for entry in certificate["mechanisms"])
    counts = (
        " How many units there are of each class was released with noise, and charged." if histogram else ""
    )
    teacher = any(entry["name"] == "teacher" for entry in certificate["mechanisms"])
    taught = (
        ""
        if not teacher
        else " Sums over labelled images were charged, and nothing of them was released."
        if "teacher" in certificate.get("lost_queries", ())
        else " A classifier was made of sums over labelled images, released with noise and charged."
    )
    moments = any(entry["name"] == "moments" for entry in certificate["mechanisms"])
    warmed = " Coarse means and spreads of the images were asked with noise and charged." if moments else ""
    return (
        "The label of an image is private; that the named classes exist is public. "
        f"{names}{counts}{taught}{warmed}"
    )


def _public_data(certificate: Mapping[str, Any]) -> str:
    base, mixed_in = certificate["base_model"], certificate.get("public_images")
    beside = "" if mixed_in is None else _mixed_in(mixed_in)
    beside += _of_teacher(certificate.get("teacher"))
    earlier = earlier_releases(certificate)
    public = (
        f"The base model {base['id']!r}, whose hash the certificate holds. It, and what it was trained "
        "on, is taken to hold nothing about the units that this release protects; nobody checked that "
        "here."
    )
    return beside + public + ("" if earlier is None else f" Except for this: {earlier}")


def _of_teacher(teacher: Mapping[str, Any] | None) -> str:
    """A teacher's network of features, and the public images that scaled them."""
    if teacher is None:
        return ""
    hashed = "" if teacher["sha256"] is None else ", whose hash the certificate holds"
    network = (
        f"The features of the classifier are those of {network_of(teacher)}{hashed}. It, and what "
        "it was trained on, is taken to hold nothing about the units that this release protects. "
    )
    return _scaling(teacher["public"]) + network


def _scaling(images: Mapping[str, Any] | None) -> str:
    """Public images that a teacher's features were scaled by."""
    if images is None:
        return ""
    return (
        f"{images['images']} images {images['name']!r}, whose hash the certificate holds, scaled the "
        "features of the classifier without noise: what they show is not protected, and they are taken to be "
        "public. "
    )


def _mixed_in(images: Mapping[str, Any]) -> str:
    return (
        f"{images['images']} images {images['name']!r}, whose hash the certificate holds, were trained on "
        f"beside the private ones, {images['batch_size']} in a step, without clip and noise: what they show "
        "is not protected, and they are taken to be public. "
    )
