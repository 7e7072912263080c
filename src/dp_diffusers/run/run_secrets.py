"""What a run must not tell in its release: gathered while its images are open, kept in its private folder.

Guarantees that a generation, which opens no private image, looks for the same secrets as the training did,
and that what the recipe makes public is no secret. May import numpy; never torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.traces import Traces
from dp_diffusers.leaks.scan import Secrets, machine_names, own_words, paths_of
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.run.place_of_run import places_of

TRACES = "traces.npz"
EARLIER = "earlier-traces.npz"  # of images that earlier starts of the run had, and the last has not
_SETS = ("names", "ids", "captions", "pictures", "counts", "paths")  # of `Traces`
_PLACES = ("path", "ledger", "base", "public", "features")  # recipe keys that say where something lies


def note_traces(folder: RunFolder, data: PrivateImages, *, ledger: str | Path | None) -> Traces:
    """Notes what would betray the images of a run, in its private folder.

    `ledger`: the account's file; None for a run without privacy, whose images may show in what it makes.
    Where an earlier start had other images, theirs are kept beside: the model learnt from them as well.
    """
    known = data.traces
    traces = Traces(names=set(known.names), ids=set(known.ids), paths=set(known.paths))
    traces.captions = set(known.captions)
    traces.counts = {len(data.images), data.unit_count}
    traces.paths |= {os.path.abspath(ledger)} if ledger is not None and str(ledger) != ":memory:" else set()
    if ledger is not None:
        traces.windows = known.windows
        traces.add_pixels(data.images)
    before = last_traces(folder)
    if has_traces(folder) and not _same(before, traces):
        _united(before, _earlier(folder)).save(folder.private / EARLIER)
    traces.save(folder.private / TRACES)
    return traces


def forget_traces(folder: RunFolder) -> None:
    """Of a run that learnt nothing."""
    for name in (TRACES, EARLIER):
        (folder.private / name).unlink(missing_ok=True)


def has_traces(folder: RunFolder) -> bool:
    """Whether a training noted something beside this release."""
    return (folder.private / TRACES).exists()


def kept_traces(folder: RunFolder) -> Traces:
    """What all starts of this run noted; nothing where they noted nothing."""
    return _united(last_traces(folder), _earlier(folder))


def last_traces(folder: RunFolder) -> Traces:
    """What its last start noted."""
    return Traces.load(folder.private / TRACES) if has_traces(folder) else Traces()


def _earlier(folder: RunFolder) -> Traces:
    path = folder.private / EARLIER
    return Traces.load(path) if path.exists() else Traces()


def _same(one: Traces, other: Traces) -> bool:
    """Whether they are of the same images; a ledger may have moved."""
    texts = all(getattr(one, name) == getattr(other, name) for name in _SETS if name != "paths")
    return texts and np.array_equal(one.windows, other.windows)


def _united(one: Traces, other: Traces) -> Traces:
    windows = np.concatenate([one.windows, other.windows])
    return Traces(windows=windows, **{name: getattr(one, name) | getattr(other, name) for name in _SETS})


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
