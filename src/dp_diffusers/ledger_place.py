"""Where the ledger of some images lies unless one is named: one for a data set, however it is reached.

Guarantees that a link and what it leads to have the same ledger, and that a folder and a file in it do not
begin one each. May import where sources lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dp_diffusers.data.sources import is_hub
from dp_diffusers.errors import LedgerError


def default_ledger(data_path: str) -> str | None:
    """`images.parquet.ledger` beside `images.parquet`, `xrays.ledger` beside the folder `xrays/`.

    Links are followed. None for a data set of the Hub, beside which nothing can be written.
    """
    return None if is_hub(data_path) else os.path.realpath(str(data_path).rstrip("/\\")) + ".ledger"


def require_first(ledger: str, data_path: str | None) -> None:
    """Raises `LedgerError` where a ledger that nobody named would begin beside another one of its images.

    That of the folder which a file lies in, or of a file in the folder.
    """
    if data_path is None or ledger != default_ledger(data_path):
        return
    other = next(_others(Path(ledger), Path(os.path.realpath(data_path))), None)
    if other is not None:
        raise LedgerError(
            f"{other} is the ledger of images that these may be, and no run here is in it yet",
            hint="name it in budget.ledger; or, for other images, name a new one there",
        )


def _others(ledger: Path, data: Path) -> Iterator[Path]:
    around = Path(f"{data.parent}.ledger")
    inside = sorted(data.glob("*.ledger")) if data.is_dir() else []
    return (place for place in (around, *inside) if place.is_file() and place != ledger)
