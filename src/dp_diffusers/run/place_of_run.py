"""Where the private images of a run lie, as its safe knows it: a call in Python writes them in no recipe.

Guarantee: every place that a start of the run named stays known, in `run.json` alone. May import the run's
files; never torch.
"""

from __future__ import annotations

import os
from typing import Any, Final

from dp_diffusers.data.sources import is_hub
from dp_diffusers.run.folder import RUN, RunFolder

PLACES: Final = "places"  # in `run.json`


def noted(place: str | None, folder: RunFolder) -> dict[str, Any]:
    """What `run.json` says of the places, now that a start names `place`; absolute, for later commands."""
    own = [] if place is None else [place if is_hub(place) else os.path.abspath(place)]
    return {PLACES: sorted({*_known(folder), *own})}


def places_of(folder: RunFolder) -> list[str]:
    """Places on this machine that starts of the run named; none for a run of an earlier version."""
    return [place for place in _known(folder) if not is_hub(place)]


def _known(folder: RunFolder) -> list[str]:
    return list((folder.read(RUN) or {}).get(PLACES, ()))
