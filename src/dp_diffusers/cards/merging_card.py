"""The card of a merged model: what is in it, what it promises, and that it has no certificate of its own.

Guarantee: every number comes from certificates that were verified; nothing private is read. May import
what `card_parts` does. The front matter is that of Hugging Face model cards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dp_diffusers.cards import card_parts as parts
from dp_diffusers.cards.model_card import pipeline_tag
from dp_diffusers.diffusion.merged_from import SIDECAR, Origin

_CARD = """{head}{alarm}# {base} with an adapter merged into it, {headline}

{promise}

## Where it comes from
The network's weights are those of {base} (sha256 `{base_sha256}`) plus the adapter of a release.
{origins}

Merging is post-processing: it costs nothing, and what the release promises holds for this folder, which has
no certificate of its own. Keep the release: `dp-diffusers certificate verify RELEASE` checks its numbers, and
`dp-diffusers merge RELEASE --out DIR` makes these weights again.

## Load it
```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(".")
```

## As a base model
It is not a public model, and `{sidecar}` says so: the certificate of a later training on it names what is
above, and whoever is in the data of both is protected by the sum of the epsilons and deltas.

## Use, limits and bias
Meant for images that stand in for private ones where these may not be shown. Not meant for statements about
any person, for decisions about people, or as evidence.

{limits}

## Licence
{licence} A licence file of the base model, where it came with one, lies in this folder.
"""
_NOT_PRIVATE = (
    "**NOT PRIVATE.** A part of these weights was trained without noise, or with keys that are known; they "
    "may reveal the images that they were trained on."
)


def merged_card(certificate: dict[str, Any], origins: Sequence[Origin], *, takes_text: bool = False) -> str:
    """The text of `README.md` in a merged folder.

    origins: as in the sidecar, the earliest first. takes_text: whether the model draws by prompts.
    """
    private = not any(origin["not_private"] for origin in origins)
    certificate = {**certificate, "not_private": not private}
    return _CARD.format(
        head=_head(certificate, takes_text),
        alarm="" if private else f"{_NOT_PRIVATE}\n\n",
        base=parts.plain(certificate["base_model"]["id"]),
        base_sha256=certificate["base_model"]["sha256"],
        headline=parts.headline(certificate),
        promise=_promise(origins) if private else "Nothing is promised to anyone in the data.",
        origins="\n".join(map(_origin, origins)),
        sidecar=SIDECAR,
        limits=parts.LIMITS,
        licence=parts.LICENCE,
    )


def _head(certificate: Mapping[str, Any], takes_text: bool) -> str:
    """These are whole weights, so the Hub's word for what they are of their base is `finetune`."""
    return parts.front_matter(
        {
            "library_name": "diffusers",
            **parts.base_fields(certificate, "finetune"),
            "pipeline_tag": pipeline_tag(takes_text),
            "tags": parts.tags(certificate, "diffusion"),
        }
    )


def _promise(origins: Sequence[Origin]) -> str:
    bounds = "; and ".join(parts.bound(origin) for origin in origins)
    several = " Whoever is in the data of several is protected by the sum." if len(origins) > 1 else ""
    return (
        f"Trained with differential privacy: {bounds}.{several} Whatever anyone does with these "
        "weights: with training data that differ in one unit, as its adjacency says, the probabilities of "
        "anything that they could see or conclude differ by a factor of at most e^epsilon, plus delta."
    )


def _origin(origin: Origin) -> str:
    bound = "NOT PRIVATE" if origin["not_private"] else parts.bound(origin)
    return (
        f"- Release with `certificate.json` of sha256 `{origin['certificate_sha256']}` and adapter of sha256 "
        f"`{origin['adapter_sha256']}`: {bound}"
    )
