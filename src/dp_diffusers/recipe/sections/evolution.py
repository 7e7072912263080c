"""What the mechanism `pe` of a recipe needs, what it has no use for, and its defaults.

Guarantees that no key is taken which would have no effect. May import pydantic; never numpy, never torch. The
keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationInfo

from dp_diffusers.recipe.problems import Finding, RefusedValueError, shown

STEPS: Final = 10
USUAL: Final[dict[str, Any]] = {"threshold": 0.0, "variation": [0.8, 0.4], "features": "pixels"}
MOST_SAMPLES, UNITS_PER_SAMPLE = 2000, 10
# what dpsgd is given when nothing is said: another value would be meant to have an effect
UNUSED: Final[dict[str, Any]] = {
    "clip_norm": 1.0,
    "clipping": "flat",
    "max_units": None,
    "target_quantile": None,
    "quantile_rate": None,
    "quantile_noise": None,
}
GONE: Final = "leave it out: Private Evolution trains nothing"


def with_defaults(value: Mapping[str, Any]) -> dict[str, Any]:
    """The section `mechanism` of a recipe for `pe`, with what it leaves out."""
    population = value.get("population")
    number = population if isinstance(population, int) and not isinstance(population, bool) else 1
    usual = {**USUAL, "samples": default_samples(number)}
    filled = {key: number for key, number in usual.items() if value.get(key) is None}
    return {"steps": STEPS, **value, **filled}


def default_samples(population: int) -> int:
    """2,000, or a tenth of the population where that is less: votes should stand out of their noise."""
    return max(1, min(MOST_SAMPLES, population // UNITS_PER_SAMPLE))


def of_pe_alone(value: Any, info: ValidationInfo) -> Any:
    """Refuses a setting of Private Evolution beside another mechanism, and levels that are no levels."""
    name = info.data.get("name")
    if value is not None and name not in (None, "pe"):
        raise RefusedValueError(
            f"expected mechanism.{info.field_name} to be null with mechanism.name {name}, got {shown(value)}",
            "it has no effect; leave it out, or set mechanism.name to pe",
        )
    if info.field_name == "variation" and value is not None:
        _require_levels(value)
    return value


def _require_levels(value: list[float]) -> None:
    if len(value) != 2 or not all(0 < level <= 1 for level in value):
        raise RefusedValueError(
            f"expected mechanism.variation to be two numbers in (0, 1], got {shown(value)}",
            "first and last part of the denoising steps that are done again, as in [0.8, 0.4]",
        )


def refuse_dpsgd_keys(mechanism: Mapping[str, Any]) -> None:
    """Raises for a key of the section that only DP-SGD looks at."""
    for key, usual in UNUSED.items():
        if mechanism[key] != usual:
            raise RefusedValueError(f"mechanism.{key} has no effect with mechanism.name pe", GONE)
    if mechanism["expected_units"] != mechanism["population"]:
        raise RefusedValueError(
            "mechanism.expected_units has no effect with mechanism.name pe",
            "leave it out: every unit votes in every iteration",
        )


def keys_without_effect(recipe: Mapping[str, Any], usual: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """A finding for each key of another section that Private Evolution has no use for.

    usual: section by section, what a recipe that says nothing is given.
    """
    found: list[Finding] = []
    for section, defaults in usual.items():
        given = recipe.get(section)
        for key, value in (given if isinstance(given, Mapping) else {}).items():
            if key in defaults and value != defaults[key]:  # unknown keys are reported elsewhere
                message = f"{section}.{key} has no effect with mechanism.name pe"
                found.append(((section, str(key)), message, GONE))
    return found
