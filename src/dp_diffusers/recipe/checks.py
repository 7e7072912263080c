"""Checks between keys of a recipe: numbers that are fine alone and wrong together.

Guarantees an answer for half-written recipes too: a key that is absent or of the wrong type is skipped here
and reported elsewhere. May import the standard library alone. Source: the recipe contract of the design.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dp_diffusers.recipe.problems import Finding
from dp_diffusers.recipe.sections.limits import MOST_CANDIDATES

SMALLEST_EXPONENT = 14  # delta lies above 1e-15
UNTRAINED = "expected teacher.drawn_by to be base with mechanism.name pe, which trains nothing"
DRAWN_BY_BASE = "leave it out: the base draws the images then"


def cross_checks(recipe: Mapping[str, Any]) -> list[Finding]:
    """Every finding between the keys of a fine-tuning recipe, given as plain data."""
    return [
        *_delta(recipe),
        *_units(recipe),
        *_names(recipe),
        *_optimizer(recipe),
        *_histogram(recipe),
        *_teacher(recipe),
        *_candidates(recipe),
        *_ledger(recipe),
        *without_effect_on_evolution(recipe),
        *_saliency(recipe),
    ]


def _number(recipe: Mapping[str, Any], section: str, key: str) -> float | None:
    part = recipe.get(section)
    value = part.get(key) if isinstance(part, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e18 else None


def _delta(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    """Of the run, and of the cap, which is left out where it is the run's."""
    population = _number(recipe, "mechanism", "population")
    budget = recipe.get("budget")
    own = _number(recipe, "budget", "delta")
    of_cap = _number(budget, "cap", "delta") if isinstance(budget, Mapping) else None
    for place, delta in ((("budget", "delta"), own), (("budget", "cap", "delta"), of_cap)):
        if delta is None or not population or not (delta < 1 <= delta * population):
            continue
        if len(place) > 2 and delta == own:
            continue  # told once
        usual = default_delta(int(population))
        hint = f"delta >= 1/population would allow publishing one unit outright; the default is {usual:g}"
        message = f"expected {'.'.join(place)} < 1/population = {1 / population:.3g}, got {delta:g}"
        yield place, message, hint


def default_delta(population: object) -> float:
    """1e-5, or the largest power of ten below 1/population where that is smaller."""
    delta = 1e-5
    if isinstance(population, int) and population > 0:
        exponent = 5
        while 10**exponent <= population and exponent < SMALLEST_EXPONENT:
            exponent += 1
        delta = float(f"1e-{exponent}")
    return delta


