"""The generated pages say what the code says, and every key and verb has a help text."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_reference", DOCS / "generate_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["recipe.md", "command-line.md"])
def test_the_reference_is_up_to_date(generator: ModuleType, name: str) -> None:
    written = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert written == generator.PAGES[name](), f"docs/reference/{name} is stale: run `make docs`"


def test_an_option_that_takes_a_value_says_of_which_kind(generator: ModuleType) -> None:
    page = generator.command_page()
    assert "| `--picture FILE.svg` |  | Also draw the spending against the cap. |" in page
    assert "| `--json` |  | Print one JSON document on stdout. |" in page


def test_every_key_and_option_has_a_meaning(generator: ModuleType) -> None:
    for page in generator.PAGES.values():
        rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| `")]
        assert rows
        bare = [row[0] for row in rows if not row[-1].removesuffix("|").strip() and "source" not in row[0]]
        assert bare == []


@pytest.mark.planted
def test_a_new_key_makes_the_reference_stale(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydantic.fields import FieldInfo

    from dp_diffusers.recipe.sections import RuntimeSettings

    added = FieldInfo(annotation=int, default=1, description="a key of tomorrow")
    fields = {**RuntimeSettings.model_fields, "added": added}
    monkeypatch.setattr(RuntimeSettings, "__pydantic_fields__", fields)
    assert (DOCS / "reference" / "recipe.md").read_text(encoding="utf-8") != generator.recipe_page()
