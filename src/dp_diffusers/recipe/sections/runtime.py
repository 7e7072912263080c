"""The section `runtime` of a recipe: where it runs; it may change on resume.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from dp_diffusers.recipe.problems import RefusedValueError, Section, shown
from dp_diffusers.recipe.sections.limits import DEVICES


def _rows(value: object) -> object:
    """`auto` or a whole number > 0."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9):
        return value
    raise RefusedValueError(
        f"expected runtime.rows_per_pass to be auto or a whole number > 0, got {shown(value)}",
        "auto tries how many fit",
    )


class RuntimeSettings(Section):
    """Where it runs; may change on resume."""

    device: str = Field(default="auto", pattern=DEVICES, description="auto, cpu, cuda; mps cannot train")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of the forward and backward pass (autocast); norms, clip, sums and noise stay float32 "
        "or better",
    )
    rows_per_pass: Annotated[Literal["auto"] | int, BeforeValidator(_rows)] = Field(
        default="auto",
        description="rows in memory at once, at most; auto tries on random tensors how many fit, on a CPU "
        "also how many are quickest; where memory runs out, half as many do the step again",
    )
    channels_last: bool = Field(
        default=False, description="convolutions in the memory layout that GPUs prefer; no gain on a CPU"
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="keeps the inputs of blocks alone and runs each again in the backward pass: less memory, "
        "more time",
    )
    compile: bool = Field(
        default=False,
        description="torch.compile for the parts of the network that nothing is trained in; needs a C++ "
        "compiler, on a GPU Triton",
    )
    process_timeout: float = Field(
        default=1800.0,
        gt=0,
        le=86_400,
        description="of several processes: seconds to wait for another in a step before it is taken for gone",
    )
    shard_base: bool = Field(
        default=False,
        description="each of several processes has a piece of the frozen base (FSDP2); lora, frozen_a",
    )
