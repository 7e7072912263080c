"""The figures on the page of results are those of the files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FIELDS = {"dataset", "epsilon", "delta", "strategy", "metric", "mean", "low", "high", "seeds"}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_results", ROOT / "docs" / "generate_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(generator: ModuleType) -> None:
    written = generator.PAGE.read_text(encoding="utf-8")
    assert written == generator.page(written), "docs/results.md is stale: run `make docs`"
    assert len(generator.BLOCK.findall(written)) == written.count("<!-- end -->") > 0


def test_a_changed_figure_makes_the_page_stale(generator: ModuleType) -> None:
    written = generator.PAGE.read_text(encoding="utf-8")
    lines = generator.BLOCK.search(written)[0].splitlines()
    figure = next(line for line in lines if "| accuracy | " in line)
    changed = written.replace(figure, figure.replace("accuracy | ", "accuracy | 1"))
    assert changed != written == generator.page(changed)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=lambda path: path.stem
)
def test_a_file_of_results_has_the_fields_of_all(path: Path) -> None:
    found = json.loads(path.read_text())
    assert set(found) >= {"commit", "command", "machine", "rows"}
    assert all(set(row) >= FIELDS for row in found["rows"])
    recipes = {recipe.stem for recipe in (ROOT / "recipes").glob("*.yaml")}
    assert {row["strategy"] for row in found["rows"]} <= recipes | {"real", "public"}
    datasets = {"mnist", "cifar10", "celeba64", "chestxray64", "digits"}
    assert {row["dataset"] for row in found["rows"]} <= datasets
