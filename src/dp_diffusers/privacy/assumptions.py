"""What a certificate takes for granted, in short sentences.

Guarantee: every question that NIST SP 800-226 (2025) asks of a privacy claim and that a number cannot
answer has a sentence here, and each follows from the certificate's own fields and two facts about the data.
Imports privacy/ and the standard library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dp_diffusers.privacy.cap_words import cap_in_words
from dp_diffusers.privacy.earlier_releases import earlier_releases
from dp_diffusers.privacy.teacher_features import network_of

_NOT_PRIVATE = (
    "NOT PRIVATE: nothing is promised to anyone in the data; do not publish unless they may be shown."
)
_TEST_KEYS = "NOT PRIVATE: keys for tests were used, so the noise can be computed and taken off."


def assumptions_of(
    certificate: Mapping[str, Any], *, class_names_from_data: bool, multi_owner: bool = False
) -> list[str]:
    """The sentences for one certificate's document; one without a unit is a run without privacy."""
    unit = certificate["unit"]
    if unit is None:
        return [_NOT_PRIVATE]
    cap = cap_in_words(certificate["ledger"]) or "none was set"
    names = (
        "taken from the data and published without a charge"
        if class_names_from_data
        else "from the recipe or the public model"
    )
    sentences = [
        f"Unit of privacy: {_unit(unit)}",
        f"Adjacency: {_adjacency(certificate['adjacency'])}",
        *([_ownership(unit)] if multi_owner else []),
        f"Epsilon and delta: an upper bound for everything in this release, redone steps included; "
        f"other releases from the same data add to it, up to the cap of the ledger ({cap}).",
        "Population: declared by whoever ran this, public, and not counted from the data.",
        "Fixed beforehand: steps, sampling, clip and noise were chosen before the run without looking at the "
        f"private images. {_end(certificate['ledger'])}",
        "Labels: the label of a unit's image is private; that the named classes exist is public.",
        f"Class names and prompts: {names}.",
        f"{_public(certificate)}: taken to hold nothing about the units that this release protects"
        f"{_beyond(certificate)}",
        "Randomness: every private draw comes from 32-byte keys of the operating system, never written down; "
        "the cipher is taken to be indistinguishable from random.",
        "Floating point: noise is a sum of independent float64 draws rounded to a fixed grid; rounding "
        "effects beyond that are assumed away, not proved.",
        "Trust: central model. Whoever ran this saw the images; machine, operating system, libraries, "
        "ledger file and, where several processes trained, the network between them were neither tampered "
        "with nor listened to.",
        "Side channels: time, memory use and whatever the run wrote outside this release are not covered.",
        f"Leak scan: {_leak_scan(certificate.get('scanned_without_traces'))}",
        "Data handling: the release covers what is in it; access to the private images is not its subject.",
    ]
    return [_TEST_KEYS, *sentences] if certificate["not_private"] else sentences


def _leak_scan(unknown: Sequence[str] | None) -> str:
    """What was compared with the private images. unknown: what was added when nothing of them was noted."""
    passed = "that nothing did is an answer that epsilon does not cover."
    if not unknown:  # a card of the training keeps this sentence, whatever is added to the release later
        return (
            "the release was compared with the private images before it was certified, and a copy of one "
            "would have stopped it. What was added when it could not be compared, if anything was, the "
            f"certificate names in scanned_without_traces; {passed}"
        )
    return (
        f"no traces of the private images were left to compare with when this was added: "
        f"{' and '.join(unknown)}. A copy of one there would not have been noticed. The rest of the release "
        f"was compared with them before it was certified, and a copy of one would have stopped it; {passed}"
    )


def _end(ledger: Mapping[str, Any]) -> str:
    """Why the number of steps is taken not to depend on what they released."""
    if ledger.get("ended_unseen"):
        return (
            "The run was ended before its plan; whoever ended it stated in the ledger to have seen nothing "
            "that it released, and epsilon rests on that."
        )
    return "It ran to its planned end, or to its limit, which steps redone after crashes may bring nearer."


def _unit(unit: str) -> str:
    if unit == "image":
        return "one image. Someone with several images is protected for each of them, not for all together."
    return f"one {unit}, meaning all images that carry its id; ids are taken to be right."


def _adjacency(adjacency: str) -> str:
    if adjacency == "zero_out":
        return "zero_out, the images of one unit replaced by nothing; the number of units is public."
    if adjacency == "replace":
        return "replace, the images of one unit replaced by any others; the number of units is public."
    return "add_remove, one unit more or fewer; replacing one unit by another counts as two such changes."


def _ownership(unit: str) -> str:
    return (
        f"Ownership: an image may belong to several of {unit}. Who is on which image is declared "
        "public and fixed, and taken to be complete: neighbours agree in it and differ in the images of one "
        f"{unit}. Images are used in sets whose owners share nobody, chosen by ownership alone; each "
        "set is one unit, and the population counts sets."
    )


def _public(certificate: Mapping[str, Any]) -> str:
    """What is assumed to be public: images by their name, a teacher's features by their network."""
    beside = list(_beside(certificate))
    if not beside:
        return "Public data and base model"
    return f"Public data, base model, {''.join(f'{what}, ' for what in beside[:-1])}and {beside[-1]}"


def _beside(certificate: Mapping[str, Any]) -> Iterator[str]:
    mixed_in, teacher = certificate.get("public_images"), certificate.get("teacher")
    if mixed_in is not None:
        yield f"the {_images(mixed_in)} that were trained on without clip and noise"
    if teacher is not None:
        if teacher["public"] is not None:
            yield f"the {_images(teacher['public'])} that scaled the features of the classifier without noise"
        yield f"{network_of(teacher)} that gave the classifier its features, with what it was trained on"


def _images(images: Mapping[str, Any]) -> str:
    return f"{images['images']} images {images['name']!r}"


def _beyond(certificate: Mapping[str, Any]) -> str:
    """What is known of the units of a base that is not public."""
    known = earlier_releases(certificate)
    return "." if known is None else f", except for this. {known}"
