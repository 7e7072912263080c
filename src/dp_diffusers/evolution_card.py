"""The card of a release of Private Evolution: synthetic images in the place of an adapter.

Guarantee: every number comes from the certificate and from the public base model; nothing private is read.
May import the standard library only. The front matter is that of Hugging Face data set cards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dp_diffusers.model_card import certified_table

if TYPE_CHECKING:
    from dp_diffusers.diffusion.family import Family

_CARD = """---
tags: [differential-privacy, diffusion, synthetic-images]
---
# Synthetic images made with {base}, {headline}

No model was trained: private images voted, with noise on every count, for images that the public model
made, and those were varied (Private Evolution). {promise}

## Load it
From this folder:
```python
from safetensors.numpy import load_file

population = load_file("population/population.safetensors")
images = population["images"]  # uint8 [N, H, W, C]
classes = population.get("classes")  # int64 [N], places among the classes of certificate.json
```
`dp-diffusers generate RUN --images N` writes N of them, and variations of them, with their labels. The public
model's configuration and weights have sha256 `{sha256}`.

## Numbers
{numbers}

## Verify it
`dp-diffusers certificate verify .` recomputes epsilon from the mechanisms in `certificate.json` with
dp-accounting alone, and hashes every file of this folder.

## Assumptions
{assumptions}
"""


_NOT_PRIVATE = "NOT PRIVATE. The noise of the votes came from keys that are known."


def population_card(certificate: dict[str, Any], family: Family) -> str:
    """The text of `README.md` in a release folder that holds a population."""
    del family
    base, private = certificate["base_model"], not certificate["not_private"]
    return _CARD.format(
        base=base["id"],
        sha256=base["sha256"],
        headline=f"epsilon = {certificate['epsilon']:.4g}" if private else "NOT PRIVATE",
        promise=_promise(certificate) if private else _NOT_PRIVATE,
        numbers=certified_table(certificate),
        assumptions="\n".join(f"- {line}" for line in certificate["assumptions"]),
    )


def _promise(certificate: dict[str, Any]) -> str:
    return (
        f"It is differentially private: (epsilon, delta) = ({certificate['epsilon']:.4g}, "
        f"{certificate['delta']:.3g}) per {certificate['unit']}, adjacency {certificate['adjacency']}. "
        f"Whatever anyone does with these images, the odds of telling whether one {certificate['unit']} was "
        "among the private data change by a factor of at most e^epsilon, except with probability delta."
    )
