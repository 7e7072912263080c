"""From a recipe file to validated settings, or to every problem of the file at once, each with its line.

Guarantees that a file with problems changes nothing and names all of them in one `RecipeError`.
May import pydantic and PyYAML; never numpy, never torch. Source: design note, recipe contract.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dp_diffusers.errors import RecipeError, nearest
from dp_diffusers.recipe.problems import Finding, findings_of, glued_hint
from dp_diffusers.recipe.yaml_lines import KeyPath, YamlSyntaxError, parse, parse_value

Model = TypeVar("Model", bound=BaseModel)


@dataclass(kw_only=True)
class RecipeSource:
    """What was read: plain data, and where each key came from (a line, or a `--set`)."""

    path: Path
    value: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overrides: dict[KeyPath, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def where(self, path: KeyPath) -> str:
        """`recipe.yaml:14` for the key or its nearest written parent, or the `--set` that gave it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return self.overrides[path[:length]]
            if path[:length] in self.lines:
                return f"{self.path.name}:{self.lines[path[:length]]}"
        below = (text for keys, text in self.overrides.items() if keys[: len(path)] == path)
        return next(below, self.path.name) if path else self.path.name


def read(path: str | Path, overrides: Iterable[str] = ()) -> RecipeSource:
    """The recipe at `path` with `key=value` overrides applied. Raises `RecipeError` if it cannot be read."""
    file = Path(path)
    text = _read_text(file)
    try:
        located = parse(text)
    except YamlSyntaxError as error:
        place = file.name if error.line is None else f"{file.name}:{error.line}"
        raise RecipeError([(f"{place}: {error.message}", error.hint)]) from error
    if located.value is None:
        raise RecipeError([(f"{file}: the recipe is empty", "`dp-diffusers init IMAGES` writes one")])
    if not isinstance(located.value, dict):
        found = _KINDS.get(type(located.value), "something else")
        message = f"{file}: expected keys and values, got {found}"
        raise RecipeError([(message, "`dp-diffusers init IMAGES` writes a recipe")])
    source = RecipeSource(path=file, value=located.value, lines=located.lines)
    for key, line in located.duplicates.items():
        source.findings.append((key, f"duplicated key {str(key[-1])!r}, again on line {line}", "keep one"))
    for item in overrides:
        override(source, item)
    return source


def _read_text(file: Path) -> str:
    if file.is_dir():
        hint = "give the recipe's file, such as recipe.yaml"
        raise RecipeError([(f"expected a recipe file, got a folder: {file}", hint)])
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError([(f"recipe not found: {file}", _similar_file(file))]) from error
    except UnicodeDecodeError as error:
        raise RecipeError([(f"{file.name}: not a text file", "a recipe is YAML or JSON in UTF-8")]) from error
    except OSError as error:
        raise RecipeError([(f"recipe cannot be read: {file}: {error.strerror}", None)]) from error


def _similar_file(file: Path) -> str | None:
    if not file.parent.is_dir():
        return f"the folder {file.parent} does not exist"
    close = nearest(file.name, (item.name for item in file.parent.iterdir()))
    return f"did you mean {str(file.parent / close)!r}?" if close else None


_KINDS = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}


def override(source: RecipeSource, item: str) -> None:
    """Applies `a.b=c`; the value is read as YAML. Raises `RecipeError` for anything else."""
    dotted, equals, text = item.partition("=")
    keys = tuple(int(key) if key.isdigit() else key for key in dotted.strip().split("."))
    if not equals or not all(key != "" for key in keys):
        hint = f"write it as --set {'training.noise_draws=8' if equals else _example(dotted.strip())}"
        raise RecipeError([(f"--set {_cut(item)}: expected key=value", hint)])
    try:
        value = parse_value(text)
    except YamlSyntaxError as error:
        hint = "the value is read as YAML; the shell wants quotes around --set 'data.classes=[a, b]'"
        raise RecipeError([(f"--set {_cut(item)}: {error.message}", hint)]) from error
    _require_blanks(value, item)
    container = _container(source.value, keys[:-1])
    if container is None or (isinstance(container, list) and not _is_index(container, keys[-1])):
        message = f"--set {_cut(item)}: {dotted!r} does not lead to a key"
        raise RecipeError([(message, "what stands there is a plain value, with no keys below it")])
    container[keys[-1]] = value
    source.overrides[keys] = f"--set {_cut(item)}"


