"""YAML that remembers where each key stands, so that an error can point at a line.

Guarantees that a number written `1e-5` is a number, that a duplicated key is reported, and that no Python
object is ever built from a tag. May import the standard library and PyYAML alone.
Source: PyYAML's composer (node marks), YAML 1.2 core schema for floats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

KeyPath: TypeAlias = tuple[str | int, ...]
MOST_KEYS = 10_000  # aliases of aliases can stand for more than any memory holds

_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)
         |[-+]?(?:[0-9][0-9_]*)\.[0-9_]*
         |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
         |[-+]?\.(?:inf|Inf|INF)
         |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
_INTEGER = re.compile(r"^(?:[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+)$")
_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int")


class YamlSyntaxError(Exception):
    """The text is not YAML. `line` counts from 1; it is None where the parser knows none."""

    def __init__(
        self, line: int | None, message: str, hint: str = "check the indentation and the colons"
    ) -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.hint = hint


@dataclass(frozen=True, kw_only=True)
class Located:
    """A YAML document and the line of each of its keys and list items.

    `value`: the plain data. `lines`: key path → line, counting from 1. `duplicates`: key path of a key that
    was written again → line of the repetition.
    """

    value: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    duplicates: dict[KeyPath, int] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 numbers (010 is ten), and with characters that JSON escapes in two halves."""

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """The number of a scalar, decimal or 0x; never octal or in sixties."""
        text = self.construct_scalar(node).replace("_", "")
        return int(text, 16 if text.startswith("0x") else 10)

    def construct_whole(self, node: yaml.ScalarNode) -> str:
        """The text of a scalar. Raises `UnicodeDecodeError` (a `ValueError`) for a half without the other."""
        return self.construct_scalar(node).encode("utf-16", "surrogatepass").decode("utf-16")


# PyYAML's own resolvers are shared between classes: copied first, so that only ours changes.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_whole)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes text which `parse` would read as a number."""


_Dumper.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def dump(value: Any) -> str:
    """Plain data as YAML that `parse` reads back equal, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def dump_in_line(value: Any) -> str:
    """The same on one line, as the value of a key."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def parse(text: str) -> Located:
    """The document in `text`, YAML or JSON; None for an empty one. Raises `YamlSyntaxError`."""
    try:
        # _Loader derives from SafeLoader: it builds plain data only.
        loader = _Loader(_without_json_tabs(text))
        try:
            node = loader.get_single_node()
            located = Located(value=None)
            if node is None:
                return located
            _mark(loader, node, (), located)
            value = loader.construct_document(node)
            return Located(value=value, lines=located.lines, duplicates=located.duplicates)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlSyntaxError(mark.line + 1 if mark else None, _one_line(error)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlSyntaxError(
            line, "not valid YAML: a control character", "retype the line, check the colons"
        ) from error
    except RecursionError as error:
        raise YamlSyntaxError(None, "nested too deeply", "a recipe has a few lists and mappings") from error
    except (yaml.YAMLError, ValueError) as error:
        raise YamlSyntaxError(None, f"not valid YAML: {' '.join(str(error).split())}") from error


def _without_json_tabs(text: str) -> str:
    """JSON may be indented with tabs, YAML may not; within a JSON string there is none."""
    return text.replace("\t", " ") if text.lstrip("\ufeff \t\r\n").startswith("{") else text


def parse_value(text: str) -> Any:
    """One value as YAML reads it: `8` → 8, `1e-5` → 1e-5, `[a, b]` → list. Raises `YamlSyntaxError`."""
    return parse(text).value


def _one_line(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return "not valid YAML: " + " ".join(" ".join(parts).split())


def _mark(loader: _Loader, node: yaml.Node, path: KeyPath, located: Located) -> None:
    """Notes the line of everything below `node`; what an alias stands for is counted again."""
    if len(located.lines) > MOST_KEYS:
        raise YamlSyntaxError(
            node.start_mark.line + 1, f"more than {MOST_KEYS} keys and values", "write it without aliases"
        )
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                line = key_node.start_mark.line + 1
                raise YamlSyntaxError(line, "merge keys (<<) are not read", "write the keys out")
            if key_node.tag == "tag:yaml.org,2002:bool":  # `on:` is a key called on
                key_node.tag = "tag:yaml.org,2002:str"
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # construct_document raises the proper error
            _mark_key(loader, key_node, value_node, (*path, _as_key(key)), located)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            below = (*path, index)
            located.lines[below] = item.start_mark.line + 1
            _mark(loader, item, below, located)


def _mark_key(
    loader: _Loader, key_node: yaml.Node, value_node: yaml.Node, path: KeyPath, located: Located
) -> None:
    line = key_node.start_mark.line + 1
    if path in located.lines:
        located.duplicates[path] = line
    located.lines.setdefault(path, line)
    _mark(loader, value_node, path, located)


def _as_key(key: Hashable) -> str | int:
    return key if isinstance(key, str) else str(key)
