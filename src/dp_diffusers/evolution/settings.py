"""How Private Evolution makes its images: what cannot change epsilon, and is therefore outside the plan.

Guarantee: numbers that fit together, or an error before anything is spent. May import the recipe's sections
alone. Source: Lin et al. 2024 (arXiv 2305.15560), whose variations grow smaller from iteration to iteration.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dp_diffusers.errors import ParameterError
from dp_diffusers.recipe.sections import GenerationSettings
from dp_diffusers.recipe.sections.evolution import default_samples

if TYPE_CHECKING:
    from dp_diffusers.plan import Plan
    from dp_diffusers.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class EvolutionSettings:
    """`samples` synthetic images that are voted for, and what becomes of the votes.

    Args:
        samples: synthetic images that are kept from iteration to iteration.
        threshold: votes (with their noise) that a synthetic image must have; those above it count.
        variation: (first, last) part of the sampler's steps that a variation does again, in (0, 1].
        features: the public space in which images are near or far.
        generation: sampler, steps, guidance and seed of the images.
    """

    samples: int
    threshold: float = 0.0
    variation: tuple[float, float] = (0.8, 0.4)
    features: str = "pixels"
    generation: GenerationSettings = field(default_factory=GenerationSettings)

    def __post_init__(self) -> None:
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise ParameterError(f"expected samples to be an integer >= 1, got {self.samples!r}")
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ParameterError(f"expected threshold >= 0, got {self.threshold}")
        if len(self.variation) != 2 or not all(0 < level <= 1 for level in self.variation):
            raise ParameterError(f"expected variation to be two numbers in (0, 1], got {self.variation}")

    def level(self, step: int, steps: int) -> float:
        """How far the variations of an iteration go: evenly from the first level to the last."""
        first, last = self.variation
        return first if steps == 1 else first + (last - first) * step / (steps - 1)

    def to_dict(self) -> dict[str, Any]:
        """What decides the images, as a plain document."""
        drawn = self.generation.model_dump(mode="json", include={"sampler", "steps", "guidance", "seed"})
        return {**asdict(self), "variation": list(self.variation), "generation": drawn}


def settings_of_recipe(recipe: Recipe) -> EvolutionSettings | None:
    """The settings of a recipe; None for another mechanism."""
    chosen = recipe.mechanism
    if chosen.name != "pe":
        return None
    assert chosen.samples is not None
    assert chosen.threshold is not None
    assert chosen.variation is not None
    assert chosen.features is not None
    return EvolutionSettings(
        samples=chosen.samples,
        threshold=chosen.threshold,
        variation=(chosen.variation[0], chosen.variation[1]),
        features=chosen.features,
        generation=recipe.generation,
    )


def settings_of_plan(plan: Plan, given: EvolutionSettings | None) -> EvolutionSettings | None:
    """The settings of a call of `finetune`, with defaults; None for another mechanism.

    Raises `ParameterError` for settings that the plan has no use for.
    """
    if plan.mechanism.name == "pe":
        return given or EvolutionSettings(samples=default_samples(plan.mechanism.population))
    if given is not None:
        raise ParameterError(
            f"evolution has no effect with a plan of {plan.mechanism.name}",
            hint="leave it out, or calibrate a plan of PE",
        )
    return None
