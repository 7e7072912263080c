"""The section `strategy` of a recipe: which parameters are trained.

Guarantees that a value outside its range never gets past the recipe, that a key without effect on the chosen
strategy is refused by name, and that every key with an effect has a value. May import pydantic; never numpy,
never torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from dp_diffusers.recipe.problems import RefusedValueError, Section, shown
from dp_diffusers.recipe.sections.limits import MOST_ROWS

Name = Literal["lora", "frozen_a", "sapf", "attention", "bias", "embedding", "full", "scratch"]
Target = Literal["attention", "linear", "convolution", "all"]

_ADAPTER: Final[dict[str, Any]] = {"rank": 8, "alpha": None, "targets": "attention"}
KEYS: Final[dict[str, dict[str, Any]]] = {
    "lora": {**_ADAPTER, "freeze_a": False, "also": []},
    "frozen_a": {**_ADAPTER, "also": []},
    "sapf": {**_ADAPTER, "fraction": 0.3, "also": []},
    "attention": {"also": []},
    "bias": {},
    "embedding": {},
    "full": {},
    "scratch": {},
}
"""The keys that each strategy has beside its name, with their defaults."""
MAY_BE_NULL: Final = frozenset({"alpha"})


def _targets(value: object) -> object:
    """`attention`, `linear`, `convolution`, `all`, or a list of module name endings."""
    known = get_args(Target)
    if value is None or (isinstance(value, str) and value in known):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
        return value
    message = (
        f"expected strategy.targets to be one of {', '.join(known)}, or a list of names, got {shown(value)}"
    )
    raise RefusedValueError(message, "a list holds endings of module names, as in [to_q, to_v]")


class StrategySettings(Section):
    """Which parameters are trained. A key that the named strategy has no use for is null."""

    name: Name = Field(
        default="lora",
        description="fine-tuning strategy: adapters (`lora`, `frozen_a`, `sapf`) or tensors of the model "
        "itself (`attention`, `bias`, `embedding`, `full`; `scratch` forgets the base's weights)",
    )
    rank: int | None = Field(
        default=None, ge=1, le=MOST_ROWS, description="rank of the adapters: 8 with them"
    )
    alpha: float | None = Field(
        default=None, gt=0, le=1e6, description="scale of the adapters; null: the rank"
    )
    targets: Annotated[Target | list[str] | None, BeforeValidator(_targets)] = Field(
        default=None,
        description="layers with adapters: attention (the default with them), linear, convolution, all, or "
        "endings of module names",
    )
    freeze_a: bool | None = Field(
        default=None, description="train only the B half of each adapter: false with `lora`"
    )
    fraction: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="part of the layers of `targets` that `sapf` adapts: 0.3 with it",
    )
    also: list[Literal["bias", "norm", "embedding"]] | None = Field(
        default=None, description="trained besides: bias, norm, embedding; [] with adapters and `attention`"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_strategy(cls, value: Any) -> Any:
        """What is left out takes the default of the named strategy."""
        if not isinstance(value, dict):
            return value
        name = value.get("name", "lora")
        usual = KEYS.get(name, {}) if isinstance(name, str) else {}
        return {**usual, **value}

    @field_validator("rank", "alpha", "targets", "freeze_a", "fraction", "also")
    @classmethod
    def _has_an_effect(cls, value: Any, info: ValidationInfo) -> Any:
        name, key = info.data.get("name"), str(info.field_name)
        if name is None:  # refused already
            return value
        if value is not None and key not in KEYS[name]:
            owners = [other for other, keys in KEYS.items() if key in keys]
            message = f"strategy.{key} has no effect with strategy.name {name}"
            raise RefusedValueError(
                message, f"leave it out, or set strategy.name to one of {', '.join(owners)}"
            )
        if value is None and key in KEYS[name] and key not in MAY_BE_NULL:
            raise RefusedValueError(f"expected strategy.{key} to have a value, got null", _HINT)
        return value


_HINT: Final = "leave it out for its default"
