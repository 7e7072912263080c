"""The page of planted defects is true: its tests exist and are planted, and its figures follow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from true_epsilon import FIGURES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "concepts" / "planted-defects.md"
EDGES = ROOT / "docs" / "concepts" / "sharp-edges.md"


@cache
def rows() -> list[list[str]]:
    """The cells of each row of the page's tables; five where the defect is planted, else three."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "defect"]


def named(row: list[str]) -> tuple[str, str]:
    """File and name of a row's test."""
    (found,) = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[2])
    return str(found[0]), str(found[1])


@cache
def cases_in(name: str) -> dict[str, bool]:
    """The tests of a file, and whether each is marked as planted."""
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    everywhere = any("planted" in ast.unparse(node) for node in assigned if "pytestmark" in ast.unparse(node))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {
        node.name: everywhere or any("mark.planted" in ast.unparse(mark) for mark in node.decorator_list)
        for node in functions
        if node.name.startswith("test_")
    }


def problems() -> list[str]:
    """Rows whose test is not there, or not planted although the row says so."""
    found = []
    for row in rows():
        file, test = named(row)
        known = cases_in(file) if (ROOT / file).exists() else {}
        if test not in known:
            found.append(f"{file} has no {test}")
        elif len(row) == 5 and not known[test]:
            found.append(f"{test} is not marked as planted")
    return found


def test_every_defect_of_the_page_has_its_test() -> None:
    assert problems() == []
    assert sum(len(row) == 5 for row in rows()) >= 40
    assert {len(row) for row in rows()} == {3, 5}


def test_the_check_of_the_page_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    first = rows()[0]
    wrong = [*first[:2], first[2].replace("::test_", "::test_no_"), *first[3:]]
    monkeypatch.setattr(sys.modules[__name__], "rows", lambda: [wrong])
    assert len(problems()) == 1


def test_every_sharp_edge_has_its_test_or_is_said_to_be_yours() -> None:
    lines = [line for line in EDGES.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    edges = [line for line in lines if not line.startswith("| pitfall")]
    assert len(edges) >= 25
    for line in edges:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 4, line
        if cells[3] == "–":
            assert "*yours*" in cells[2], line
        else:
            ((file, test),) = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cells[3])
            assert test in cases_in(file), line


def quoted() -> dict[tuple[str, int], float]:
    """Every `ε number` in the last column, by row and place."""
    found = {}
    for row in (row for row in rows() if len(row) == 5):
        for place, number in enumerate(re.findall(r"ε (\d[\d.]*)", row[4])):
            found[row[0], place] = float(number)
    return found


def test_every_epsilon_of_the_page_is_one_that_is_computed() -> None:
    assert set(quoted()) == set(FIGURES)


@pytest.mark.slow
@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: f"{figure[0]}-{figure[1]}")
def test_figures_of_the_page_follow(figure: tuple[str, int]) -> None:
    assert FIGURES[figure]().epsilon() == pytest.approx(quoted()[figure], rel=6e-3)


@pytest.mark.slow
def test_the_cases_in_the_page_are_collected() -> None:
    """By pytest itself, from another process."""
    files = sorted({named(row)[0] for row in rows()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=", *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for row in rows():
        assert "::".join(named(row)) in listed, row[0]