def _example(key: str) -> str:
    """A key that came without a value, as it is to be written; another, where it is none or a section."""
    parts = key.split(".")
    is_key = len(parts) > 1 and all(part.isidentifier() or part.isdigit() for part in parts)
    return f"{key}=VALUE" if is_key else "training.noise_draws=8"


def _require_blanks(value: Any, item: str) -> None:
    """Raises `RecipeError` for `{epsilon:4}`: said once, rather than what is missing for want of a blank."""
    keys = value if isinstance(value, dict) else {}
    for key in (key for key, inner in keys.items() if inner is None):
        if hint := glued_hint(key):
            raise RecipeError([(f"--set {_cut(item)}: {key!r} is a key without a value", hint)])


def _cut(item: str) -> str:
    return item if len(item) <= 80 else f"{item[:77]}..."


def _container(value: Any, keys: KeyPath) -> Any:
    """The mapping or list at `keys`, made where a mapping is missing; None behind a plain value."""
    for key in keys:
        if isinstance(value, dict):
            if value.get(key) is None:
                value[key] = {}
            value = value[key]
        elif isinstance(value, list) and _is_index(value, key):
            value = value[int(key)]
        else:
            return None
    return value if isinstance(value, dict | list) else None


def _is_index(items: list[Any], key: str | int) -> bool:
    return isinstance(key, int) and key < len(items)


def validate(model: type[Model], source: RecipeSource, findings: Iterable[Finding] = ()) -> Model:
    """`source` as a `model`. Raises one `RecipeError` with every problem, in the order of the file."""
    _require_kind(model, source)
    problems = [*source.findings, *findings]
    try:
        recipe = model.model_validate(source.value)
    except ValidationError as error:
        said = {message for _, message, _ in problems}
        problems += [
            item for item in findings_of(error, model, source.value) if item[0] or item[1] not in said
        ]
    else:
        if not problems:
            return recipe
    raise RecipeError(_located(problems, source))


def _require_kind(model: type[BaseModel], source: RecipeSource) -> None:
    """Raises `RecipeError` for a recipe of the other kind: one line, not one for each key."""
    keys = set(source.value)
    private = bool(keys & {"base", "budget", "mechanism"})
    public = isinstance(source.value.get("data"), list) or bool(keys & {"model", "autoencoder"})
    kinds = {
        "Recipe": (public, private, "a public pre-training", "pretrain"),
        "PretrainRecipe": (private, public, "a private fine-tuning", "train"),
    }
    other, own, what, verb = kinds.get(model.__name__, (False, True, "", ""))
    if other and not own:
        message = f"{source.path.name} is the recipe of {what}"
        command = f"dp-diffusers {verb} {shlex.quote(str(source.path))} --out DIR"
        raise RecipeError([(message, f"`{command}` runs it")])


def _located(problems: list[Finding], source: RecipeSource) -> list[tuple[str, str | None]]:
    """Messages with their places; the same thing is said once."""
    ordered = sorted(problems, key=lambda finding: _line(finding[0], source))
    texts = {f"{source.where(path)}: {message}": hint for path, message, hint in reversed(ordered)}
    return list(reversed(texts.items()))


def _line(path: KeyPath, source: RecipeSource) -> int:
    place = source.where(path)
    found = re.search(r":(\d+)$", place)
    return int(found.group(1)) if found and not place.startswith("--set") else 0


def differing_keys(one: Any, other: Any, ignoring: tuple[str, ...] | str, prefix: str = "") -> list[str]:
    """Dotted keys at which two nests of mappings differ, but for those that begin with one of `ignoring`."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [prefix.rstrip(".")] if one != other else []
    ignored = tuple(filter(None, (ignoring,) if isinstance(ignoring, str) else ignoring))
    keys = [*one, *(key for key in other if key not in one)]
    found: list[str] = []
    for key in keys:
        dotted = f"{prefix}{key}."
        if not dotted.startswith(ignored):
            found += differing_keys(one.get(key), other.get(key), ignored, dotted)
    return found
