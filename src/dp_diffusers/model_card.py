"""The model card of a release: what it is, what it promises, how to load it.

Guarantee: every number comes from the certificate and from the public base model; nothing private is
read. May import the standard library only. The front matter is that of Hugging Face model cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dp_diffusers.loading_lines import loading_lines

if TYPE_CHECKING:
    from dp_diffusers.diffusion.family import Family

_CARD = """---
library_name: peft
tags: [differential-privacy, diffusion, lora]
base_model: {base}
---
# Adapter for {base}, {headline}

{promise}

## Load it
From this folder, with the base model at hand:
```python
{code}
```
The base model's configuration and weights have sha256 `{sha256}`.

## Numbers
{numbers}

## Verify it
`dp-diffusers certificate verify .` recomputes epsilon from the mechanisms in `certificate.json` with
dp-accounting alone, and hashes every file of this folder.

## Assumptions
{assumptions}
"""

_NOT_PRIVATE = "NOT PRIVATE. This adapter was trained without noise; it may reveal its training images."


def model_card(certificate: dict[str, Any], family: Family, *, diffusers_file: bool = False) -> str:
    """The text of `README.md` in a release folder.

    diffusers_file: whether the adapter is there as a file of diffusers' own too.
    """
    private = not certificate["not_private"]
    identity = certificate["base_model"]["id"]
    classes = certificate.get("classes") or {}
    return _CARD.format(
        base=identity,
        code=loading_lines(
            family,
            identity,
            classes.get("labels"),
            prompts=classes.get("prompts"),
            diffusers_file=diffusers_file,
        ),
        sha256=certificate["base_model"]["sha256"],
        headline=f"epsilon = {certificate['epsilon']:.4g}" if private else "NOT PRIVATE",
        promise=_promise(certificate) if private else _NOT_PRIVATE,
        numbers=certified_table(certificate),
        assumptions="\n".join(f"- {line}" for line in certificate["assumptions"]),
    )


def _promise(certificate: dict[str, Any]) -> str:
    return (
        f"Trained with differential privacy: (epsilon, delta) = ({certificate['epsilon']:.4g}, "
        f"{certificate['delta']:.3g}) per {certificate['unit']}, adjacency {certificate['adjacency']}. "
        "Whatever anyone does with this adapter or its images, the odds of telling whether one "
        f"{certificate['unit']} was among the training data change by a factor of at most e^epsilon, except "
        "with probability delta."
    )


def certified_table(certificate: dict[str, Any]) -> str:
    """The numbers of a certificate as rows of a table."""
    rows = certified_rows(certificate)
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def certified_rows(certificate: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Name and value of each of them."""
    rows = [("trainable parameters", certificate["adapter"]["trainable_parameters"])]
    for entry in certificate["mechanisms"]:
        rows += [(f"{entry['name']}: {key}", value) for key, value in entry.items() if key != "name"]
    return rows
