"""The card of a release of Private Evolution: synthetic images in the place of an adapter.

Guarantee: every number comes from the certificate and from the public base model; nothing private is read.
May import what `card_parts` does. The front matter is that of Hugging Face data set cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dp_diffusers.cards import card_parts as parts
from dp_diffusers.cards.model_card import alarm, certified_table

if TYPE_CHECKING:
    from dp_diffusers.diffusion.family import Family

_CARD = """{head}{alarm}# Synthetic images made with {base}, {headline}

No model was trained: private images voted, with noise on every count, for images that the public model
made, and those were varied (Private Evolution, Lin et al. 2024). {promise}

## Load it
From this folder:
```python
from safetensors.numpy import load_file

population = load_file("population/population.safetensors")
images = population["images"]  # uint8 [N, H, W, C]
classes = population.get("classes")  # int64 [N], places among the classes of certificate.json
```
`dp-diffusers generate RUN --images N` writes N of them, and variations of them, with their labels and a card
of their own. The public model's configuration and weights have sha256 `{sha256}`.

## Use
Meant to stand in for private images where these may not be shown: to train or test other models, to teach, to
try software out. Not meant for statements about any person, for decisions about people, or as evidence.

## Private data
{data}

## Limits and bias
{limits}
- The images are as near to the private ones as the public model can draw: what it cannot draw is missing.

## Numbers
{numbers}

## Verify it
{verify}

## Assumptions
{assumptions}

## Licence
{licence}
"""


def population_card(certificate: dict[str, Any], family: Family) -> str:
    """The text of `README.md` in a release folder that holds a population."""
    del family
    base = certificate["base_model"]
    return _CARD.format(
        head=_head(certificate),
        alarm=alarm(certificate, "this population"),
        base=parts.plain(base["id"]),
        sha256=base["sha256"],
        headline=parts.headline(certificate),
        promise=_promise(certificate),
        data=parts.private_data(certificate),
        limits=parts.LIMITS,
        numbers=certified_table(certificate),
        verify=parts.VERIFY.format(place="."),
        assumptions=parts.assumptions(certificate),
        licence=parts.LICENCE,
    )


def _head(certificate: Mapping[str, Any]) -> str:
    task = "image-classification" if certificate.get("classes") else "unconditional-image-generation"
    tags = parts.tags(certificate, "synthetic", "diffusion")
    return parts.front_matter({"task_categories": [task], "tags": tags})


def _promise(certificate: Mapping[str, Any]) -> str:
    if certificate["not_private"]:
        return "Nothing is promised to anyone in the data."
    return f"It is differentially private: {parts.promise(certificate, 'these images')}"
