"""The settings of a study's runs as columns: what each run of a table was made with.

Guarantees that they are derived from the recipes alone, so that earlier results have them too, and that every
recipe key in which two cells differ has a column. May import the recipe. Tidy data: Wickham (2014).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dp_diffusers.recipe import Recipe

ALWAYS: Final = ("strategy", "rank", "noise_draws", "expected_units", "clip_norm", "learning_rate", "targets")
NO_SETTINGS: Final = ("runtime", "audit")  # where a run was made, and an attack that no study makes
OWN: Final = ("training.seed", "generation.seed", "budget.ledger")  # the study's, see `recipe.study`
OF_THE_PUBLIC_MODEL: Final = ("base", "data.", "generation.")
OF_A_RUN: Final = "generation.labels"  # the public model's are uniform

Settings = dict[str, Any]


def settings_of(recipes: Sequence[tuple[Recipe, bool]]) -> list[Settings]:
    """For each run's recipe, and whether it is the public model's: `ALWAYS`, then each key that differs.

    A dotted key names a column; a list or a mapping is its JSON; None where a run has no use for a key.
    """
    flat = [_flat(recipe) for recipe, _ in recipes]
    differing = _differing([one for one, (_, public) in zip(flat, recipes, strict=True) if not public])
    return [
        {**_always(recipe, public), **{key: _value(one, key, public) for key in differing}}
        for one, (recipe, public) in zip(flat, recipes, strict=True)
    ]


def _always(recipe: Recipe, public: bool) -> Settings:
    """The columns that every study has."""
    if public:
        return dict.fromkeys(ALWAYS)
    mechanism, strategy, training = recipe.mechanism, recipe.strategy, recipe.training
    evolves = mechanism.name == "pe"  # trains nothing
    found: Settings = {
        "strategy": "pe" if evolves else strategy.name,
        "rank": strategy.rank,
        "noise_draws": training.noise_draws,
        "expected_units": mechanism.expected_units,
        "clip_norm": mechanism.clip_norm,
        "learning_rate": training.learning_rate,
        "targets": strategy.targets,
    }
    if evolves:
        found |= dict.fromkeys(("rank", "noise_draws", "clip_norm", "learning_rate", "targets"))
    return {key: plain(value) for key, value in found.items()}


def _value(flat: Mapping[str, Any], key: str, public: bool) -> Any:
    unused = public and (key == OF_A_RUN or not key.startswith(OF_THE_PUBLIC_MODEL))
    return None if unused else plain(flat.get(key))


def plain(value: Any) -> Any:
    """A number, a truth value, a text or None as it is; anything else as JSON."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Dotted key → value, without what the study decides, nor a cap that is the budget's own."""
    document = recipe.model_dump(mode="json", exclude=set(NO_SETTINGS))
    budget = document["budget"]
    if budget["cap"] == {name: budget[name] for name in ("epsilon", "delta")}:
        del budget["cap"]
    return {key: value for key, value in _leaves(document, "") if key not in OWN}


def _leaves(document: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _differing(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values are not the same in all, in the order of the recipe."""
    keys = dict.fromkeys(key for one in flat for key in one)
    return [key for key in keys if len({json.dumps(one.get(key), sort_keys=True) for one in flat}) > 1]
