"""A benchmark that was stopped: the cases that it finished, for the next call with the same settings.

Guarantees that a finished benchmark is measured again, and that nothing of another machine, code, grid or
setting is kept. May import the standard library alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp_diffusers.benching.case import Case
from dp_diffusers.benching.results import BenchResult, Row
from dp_diffusers.errors import RunFolderError
from dp_diffusers.whole_files import write_text

FILE = "bench.json"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Rows and profiles of the cases that are done."""

    rows: list[Row]
    profiles: list[dict[str, Any]]

    def has(self, case: Case) -> bool:
        """Whether all rows of the case are there."""
        names = {row.engine for row in self.rows if _facts(row) == case.facts()}
        return names >= set(case.engines)


def _facts(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("family", "strategy", "units", "noise_draws", "dtype")}


def opened(folder: Path, device: str, settings: dict[str, Any]) -> Kept:
    """What a stopped call left in the folder; nothing, where there is none or where it was another one.

    Raises `RunFolderError` for a folder that cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"cannot write {folder}: {error.strerror}", hint="choose another --out"
        ) from error
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if found["complete"] or (found["device"], found["settings"]) != (device, settings):
            return Kept(rows=[], profiles=[])
        return Kept(rows=[Row(**row) for row in found["rows"]], profiles=list(found.get("profiles", ())))
    except (OSError, ValueError, KeyError, TypeError):
        return Kept(rows=[], profiles=[])


def write(result: BenchResult, folder: Path, *, complete: bool) -> None:
    """The document so far."""
    document = result.to_dict() | {"complete": complete}
    write_text(folder / FILE, json.dumps(document, indent=2) + "\n")


def settings_of(cases: Sequence[Case], **settings: Any) -> dict[str, Any]:
    """How it is measured, and what: a call with others begins anew."""
    return {**settings, "cases": [case.facts() | {"engines": list(case.engines)} for case in cases]}
