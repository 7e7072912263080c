"""Puts the figures of benchmarks/results/ into docs/results.md, between a file's name and `<!-- end -->`.

Guarantees the same text on every machine, so that a test can tell when it is stale. Run it as `make docs`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "results.md"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- (?P<name>[a-z0-9-]+\.json) -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = "| whose images | ε | figure | value | over |\n|---|---|---|---|---|\n"


def line(row: dict[str, Any]) -> str:
    """One figure: whose, at which ε, of what, how large, over what."""
    whose = {"public": "public alone", "real": "real images, not private"}
    strategy = whose.get(row["strategy"], f"`{row['strategy']}`")
    strategy += f", {row['variant']}" if "variant" in row else ""
    epsilon = "–" if row["epsilon"] is None else f"{row['epsilon']:.4g}"
    value = f"{row['mean']:.2f}"
    if row["low"] is not None:
        value += f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"| {strategy} | {epsilon} | {row['metric']} | {value} | {over(row)} |\n"


def over(row: dict[str, Any]) -> str:
    """What the interval is over."""
    if row["low"] is None:
        return "one value"
    if row.get("trainings", 1) > 1:
        return f"{row['trainings']} trainings"
    return f"{row['seeds']} seeds" if "trainings" not in row else f"{row['seeds']} classifiers, one training"


def block(name: str) -> str:
    """The table of one file, and where it is from."""
    found = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    rows = HEAD + "".join(line(row) for row in found["rows"])
    return f"{rows}\n`{found['command']}` at {found['commit']}; {found['machine']}.\n"


def page(text: str) -> str:
    """The page with its blocks as the files are now."""
    return BLOCK.sub(lambda found: found[1] + block(found["name"]) + found[3], text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
