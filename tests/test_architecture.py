"""The borders between the parts, read from the import statements of every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "dp_diffusers"
FILES = sorted(SOURCE.rglob("*.py"))

# part → what no file of it may import, at the top or inside a function
NEVER = {
    "privacy": (
        "torch",
        "diffusers",
        "peft",
        "dp_diffusers.engine",
        "dp_diffusers.mechanisms",
        "dp_diffusers.diffusion",
    ),
    "engine": (
        "dp_accounting",
        "diffusers",
        "dp_diffusers.privacy",
        "dp_diffusers.diffusion",
        "dp_diffusers.mechanisms",
    ),
    "diffusion": ("dp_accounting", "dp_diffusers.engine", "dp_diffusers.privacy", "dp_diffusers.mechanisms"),
    "strategies": ("dp_accounting", "dp_diffusers.engine", "dp_diffusers.privacy", "dp_diffusers.mechanisms"),
    "evaluation": ("dp_accounting", "dp_diffusers.engine", "dp_diffusers.privacy", "dp_diffusers.mechanisms"),
    "benching": ("dp_accounting",),
    "pretraining": (
        "dp_accounting",
        "dp_diffusers.engine",
        "dp_diffusers.privacy",
        "dp_diffusers.mechanisms",
    ),
    "loop": ("dp_accounting", "dp_diffusers.privacy", "dp_diffusers.mechanisms"),
    "runtime": ("dp_accounting", "dp_diffusers.privacy", "dp_diffusers.mechanisms"),
    "run": ("dp_accounting", "dp_diffusers.engine"),
    "queries": ("dp_accounting", "dp_diffusers.engine"),
    "teaching": ("dp_accounting", "dp_diffusers.engine"),
    "evolution": ("dp_accounting", "dp_diffusers.engine"),
    "drawing": ("dp_accounting", "dp_diffusers.engine", "dp_diffusers.mechanisms"),
    "cards": ("torch", "diffusers", "dp_accounting", "dp_diffusers.engine", "dp_diffusers.mechanisms"),
    "leaks": ("torch", "diffusers", "dp_accounting", "dp_diffusers.engine", "dp_diffusers.mechanisms"),
    "classes": (
        "torch",
        "dp_accounting",
        "dp_diffusers.engine",
        "dp_diffusers.privacy",
        "dp_diffusers.mechanisms",
    ),
    "data": ("torch", "diffusers", "dp_accounting", "dp_diffusers.engine", "dp_diffusers.privacy"),
    "": ("datasets",),
}
# file or folder → what it may import inside functions only
NOT_AT_THE_TOP = {
    "cli": ("torch", "numpy", "dp_accounting", "diffusers", "pydantic", "yaml", "rich"),
    "plan.py": ("torch", "dp_diffusers.engine"),
    "mechanisms": ("torch", "dp_diffusers.engine"),
    "recipe": ("torch", "numpy", "dp_accounting"),
    "errors.py": ("torch", "numpy", "dp_accounting"),
    "__init__.py": ("torch", "numpy", "dp_accounting"),
}
STARTER = ("cli/starter.py",)  # loaded inside `init` only: it may use what recipes are made of
JOINS_PRIVACY_AND_ENGINE = ("mechanisms/", "plan.py")


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    at_the_top: bool


def imports(text: str) -> list[Import]:
    """Every import of a source text; those under `if TYPE_CHECKING` cost and couple nothing at run time."""
    return list(_walk(ast.parse(text).body, at_the_top=True))


def _walk(body: list[ast.stmt], *, at_the_top: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_the_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield Import(node.module, node.lineno, at_the_top)
            yield from (
                Import(f"{node.module}.{alias.name}", node.lineno, at_the_top) for alias in node.names
            )
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        else:
            inside = at_the_top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for name in ("body", "orelse", "finalbody"):
                yield from _walk(getattr(node, name, []), at_the_top=inside)
            for handler in getattr(node, "handlers", []):
                yield from _walk(handler.body, at_the_top=inside)


def breaches(path: str, text: str) -> list[str]:
    """What a file of this path (relative to the package) imports against the rules."""
    found = []
    for item in imports(text):
        for part, banned in NEVER.items():
            if path.startswith(f"{part}/" if part else "") and _within(item.module, banned):
                found.append(f"{path}:{item.line} imports {item.module}")
        for part, banned in NOT_AT_THE_TOP.items():
            inside = path == part or (path.startswith(f"{part}/") and path not in STARTER)
            if inside and item.at_the_top and _within(item.module, banned):
                found.append(f"{path}:{item.line} imports {item.module} at the top")
    return found


def joins_privacy_and_engine(text: str) -> bool:
    modules = [item.module for item in imports(text)]
    sides = ("dp_diffusers.privacy", "dp_diffusers.engine")
    return all(any(_within(module, (side,)) for module in modules) for side in sides)


def _within(module: str, roots: tuple[str, ...]) -> bool:
    return any(module == root or module.startswith(root + ".") for root in roots)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_file_keeps_to_its_side(file: Path) -> None:
    assert breaches(file.relative_to(SOURCE).as_posix(), file.read_text()) == []


def test_only_mechanisms_and_plan_join_privacy_and_engine() -> None:
    joining = [
        path.relative_to(SOURCE).as_posix() for path in FILES if joins_privacy_and_engine(path.read_text())
    ]
    assert [path for path in joining if not path.startswith(JOINS_PRIVACY_AND_ENGINE)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_file_is_short_and_says_what_it_is(file: Path) -> None:
    text = file.read_text()
    assert text.count("\n") <= 400
    assert not text.strip() or ast.get_docstring(ast.parse(text))


@pytest.mark.planted
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("privacy/accountant.py", "import torch"),
        ("privacy/ledger.py", "def f():\n    from dp_diffusers.engine import noise"),
        ("engine/noise.py", "from dp_accounting import pld"),
        (
            "diffusion/pixel.py",
            "try:\n    import dp_diffusers.engine.randomness\nexcept ImportError:\n    pass",
        ),
        ("strategies/lora.py", "from dp_diffusers import privacy"),
        ("data/folder.py", "import datasets"),
        ("cli/main.py", "import numpy as np"),
        ("plan.py", "from torch import nn"),
    ],
)
def test_a_planted_breach_is_seen(path: str, text: str) -> None:
    assert breaches(path, text)


@pytest.mark.planted
def test_a_planted_joint_is_seen() -> None:
    assert joins_privacy_and_engine(
        "from dp_diffusers.privacy.ledger import Ledger\ndef f():\n    import dp_diffusers.engine.noise"
    )
