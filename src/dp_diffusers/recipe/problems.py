"""What is wrong with a recipe, in words: one finding per problem, with what to do about it.

Guarantees that every validation error names its key and its value, and an unknown key its nearest known one.
May import pydantic; never numpy, never torch. Source: the error contract of the command line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from dp_diffusers.errors import nearest
from dp_diffusers.recipe.yaml_lines import KeyPath

# A finding before it knows its file: key path, message, hint.
Finding = tuple[KeyPath, str, "str | None"]


class Section(BaseModel):
    """Base of every part of a recipe: unknown keys are refused, types are not guessed, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RefusedValueError(ValueError):
    """Raised inside a validator: a message and a hint for the key being validated."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def findings_of(error: ValidationError, model: type[BaseModel], value: Any) -> list[Finding]:
    """Every error of a validation as a finding; `value` is the plain data that was validated."""
    return [_finding(detail, model, value) for detail in error.errors(include_url=False)]


def _finding(detail: Mapping[str, Any], model: type[BaseModel], value: Any) -> Finding:
    """One pydantic error in our words."""
    kind = detail["type"]
    path = _without_tags(detail["loc"])
    dotted = ".".join(map(str, path))
    context = detail.get("ctx", {})
    if kind in {"extra_forbidden", "invalid_key"}:
        path = (*path[:-1], str(path[-1]))
        return path, f"unknown key {str(path[-1])!r}", _known(path, model, value)
    if kind in {"missing", "union_tag_not_found"}:
        missing = (*path, "source") if kind == "union_tag_not_found" else path
        return missing, f"missing key {'.'.join(map(str, missing))!r}", _description(missing, model)
    if kind in {"literal_error", "union_tag_invalid"}:
        return path, *_choice(dotted, detail, context, _description(path, model))
    if kind == "value_error":
        raised = context["error"]
        return path, str(raised), getattr(raised, "hint", None)
    message = f"expected {dotted} {_expectation(kind, context)}, got {shown(detail['input'])}"
    return path, message, _hint(path, detail["input"], kind, model)


_EXPECTED = {
    "int_type": "to be a whole number",
    "int_from_float": "to be a whole number",
    "float_type": "to be a number",
    "string_type": "to be text",
    "bool_type": "to be true or false",
    "list_type": "to be a list",
    "dict_type": "to be a mapping",
    "model_type": "to be a mapping of keys",
    "model_attributes_type": "to be a mapping of keys",
    "finite_number": "to be finite",
    "none_required": "to be null",
    "string_pattern_mismatch": "to be auto, cpu, mps, cuda or cuda:N",  # devices alone have a pattern
}
_BOUNDS = {
    "greater_than": (">", "gt"),
    "greater_than_equal": (">=", "ge"),
    "less_than": ("<", "lt"),
    "less_than_equal": ("<=", "le"),
}


def _expectation(kind: str, context: Mapping[str, Any]) -> str:
    if kind in _BOUNDS:
        sign, bound = _BOUNDS[kind]
        return f"{sign} {context[bound]:g}"
    if kind == "string_too_short":
        return "not to be empty"
    if kind == "too_short":
        return f"to have at least {context['min_length']} item"
    return _EXPECTED.get(kind, "to be valid")


def _hint(path: KeyPath, value: object, kind: str, model: type[BaseModel]) -> str | None:
    """What a key is for; for a number or a name that was written as the other, how to write it."""
    if isinstance(value, str) and kind in _NUMBERS and _is_finite(value):
        return "write the number without the quotes"
    if kind == "string_type" and isinstance(value, bool | int | float):
        if isinstance(value, bool):  # what was written is not known here: yes, no, on, off, true or false
            return "text that YAML takes for true or false stands in quotes, as it is: 'no', 'yes'"
        return f"text that looks like something else stands in quotes: '{shown(value)}'"
    return _description(tuple(part for part in path if isinstance(part, str)), model)


_NUMBERS = {"int_type", "float_type"}


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _choice(
    dotted: str, detail: Mapping[str, Any], context: Mapping[str, Any], purpose: str | None
) -> tuple[str, str | None]:
    listed = context.get("expected") or context.get("expected_tags") or ""
    known = re.findall(r"'([^']*)'", listed) or re.split(r", | or ", listed)
    given = context["tag"] if "tag" in context else detail["input"]
    dotted = f"{dotted}.source" if "tag" in context else dotted
    close = nearest(str(given), known)
    hint = f"did you mean {close!r}?" if close else purpose
    return f"expected {dotted} to be one of {', '.join(known)}, got {shown(given)}", hint


def shown(value: Any) -> str:
    """A value as a recipe would say it, cut to one short line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _without_tags(location: tuple[str | int, ...]) -> KeyPath:
    """A key path without the union tag that pydantic puts after a list index."""
    return tuple(
        part
        for index, part in enumerate(location)
        if not (index and isinstance(location[index - 1], int) and part in {"drawn_digits", "files"})
    )


