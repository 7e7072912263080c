"""What a run must not tell in its release: gathered while its images are open, kept in its private folder.

Guarantees that a generation, which opens no private image, looks for the same secrets as the training did,
and that what the recipe makes public is no secret. May import numpy; never torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.traces import Traces
from dp_diffusers.leaks.scan import Secrets, machine_names, own_words, paths_of
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.run.place_of_run import places_of

TRACES = "traces.npz"
_PLACES = ("path", "ledger", "base", "public", "features")  # recipe keys that say where something lies


def note_traces(folder: RunFolder, data: PrivateImages, *, ledger: str | Path | None) -> Traces:
    """Notes what would betray the images of a run, in its private folder.

    `ledger`: the account's file; None for a run without privacy, whose images may show in what it makes.
    """
    known = data.traces
    traces = Traces(names=set(known.names), ids=set(known.ids), paths=set(known.paths))
    traces.captions = set(known.captions)
    traces.counts = {len(data.images), data.unit_count}
    traces.paths |= {str(ledger)} if ledger is not None and str(ledger) != ":memory:" else set()
    if ledger is not None:
        traces.windows = known.windows
        traces.add_pixels(data.images)
    traces.save(folder.private / TRACES)
    return traces


def has_traces(folder: RunFolder) -> bool:
    """Whether a training noted something beside this release."""
    return (folder.private / TRACES).exists()


def kept_traces(folder: RunFolder) -> Traces:
    """What the training of this run noted; nothing where it noted nothing."""
    return Traces.load(folder.private / TRACES) if has_traces(folder) else Traces()


def secrets_of(folder: RunFolder, traces: Traces, public: Iterable[str]) -> Secrets:
    """What may not be in the release of a run. `public`: words that its release says in any case."""
    settings = folder.settings() if folder.recipe.exists() else {}
    places = [(settings.get("data") or {}).get("path"), (settings.get("budget") or {}).get("ledger")]
    words = [value for value in _values(settings) if isinstance(value, str)]
    return Secrets(
        traces=traces,
        paths=paths_of([folder.root, *places, *places_of(folder), *traces.paths]),
        machine=machine_names(),
        public_text="\n".join([own_words(), *words, *public]),
        public_numbers=frozenset(value for value in _values(settings) if isinstance(value, int)),
    )


def _values(settings: Any, key: str | None = None) -> Iterator[Any]:
    """Every value of a recipe but those that say where something lies."""
    if isinstance(settings, dict):
        for name, value in settings.items():
            yield from _values(value, name)
    elif isinstance(settings, list):
        for value in settings:
            yield from _values(value, key)
    elif key not in _PLACES:
        yield settings
