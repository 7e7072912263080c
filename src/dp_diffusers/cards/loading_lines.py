"""The lines of a model card that load an adapter and draw images, with stock diffusers and peft.

Guarantee: they run as they stand, in the folder of the release. May import the standard library only. A
pipeline that reads diffusers' LoRA files loads one; any other network gets peft's adapter in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dp_diffusers.diffusion.family import Family

MOST_PROMPTS: Final = 4
_EXAMPLE: Final = "an image"  # where the captions of the training are private

_BY_HAND: Final = """import torch
from diffusers import DDIMScheduler, {pipeline}
from peft import PeftModel

pipe = {pipeline}.from_pretrained("{base}")  # the base model: a folder or a hub id
unet = PeftModel.from_pretrained(pipe.unet, "adapter").eval()
scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing"{unclipped})
scheduler.set_timesteps(25)
{labels}images = torch.randn({shape})
with torch.no_grad():
    for step in scheduler.timesteps:
        output = unet(images, step{condition}).sample
        images = scheduler.step(output, step, images).prev_sample
{back}images = images.clamp(-1, 1) / 2 + 0.5  # {result}, values in [0, 1]"""

_PATCH: Final = """\
# The model works on blocks of {size} x {size} pixels (its patch.json): put them back in their places.
images = torch.nn.functional.pixel_shuffle(images, {size})
"""

_DECODED: Final = """\
with torch.no_grad():
    images = pipe.{part}.decode(images / {scale!r} + {shift!r}).sample
"""

_PIPELINE: Final = """from diffusers import DiffusionPipeline
{imported}
pipe = DiffusionPipeline.from_pretrained("{base}")  # the base model: a folder or a hub id
{loaded}
images = pipe(
    {condition},
    num_inference_steps=25,
    {options}output_type="pt",
).images  # {result}, values in [0, 1]"""

_LORA: Final = 'pipe.load_lora_weights("adapter", weight_name="pytorch_lora_weights.safetensors")'
_PEFT: Final = 'PeftModel.from_pretrained(pipe.{component}, "adapter").eval()  # goes into pipe.{component}'


def loading_lines(
    family: Family,
    identity: str,
    classes: Sequence[int] | None = None,
    *,
    prompts: Sequence[str] | None = None,
    diffusers_file: bool = False,
) -> str:
    """Python that loads the adapter and draws one image of each class or prompt (four, without classes).

    classes: the base's numbers of the classes that were trained; None for all. prompts: for a family that
    takes text. diffusers_file: whether the adapter is there as a file of diffusers' own too.
    """
    numbers = list(range(family.classes)) if classes is None else list(classes)
    if family.drawn_by_pipeline is None:
        return _by_hand(family, identity, numbers)
    loaded = _LORA if diffusers_file else _PEFT.format(component=family.base.component)
    size = [f"height={family.size},", f"width={family.size},"] if family.takes_text else []
    texts = list(prompts or [_EXAMPLE])[:MOST_PROMPTS]
    drawn = texts if family.takes_text else numbers
    return _PIPELINE.format(
        base=identity,
        imported="" if diffusers_file else "from peft import PeftModel\n",
        loaded=loaded,
        condition=repr(drawn) if family.takes_text else f"class_labels={drawn}",
        options="\n    ".join([*size, *family.drawn_by_pipeline, ""]),
        result=_result(family, len(drawn)),
    )


def _by_hand(family: Family, identity: str, numbers: list[int]) -> str:
    count = len(numbers) or 4
    whole = numbers == list(range(count))
    drawn = f"torch.arange({count})" if whole else f"torch.tensor({numbers})"
    return _BY_HAND.format(
        base=identity,
        pipeline=family.base.pipeline,
        unclipped="" if family.clips else ", clip_sample=False",
        labels=f"labels = {drawn}  # one image of each class\n" if family.classes else "",
        shape=", ".join(map(str, (count, *family.shape))),
        condition=", class_labels=labels" if family.classes else "",
        back=_back(family),
        result=_result(family, count),
    )


def _back(family: Family) -> str:
    """From what the network sees to pixels."""
    if family.encodes_once:
        (part,) = family.base.parts
        config = family.base.parts[part].config
        scale, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
        return _DECODED.format(part=part, scale=scale, shift=shift)
    size = family.base.patch.size
    return _PATCH.format(size=size) if size > 1 else ""


def _result(family: Family, count: int) -> str:
    return f"[{count}, {family.channels}, {family.size}, {family.size}]"