def _known(path: KeyPath, model: type[BaseModel], value: Any) -> str | None:
    """`did you mean` for an unknown key: among its siblings first, then anywhere in the recipe."""
    if glued := glued_hint(path[-1]):
        return glued
    siblings = _section(path[:-1], model, value)
    close = nearest(str(path[-1]), siblings.model_fields) if siblings else None
    if close:
        return f"did you mean {close!r}?"
    everywhere = {dotted.rpartition(".")[2]: dotted for dotted in _dotted(model)}
    close = nearest(str(path[-1]), everywhere)
    if close:
        return f"did you mean {everywhere[close]!r}?"
    return f"known: {', '.join(siblings.model_fields)}" if siblings else None


def glued_hint(key: object) -> str | None:
    """What to do about `{epsilon:4}`, which YAML reads as one key, `epsilon:4`; None for other keys."""
    name, colon, text = str(key).partition(":")
    return f"write a blank after the colon: {name}: {text}" if colon and name and text else None


def _dotted(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, info in model.model_fields.items():
        found.append(prefix + name)
        inner = _model_of(info.annotation)
        found += _dotted(inner, f"{prefix}{name}.") if inner else []
    return found


def _model_of(annotation: Any, value: Any = None) -> type[BaseModel] | None:
    """The section inside an annotation (`Cap | None`, `list[A | B]` by the `source` of `value`)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [found for item in getattr(annotation, "__args__", ()) if (found := _model_of(item, value))]
    if len(inner) > 1 and isinstance(value, dict):
        named = [item for item in inner if value.get("source") in _sources(item)]
        inner = named or inner
    return inner[0] if inner else None


def _is_item(value: Any, part: str | int) -> bool:
    return isinstance(value, list) and isinstance(part, int)


def _sources(model: type[BaseModel]) -> tuple[str, ...]:
    """The values that the `source` key of a section may take."""
    info = model.model_fields.get("source")
    return get_args(info.annotation) if info else ()


def _section(path: KeyPath, model: type[BaseModel], value: Any) -> type[BaseModel] | None:
    """The section that `path` leads to."""
    current: type[BaseModel] | None = model
    annotation: Any = model
    for part in path:
        value = value[part] if isinstance(value, dict) or _is_item(value, part) else None
        if isinstance(part, str):
            if current is None or part not in current.model_fields:
                return None
            annotation = current.model_fields[part].annotation
        current = _model_of(annotation, value)
    return current


def _description(path: KeyPath, model: type[BaseModel]) -> str | None:
    section = _section(path[:-1], model, None)
    info = section.model_fields.get(str(path[-1])) if section else None
    if info is None:
        return None
    inner = _model_of(info.annotation)
    said = info.description or (inner.__doc__ if inner else None)
    return f"{path[-1]}: {' '.join(said.split())}" if said else None
