"""Settings that a call of the Python API was given: as an object, or as a mapping like a recipe's section.

Guarantee: what passes is valid, and what does not is one line that says what was expected and what came,
before anything is opened or reserved. May import pydantic; never numpy, never torch. Keys and values are
checked as those of a recipe are.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from dp_diffusers.errors import ParameterError
from dp_diffusers.recipe.problems import Section, findings_of

Settings = TypeVar("Settings", bound=Section)


def settings_of(kind: type[Settings], **given: Any) -> Settings:
    """The settings of one argument, called as `settings_of(T, training=t)`: themselves, or made of a mapping.

    Raises `ParameterError` for a mapping that no recipe could have as this section, and for anything else.
    """
    ((name, value),) = given.items()
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ParameterError(
            f"expected {name} to be {kind.__name__} or a mapping, got {type(value).__name__}",
            hint=f"the keys are those of a recipe: {', '.join(list(kind.model_fields)[:4])}, …",
        )
    model = create_model("Call", __base__=Section, **{name: (kind, ...)})  # type: ignore[call-overload]
    document = {name: {key: _plain(each) for key, each in value.items()}}
    try:
        made: Settings = getattr(model.model_validate(document), name)
    except ValidationError as error:
        found = findings_of(error, model, document)
        said = (text if f"{name}." in text else f"{name}: {text}" for _, text, _ in found)
        hint = next((hint for _, _, hint in found if hint), None)
        raise ParameterError("; ".join(said), hint=hint) from error
    return made


def _plain(value: Any) -> Any:
    """A number of numpy's as Python's own, which is the kind that a recipe has; anything else as it is."""
    return value.item() if isinstance(value, Number) and hasattr(value, "item") else value


def settings_or_none(kind: type[Settings], **given: Any) -> Settings | None:
    """As `settings_of`, for an argument that may be None."""
    return None if all(value is None for value in given.values()) else settings_of(kind, **given)
