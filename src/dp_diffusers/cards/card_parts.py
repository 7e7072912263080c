"""What all cards have in common: front matter of Hugging Face's, the promise in words, its limits.

Guarantees:
- a text of a certificate (a class, a model) is one line of plain text in a card, and never markup;
- a card that is NOT PRIVATE says so before anything else and carries no tag that says otherwise;
- what is not known, such as a licence, is left out of the front matter and named in the text.
May import yaml, the standard library and the rounding of bounds. The fields are those of the Hub's cards for
models and data sets.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from dp_diffusers.privacy.compared import compared
from dp_diffusers.rounding import rounded_up_text

_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
# as entities, which the leak scan undoes: nothing hides from it behind a backslash
_MARKUP: Final = re.compile(r"[\\`*\[\]|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")

VERIFY: Final = """On any computer with dp-diffusers, without a network and without the private images:
```sh
dp-diffusers certificate verify {place}
```
It computes epsilon again from the mechanisms in `certificate.json` with dp-accounting alone and hashes every
file of the release; it must say `valid`. A signature, where there is one, is checked with `--public-key`."""

LIMITS: Final = """- Clipping and noise cost small groups and rare cases more than frequent ones: measure each
  group before use.
- Biases of the base model and of the private images are passed on, and nothing here removes them.
- What is true of the whole population can be learnt from a release: that is its purpose. Epsilon bounds what
  can be learnt of one unit.
- No score is part of this card. One that was measured on private images is not covered by epsilon."""

LICENCE: Final = """Not stated: what the base model's licence asks for is not known here, and whoever
publishes this decides under which terms. The front matter names none. State them outside this folder: where a
certificate lists this card, it does so as it is."""


def front_matter(fields: Mapping[str, Any]) -> str:
    """The head of a card: fields without a value are left out."""
    known = {name: value for name, value in fields.items() if value is not None}
    text = yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n"


def plain(text: object) -> str:
    """A text as one line of Markdown that shows it letter by letter."""
    escaped = html.escape(" ".join(str(text).split()), quote=False)
    return _MARKUP.sub(lambda found: f"&#{ord(found.group())};", escaped)


def listed(words: Sequence[object]) -> str:
    """Words one after the other, as plain text."""
    return ", ".join(map(plain, words))


def base_fields(certificate: Mapping[str, Any], relation: str) -> dict[str, Any]:
    """`base_model` and how it is used, where the base is one that the Hub can know: `owner/name`."""
    identity = str(certificate["base_model"]["id"])
    on_hub = _HUB_ID.fullmatch(identity) is not None
    return {"base_model": identity, "base_model_relation": relation} if on_hub else {}


def tags(certificate: Mapping[str, Any], *more: str) -> list[str]:
    """Tags of a card; `differential-privacy` only where that is what was done."""
    names = {entry["name"] for entry in certificate["mechanisms"]}
    kind = ["dp-sgd"] if "dpsgd" in names else ["private-evolution"] if "pe" in names else []
    first = ["not-private"] if certificate["not_private"] else ["differential-privacy", *kind]
    return [*first, *more, "dp-diffusers"]


def headline(certificate: Mapping[str, Any]) -> str:
    """The end of a title."""
    if certificate["not_private"]:
        return "NOT PRIVATE"
    return f"epsilon = {rounded_up_text(certificate['epsilon'])}"


def _kind_of(teacher: Mapping[str, Any]) -> str:
    """What classifier a certificate's teacher is."""
    if clusters := teacher.get("clusters"):
        return f"a count of units of each class in {clusters:,} clusters"
    return "a linear classifier"


def unprotected(certificate: Mapping[str, Any], what: str) -> str:
    """What a card that is NOT PRIVATE says first. what: this adapter, these images."""
    why = "without noise" if certificate["unit"] is None else "with noise from keys that are known"
    return f"**NOT PRIVATE.** Made {why}: {what} may reveal the private images."


def bound(promised: Mapping[str, Any]) -> str:
    """Epsilon, delta, unit and adjacency of a certificate, or of what a merged model keeps of one."""
    epsilon, delta = rounded_up_text(promised["epsilon"]), rounded_up_text(promised["delta"])
    unit, adjacency = plain(promised["unit"]), promised["adjacency"]
    return f"(epsilon, delta) = ({epsilon}, {delta}) per {unit}, adjacency {adjacency}"


def promise(certificate: Mapping[str, Any], what: str) -> str:
    """The bound in words. what: this adapter or its images, these images."""
    unit = plain(certificate["unit"])
    return (
        f"{bound(certificate)}. Whatever anyone does with {what}: "
        f"{compared(unit, certificate['adjacency'])}, "
        "the probabilities of anything that they could see or conclude differ by a factor of at most "
        "e^epsilon, plus delta."
    )


def private_data(certificate: Mapping[str, Any]) -> str:
    """What is public about the private images, as bullet points: unit, declared number, classes."""
    lines = ["Private images; what they are called and where they lie is no part of a release."]
    unit = certificate["unit"]
    if unit is not None:
        whole = "" if unit == "image" else ", with all images that carry its id together"
        lines.append(f"Unit of privacy: one {plain(unit)}{whole}.")
    declared = {entry["population"] for entry in certificate["mechanisms"] if entry.get("population")}
    lines += [
        f"Units: {count}, declared by whoever ran this and not counted from the data."
        for count in sorted(declared)
    ]
    classes = certificate.get("classes") or {}
    if classes.get("names"):
        whose = "declared by whoever ran this" if classes.get("declared") else "those of the base model"
        whose = "named by the data" if classes.get("from_data") else whose
        lines.append(f"Classes, {whose}: {listed(classes['names'])}.")
    if teacher := certificate.get("teacher"):
        lines.append(
            f"Labels: `teacher.safetensors` is {_kind_of(teacher)} of public features "
            f"({plain(teacher['features'])}), made of sums over the private images"
            f"{'' if certificate['not_private'] else ' that have noise and were charged'}."
        )
    if certificate.get("warmup"):
        lines.append(
            "Before the first step the model learnt from images drawn from Gaussians, whose means and "
            "covariances are sums over the private images"
            f"{'' if certificate['not_private'] else ' that have noise and were charged'}."
        )
    mixed_in = certificate.get("public_images")
    if mixed_in:
        lines.append(
            f"Beside them, without noise: {mixed_in['images']} public images {plain(mixed_in['name'])}."
        )
    return "\n".join(f"- {line}" for line in lines)


def assumptions(certificate: Mapping[str, Any]) -> str:
    """What the bound rests on, as bullet points."""
    return "\n".join(f"- {plain(line)}" for line in certificate["assumptions"])
