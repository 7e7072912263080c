"""The model card of a release: what it is, what it promises, how to load it.

Guarantee: every number comes from the certificate and from the public base model; nothing private is
read. May import what `card_parts` does. The front matter is that of Hugging Face model cards; the sections
are those that Mitchell et al. (2019) ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dp_diffusers.cards import card_parts as parts
from dp_diffusers.cards.loading_lines import loading_lines
from dp_diffusers.rounding import rounded_down

if TYPE_CHECKING:
    from dp_diffusers.diffusion.family import Family

_CARD = """{head}{alarm}# Adapter for {base}, {headline}

{promise}

An adapter in peft's layout, for the diffusion model {base}, whose configuration and weights have sha256
`{sha256}`. It does nothing by itself.

## Load it
From this folder, with the base model at hand:
```python
{code}
```

## Use
Meant for images {of_what}that stand in for private ones where these may not be shown: to train or test other
models, to teach, to try software out.

Not meant for statements about any person, for decisions about people (a diagnosis, a credit), or as evidence:
an image that it draws shows nobody and nothing that happened.

## Training data
{data}

## Limits and bias
{limits}

## Numbers
{numbers}

## Verify it
{verify}

## Assumptions
{assumptions}

## Licence
{licence}
"""


def model_card(
    certificate: dict[str, Any], family: Family, *, diffusers_file: bool = False, low_rank: bool = True
) -> str:
    """The text of `README.md` in a release folder.

    diffusers_file: whether the adapter is there as a file of diffusers' own too. low_rank: whether it is
    LoRA.
    """
    identity = certificate["base_model"]["id"]
    classes = certificate.get("classes") or {}
    return _CARD.format(
        head=_head(certificate, family, diffusers_file, low_rank),
        alarm=alarm(certificate, "this adapter"),
        base=parts.plain(identity),
        code=loading_lines(
            family,
            identity,
            classes.get("labels"),
            prompts=classes.get("prompts"),
            diffusers_file=diffusers_file,
        ),
        sha256=certificate["base_model"]["sha256"],
        headline=parts.headline(certificate),
        promise=_promise(certificate),
        of_what=f"of {parts.listed(classes['names'])} " if classes.get("names") else "",
        data=parts.private_data(certificate),
        limits=parts.LIMITS,
        numbers=certified_table(certificate),
        verify=parts.VERIFY.format(place="."),
        assumptions=parts.assumptions(certificate),
        licence=parts.LICENCE,
    )


def _head(certificate: Mapping[str, Any], family: Family, diffusers_file: bool, low_rank: bool) -> str:
    """Hugging Face counts an adapter that a pipeline loads by itself to diffusers, any other to peft."""
    return parts.front_matter(
        {
            "library_name": "diffusers" if diffusers_file else "peft",
            **parts.base_fields(certificate, "adapter"),
            "pipeline_tag": pipeline_tag(family.takes_text),
            "tags": parts.tags(certificate, "diffusion", *(["lora"] if low_rank else [])),
        }
    )


def pipeline_tag(takes_text: bool) -> str:
    """The task, in the Hub's words; it has none for images by class."""
    return "text-to-image" if takes_text else "unconditional-image-generation"


def alarm(certificate: Mapping[str, Any], what: str) -> str:
    """What comes before the title of a card that is NOT PRIVATE; nothing for any other."""
    return f"{parts.unprotected(certificate, what)}\n\n" if certificate["not_private"] else ""


def _promise(certificate: Mapping[str, Any]) -> str:
    if certificate["not_private"]:
        return "Nothing is promised to anyone in the data."
    return f"Trained with differential privacy: {parts.promise(certificate, 'this adapter or its images')}"


def certified_table(certificate: dict[str, Any]) -> str:
    """The numbers of a certificate as rows of a table."""
    rows = certified_rows(certificate)
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            *(f"| {name} | {'none' if value is None else value} |" for name, value in rows),
        ]
    )


def certified_rows(certificate: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Name and value of each of them; noise by six digits, as the report has it, and never rounded up."""
    rows = [("trainable parameters", certificate["adapter"]["trainable_parameters"])]
    for entry in certificate["mechanisms"]:
        told = {key: _told(key, value) for key, value in entry.items() if key != "name"}
        rows += [(f"{entry['name']}: {key}", value) for key, value in told.items()]
    return rows


def _told(key: str, value: Any) -> Any:
    return rounded_down(float(value), 6) if key == "noise_multiplier" and value is not None else value