def _units(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    population = _number(recipe, "mechanism", "population")
    expected = _number(recipe, "mechanism", "expected_units")
    if population and expected and expected > population > 0:
        message = f"expected mechanism.expected_units <= population = {population:g}, got {expected:g}"
        yield ("mechanism", "expected_units"), message, "lower expected_units, or correct population"
    limit, where = _number(recipe, "mechanism", "max_units"), ("mechanism", "max_units")
    if limit is None:
        return
    if recipe["mechanism"].get("name") == "none":
        message = f"expected mechanism.max_units to be null without privacy, got {limit:g}"
        yield where, message, "leave it out: a run without privacy has no limit to account for"
    elif population and expected and expected >= population:
        message = f"mechanism.max_units has no room between expected_units and population = {population:g}"
        yield where, message, "lower expected_units; or null, which is no limit"
    elif population and expected and not expected <= limit < population:
        message = (
            f"expected mechanism.max_units in [expected_units, population) = [{expected:g}, {population:g})"
        )
        hint = "five standard deviations above expected_units costs nothing; null is no limit"
        yield where, f"{message}, got {limit:g}", hint


def _optimizer(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    """Without privacy there is no noise to take off."""
    training, mechanism = recipe.get("training"), recipe.get("mechanism")
    if not isinstance(training, Mapping) or training.get("optimizer") != "adam_bc":
        return
    if isinstance(mechanism, Mapping) and mechanism.get("name") == "none":
        message = "expected training.optimizer to be another one without privacy (mechanism.name: none)"
        yield ("training", "optimizer"), f"{message}, got 'adam_bc'", "adam; there is no noise to correct for"


def _histogram(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    """A class histogram is paid for by a run with privacy, and counts labels."""
    generation, mechanism, data = (recipe.get(name) for name in ("generation", "mechanism", "data"))
    if not isinstance(generation, Mapping) or generation.get("labels") != "histogram":
        return
    hint = "set generation.labels to uniform"
    if isinstance(mechanism, Mapping) and mechanism.get("name") == "none":
        message = "expected generation.labels to be uniform without privacy (mechanism.name: none)"
        yield ("generation", "labels"), f"{message}, got 'histogram'", hint
    if isinstance(data, Mapping) and data.get("label", "") is None:
        message = "expected generation.labels to be uniform for images without labels (data.label: null)"
        yield ("generation", "labels"), f"{message}, got 'histogram'", hint


def _teacher(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    """A teacher learns from labels, and looks at what a model draws."""
    data, teacher, mechanism = (recipe.get(name) for name in ("data", "teacher", "mechanism"))
    if not isinstance(teacher, Mapping):
        return
    if (
        teacher.get("drawn_by") == "trained"
        and isinstance(mechanism, Mapping)
        and mechanism.get("name") == "pe"
    ):
        yield ("teacher", "drawn_by"), UNTRAINED, DRAWN_BY_BASE
    if isinstance(data, Mapping) and data.get("label", "") is None:
        message = "expected teacher to be null for images without labels (data.label: null)"
        yield ("teacher",), message, "leave teacher out, or name the column that holds the classes"


def _candidates(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    """Images are chosen by the clusters of a teacher, whose answers are the labels."""
    generation, teacher = recipe.get("generation"), recipe.get("teacher")
    count = generation.get("candidates") if isinstance(generation, Mapping) else None
    if not isinstance(generation, Mapping) or type(count) is not int or not 1 < count <= MOST_CANDIDATES:
        return
    if not isinstance(teacher, Mapping) or teacher.get("clusters") is None:
        message = "expected generation.candidates to be 1 without clusters to choose by"
        yield ("generation", "candidates"), message, "leave it out, or set teacher.clusters"
    elif generation.get("teacher") in ("off", False):
        message = "expected generation.candidates to be 1 with generation.teacher off"
        yield ("generation", "candidates"), message, "leave one of them out"
    elif generation.get("prompts"):
        message = "expected generation.candidates to be 1 with generation.prompts, which no teacher knows"
        yield ("generation", "candidates"), message, "leave one of them out"


def _ledger(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    """A data set of the Hub has no place beside it where an account could lie."""
    data, budget, mechanism = (recipe.get(name) for name in ("data", "budget", "mechanism"))
    path = data.get("path") if isinstance(data, Mapping) else None
    private = not (isinstance(mechanism, Mapping) and mechanism.get("name") == "none")
    given = isinstance(budget, Mapping) and budget.get("ledger") is not None
    if isinstance(path, str) and path.startswith("hf://") and private and not given:
        message = f"expected budget.ledger to name a file, since data.path is {path}; got null"
        yield ("budget", "ledger"), message, "one file for all runs on this data set, such as data.ledger"


def _saliency(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    """A choice of layers by the private images is paid for by a run with privacy."""
    strategy, mechanism = recipe.get("strategy"), recipe.get("mechanism")
    if not isinstance(strategy, Mapping) or strategy.get("name") != "sapf":
        return
    if isinstance(mechanism, Mapping) and mechanism.get("name") == "none":
        message = "expected strategy.name to be another one without privacy (mechanism.name: none)"
        hint = "lora; the layers of sapf are chosen by a private query"
        yield ("strategy", "name"), f"{message}, got 'sapf'", hint


def without_effect_on_evolution(recipe: Mapping[str, Any]) -> list[Finding]:
    """Keys of a recipe of Private Evolution that are about training: it has no use for them."""
    mechanism = recipe.get("mechanism")
    if not isinstance(mechanism, Mapping) or mechanism.get("name") != "pe":
        return []
    from dp_diffusers.recipe.sections import RuntimeSettings, StrategySettings, TrainingSettings
    from dp_diffusers.recipe.sections.evolution import keys_without_effect

    usual = {
        "strategy": StrategySettings().model_dump(),
        "training": TrainingSettings().model_dump(),
        "runtime": RuntimeSettings().model_dump(),
    }
    del usual["runtime"]["device"]
    return [*keys_without_effect(recipe, usual), *_warmup_of_evolution(recipe)]


def _warmup_of_evolution(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    if recipe.get("warmup") is not None:
        yield ("warmup",), "warmup has no effect with mechanism.name pe", "leave it out: nothing is trained"


def _names(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    data, strategy = recipe.get("data"), recipe.get("strategy")
    if isinstance(data, Mapping) and isinstance(data.get("classes"), list) and data.get("label", "") is None:
        message = "expected data.label to name the labels, since data.classes is given; got null"
        yield ("data", "label"), message, "name the column that holds the classes, or leave data.classes out"
    also = strategy.get("also") if isinstance(strategy, Mapping) else None
    if isinstance(also, list) and len({str(item) for item in also}) < len(also):
        yield (
            ("strategy", "also"),
            f"expected strategy.also without repetitions, got {also}",
            "name each once",
        )
