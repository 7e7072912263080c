"""What the classes of a merged model are called: declared ones have the names of the training.

Guarantees that a training on the merged model which names a class starts from what was learnt of it, and that
no two classes come to share a name: where two would, all keep those of the base. The names are those of the
certificate. May import `base_classes` only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dp_diffusers.classes.base_classes import names_of_index

_SIDECAR: Final = "classes.json"
_INDEX: Final = "model_index.json"  # where a `DiTPipeline` keeps its names


def name_classes(folder: Path, classes: Mapping[str, Any] | None) -> None:
    """Renames classes in a model's folder. classes: the field `classes` of the certificate.

    A model that names none is left as it is.
    """
    if not classes or not classes.get("declared") or not classes.get("names"):
        return
    learnt = dict(zip(classes["labels"], classes["names"], strict=False))
    sidecar, index = folder / _SIDECAR, folder / _INDEX
    if sidecar.exists():
        if (renamed := _renamed(json.loads(sidecar.read_text(encoding="utf-8")), learnt)) is not None:
            sidecar.write_text(json.dumps(renamed) + "\n", encoding="utf-8")
        return
    document = json.loads(index.read_text(encoding="utf-8"))
    if (renamed := _renamed(names_of_index(document), learnt)) is not None:
        document["id2label"] = {str(number): name for number, name in enumerate(renamed)}
        index.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _renamed(names: Sequence[str] | None, learnt: Mapping[int, str]) -> list[str] | None:
    """The names of all classes; None where nothing changes, or two would be called the same."""
    if names is None:
        return None
    found = [learnt.get(number, name) for number, name in enumerate(names)]
    return None if found == list(names) or len(set(found)) < len(found) else found
