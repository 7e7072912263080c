"""Where the ledger of some images lies unless one is named, and where another one of theirs may lie.

Guarantees that a ledger which nobody named is not begun where one lies beside what a link leads to, beside a
folder around the images, or among the files of their folder; whoever names another than theirs is told of it.
May import where sources lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dp_diffusers.data.sources import is_hub
from dp_diffusers.errors import LedgerError


def default_ledger(data_path: str) -> str | None:
    """`images.parquet.ledger` beside `images.parquet`, `xrays.ledger` beside the folder `xrays/`.

    None for a data set of the Hub, beside which nothing can be written.
    """
    return None if is_hub(data_path) else str(data_path).rstrip("/\\") + ".ledger"


def require_first(ledger: str, data_path: str | None) -> None:
    """Raises `LedgerError` where the default ledger of some images would begin beside another of theirs."""
    if data_path is None or ledger != default_ledger(data_path):
        return
    given = Path(str(data_path).rstrip("/\\"))
    own = os.path.realpath(ledger)
    for place in (given, Path(os.path.realpath(given))):
        other = next((found for found in _around(place) if os.path.realpath(found) != own), None)
        if other is not None:
            raise LedgerError(
                f"{other} is the ledger of images that these may be, and no run here is in it yet",
                hint="name it in budget.ledger; or, for other images, name a new one there",
            )


def other_ledger(ledger: str | None, data_path: str | None) -> str | None:
    """The line for whoever names another ledger than the images have: that theirs is there, by name.

    It is a fact, no refusal: benchmark data have a ledger for each question on purpose.
    """
    if ledger is None or data_path is None or is_hub(data_path):
        return None
    asked = os.path.realpath(ledger)
    for place in (str(data_path), os.path.realpath(data_path)):
        found = default_ledger(place)
        if found is not None and Path(found).is_file() and os.path.realpath(found) != asked:
            return (
                f"these images have a ledger of their own, {found}: what it counts comes on top of this run's"
            )
    return None


def _around(data: Path) -> Iterator[Path]:
    """Ledgers beside the images, beside each folder that they lie in, and in theirs."""
    beside = (Path(f"{place}.ledger") for place in (data, *data.parents))
    inside = sorted(data.rglob("*.ledger")) if data.is_dir() else []
    return (place for place in (*beside, *inside) if place.is_file())
