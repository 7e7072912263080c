"""What is measured: a case is a model, what of it is trained, and how many rows a step has.

Guarantees the same grid on every machine. May import the standard library and the errors alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

from dp_diffusers.errors import ParameterError, unknown_name

PLAIN: Final = "plain"
OURS: Final = "dp-diffusers"
ENGINES: Final = (PLAIN, OURS, "opacus-hooks", "opacus-ghost", "opacus-functorch", "vmap", "official")
FAMILIES: Final = ("pixel", "latent", "stable_diffusion", "dit", "stable_diffusion_3")
STRATEGIES: Final[dict[str, dict[str, Any]]] = {
    "lora": {"name": "lora", "targets": "attention"},
    "lora-linear": {"name": "lora", "targets": "linear"},
    "lora-all": {"name": "lora", "targets": "all"},
    "attention": {"name": "attention"},
    "full": {"name": "full"},
}
"""What is trained, by its name in the rows: LoRA of rank 8 on three groups of layers, or tensors in place."""
DTYPES: Final = ("float32", "bfloat16")
_FIELDS: Final = ("family", "strategy", "units", "noise_draws", "dtype", "engine")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One step to be measured: `units` units with `noise_draws` rows each. dtype: of autocast."""

    family: str
    strategy: str = "lora"
    units: int = 16
    noise_draws: int = 1
    dtype: str = "float32"
    engines: tuple[str, ...] = ENGINES

    @property
    def rows(self) -> int:
        """R, what the network sees at once."""
        return self.units * self.noise_draws

    @property
    def name(self) -> str:
        """In words, for progress and titles."""
        return f"{self.family}, {self.strategy}, {self.units} x {self.noise_draws} rows, {self.dtype}"

    def facts(self) -> dict[str, Any]:
        """The fields that tell its rows from those of other cases."""
        return {name: getattr(self, name) for name in _FIELDS[:-1]}


def default_grid() -> list[Case]:
    """Minutes: LoRA on every family with all engines, with four noise draws, and one case each of more
    training."""
    alone = (PLAIN, OURS)
    others = (PLAIN, OURS, "opacus-hooks", "opacus-ghost", "opacus-functorch")
    return [
        *(Case(family=family, units=4, noise_draws=4) for family in FAMILIES),
        *(Case(family=family, engines=alone) for family in FAMILIES),
        Case(family="pixel", strategy="lora-all", engines=others),
        Case(family="pixel", strategy="full", engines=others),
    ]


def full_grid() -> list[Case]:
    """Hours: every family, strategy, number of units and of noise draws, all engines; LoRA in bfloat16."""
    sizes = list(product((4, 16), (1, 4, 8)))
    every = [
        Case(family=family, strategy=strategy, units=units, noise_draws=draws)
        for family, strategy, (units, draws) in product(FAMILIES, STRATEGIES, sizes)
    ]
    half = [
        Case(family=family, units=16, noise_draws=draws, dtype="bfloat16")
        for family, draws in product(FAMILIES, (1, 4))
    ]
    return every + half


def _values(grid: Sequence[Case], key: str) -> set[str]:
    return set(ENGINES) if key == "engine" else {str(getattr(case, key)) for case in grid}


def chosen(grid: Sequence[Case], only: Sequence[str]) -> list[Case]:
    """The cases of a grid that fit every `KEY=VALUE`; values of one key are alternatives.

    The plain step stays, whatever engines are asked for. Raises `ParameterError` for an unknown key or
    value, and where no case is left.
    """
    wanted: dict[str, set[str]] = {}
    for text in only:
        key, mark, value = text.partition("=")
        if not mark:
            raise ParameterError(f"expected KEY=VALUE, got {text!r}", hint="for example --only family=dit")
        if key not in _FIELDS:
            raise unknown_name("key of a row", key, _FIELDS)
        if value not in _values(full_grid(), key):
            raise unknown_name(key, value, _values(full_grid(), key))
        wanted.setdefault(key, set()).add(value)
    engines = wanted.pop("engine", set(ENGINES)) | {PLAIN}
    kept = [
        replace(case, engines=tuple(name for name in case.engines if name in engines))
        for case in grid
        if all(str(getattr(case, key)) in values for key, values in wanted.items())
    ]
    kept = [case for case in kept if len(case.engines) > 1 or engines == {PLAIN}]
    if not kept:
        raise ParameterError("no case of the grid fits", hint="fewer --only, or --full")
    return kept
