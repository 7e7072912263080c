"""The model card of a release: what it is, what it promises, how to load it.

Guarantee: every number comes from the certificate and from the public base model; nothing private is read,
and the lines that load the adapter run as they stand. May import the standard library only. The front matter
is that of Hugging Face model cards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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


_CODE = """import torch
from diffusers import DDIMScheduler, DDPMPipeline
from peft import PeftModel

pipe = DDPMPipeline.from_pretrained("{base}")  # the base model: a folder or a hub id
unet = PeftModel.from_pretrained(pipe.unet, "adapter").eval()
scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
scheduler.set_timesteps(25)
{labels}images = torch.randn({shape})
with torch.no_grad():
    for step in scheduler.timesteps:
        output = unet(images, step{condition}).sample
        images = scheduler.step(output, step, images).prev_sample
{patch}images = images.clamp(-1, 1) / 2 + 0.5  # {result}, values in [0, 1]"""

_PATCH = """\
# The model works on blocks of {size} x {size} pixels (its patch.json): put them back in their places.
images = torch.nn.functional.pixel_shuffle(images, {size})
"""


def loading_lines(family: Family, identity: str, classes: Sequence[int] | None = None) -> str:
    """Python that loads the adapter and draws one image of each class (four, without classes).

    classes: the base's numbers of the classes that were trained; None for all.
    """
    numbers = list(range(family.classes)) if classes is None else list(classes)
    size, count = family.base.patch.size, len(numbers) or 4
    whole = numbers == list(range(count))
    drawn = f"torch.arange({count})" if whole else f"torch.tensor({numbers})"
    side = family.size // size
    return _CODE.format(
        base=identity,
        labels=f"labels = {drawn}  # one image of each class\n" if family.classes else "",
        shape=f"{count}, {family.channels * size**2}, {side}, {side}",
        condition=", class_labels=labels" if family.classes else "",
        patch=_PATCH.format(size=size) if size > 1 else "",
        result=f"[{count}, {family.channels}, {family.size}, {family.size}]",
    )


def model_card(certificate: dict[str, Any], family: Family) -> str:
    """The text of `README.md` in a release folder."""
    private = not certificate["not_private"]
    identity = certificate["base_model"]["id"]
    classes = (certificate.get("classes") or {}).get("labels")
    return _CARD.format(
        base=identity,
        code=loading_lines(family, identity, classes),
        sha256=certificate["base_model"]["sha256"],
        headline=f"epsilon = {certificate['epsilon']:.4g}" if private else "NOT PRIVATE",
        promise=_promise(certificate) if private else _NOT_PRIVATE,
        numbers=_table(certificate),
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


def _table(certificate: dict[str, Any]) -> str:
    rows = [("trainable parameters", certificate["adapter"]["trainable_parameters"])]
    for entry in certificate["mechanisms"]:
        rows += [(f"{entry['name']}: {key}", value) for key, value in entry.items() if key != "name"]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
