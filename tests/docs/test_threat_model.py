"""Each promise of the threat model has a test of that name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "concepts" / "threat-model.md"


def named_tests(text: str) -> set[str]:
    return set(re.findall(r"`(test_\w+)`", text))


def existing_tests() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {
        name for file in files for name in re.findall(r"^def (test_\w+)\(", file.read_text("utf-8"), re.M)
    }


def test_every_promise_has_a_test() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!promise|---)(.+) \|$", text, re.M)
    assert len(rows) > 20
    assert [row for row in rows if not named_tests(row)] == []
    assert named_tests(text) - existing_tests() == set()
