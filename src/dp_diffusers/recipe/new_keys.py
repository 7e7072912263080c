"""Settings that an earlier version wrote, with the keys that came after it, and its base where that is here.

Guarantee: a key that is not there has its default, which is what that version did; a base that the working
directory has is one and the same, by its relative or its absolute path. May import pydantic;
never numpy, never torch.
"""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dp_diffusers.recipe import PretrainRecipe, Recipe, base_here


def with_new_keys(settings: Any) -> Any:
    """A recipe as plain data, with all keys; of other settings, such as a call's, each section whole."""
    if isinstance(settings, dict) and isinstance(settings.get("base"), str):
        settings = {**settings, "base": base_here(settings["base"])}
    try:
        return Recipe.model_validate(settings).model_dump(mode="json")
    except ValidationError:
        return _filled(settings, Recipe)


def _filled(settings: Any, model: type[BaseModel]) -> Any:
    if not isinstance(settings, dict):
        return settings
    filled = dict(settings)
    for name, field in model.model_fields.items():
        section = _section(field)
        if section is not None and isinstance(filled.get(name), dict):
            filled[name] = _filled(filled[name], section)
        elif section is None and name not in filled and not field.is_required():
            filled[name] = json.loads(json.dumps(field.get_default(call_default_factory=True)))
    return filled


def pretraining_with_new_keys(settings: Any) -> Any:
    """A recorded recipe of a pre-training; what is none stays as it is."""
    try:
        recipe = PretrainRecipe.model_validate(settings)
    except ValidationError:
        return settings
    return recipe.model_dump(mode="json", exclude={"runtime"})


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a key holds, or may hold."""
    kinds = [field.annotation, *get_args(field.annotation)]
    plain = [kind for kind in kinds if isinstance(kind, type) and get_origin(kind) is None]
    return next((kind for kind in plain if issubclass(kind, BaseModel)), None)
