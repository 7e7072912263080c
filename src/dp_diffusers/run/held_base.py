"""A base that came as an object, and whether it still is what a release was made with.

Guarantees that images of a release are drawn from the base that its certificate names and from its own
adapter: a pipeline is its owner's, who may take the adapter out, train it again on other images, or change
its weights. May import torch and peft.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from dp_diffusers.diffusion.base import Base, add_tensor, fingerprint, weights_of
from dp_diffusers.errors import GuaranteeError, ModelError
from dp_diffusers.strategies.adapter import has_adapter, is_in, load_adapter

_HINT: Final = (
    "load the pipeline again as it was before the training and give it once more, or name its folder"
)


# what each network was when its adapter came into it: weights beside an adapter cannot be told apart by it
_KNOWN: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def take_up(base: Base, adapter: Path | None, sha256: str, *, trained: bool) -> str:
    """The state of a base that is given for a finished run, after its adapter was loaded where it has none.

    adapter: the folder of the release's; None for a release without one. sha256: of the base, as certified.
    trained: the adapter was trained in this very network a moment ago. Raises `ModelError` for another base,
    and for one with another adapter, or with weights that are not those which it came to.
    """
    if adapter is not None and has_adapter(base.network):
        if not is_in(base.network, adapter):
            raise ModelError("the model carries another adapter than that of this release", hint=_HINT)
        if not trained:
            require_unchanged(base, _KNOWN.get(base.network, ""))
    elif base.sha256 != sha256:
        raise ModelError("the base model is not the one that this adapter was trained on", hint=_HINT)
    elif adapter is not None:
        load_adapter(base.network, adapter)
    _KNOWN[base.network] = found = state_of(base)
    return found


def state_of(base: Base) -> str:
    """sha256 of all that decides what the model draws now: weights, adapter, what of it is switched off."""
    switches = [
        [name, layer.disable_adapters, list(layer.active_adapters), _scales(layer)]
        for name, layer in base.network.named_modules()
        if isinstance(layer, BaseTunerLayer)
    ]
    text = json.dumps([fingerprint(base), switches], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def rest_untouched(base: Base) -> Iterator[None]:
    """Raises `GuaranteeError` where a base that came as an object is changed beyond what is trained.

    Images are drawn from that very object: what private images left in it elsewhere would have no noise.
    """
    if not base.in_memory:  # loaded anew for drawing
        yield
        return
    named = base.network.named_parameters(remove_duplicate=False)  # a tied weight has two names
    trained = {name for name, parameter in named if parameter.requires_grad}
    before = _digest_without(base, trained)
    yield
    if _digest_without(base, trained) != before:
        raise GuaranteeError(
            "the training changed weights or buffers of the base that it does not train",
            hint="take out of the model what changes itself in a forward pass, such as running averages",
        )


def _digest_without(base: Base, names: set[str]) -> str:
    found = hashlib.sha256()
    buffers = base.network.named_buffers()  # those that no file holds, too
    for name, value in (*weights_of(base), *buffers):
        if name not in names:
            add_tensor(found, name, value)
    return found.hexdigest()


def require_unchanged(base: Base, state: str) -> None:
    """Raises `ModelError` where the base is another than it was in that state."""
    if state_of(base) != state:
        raise ModelError(
            "the pipeline was changed since this release was made: it would draw images of another model",
            hint=_HINT,
        )


def _scales(layer: Any) -> dict[str, Any]:
    return dict(getattr(layer, "scaling", None) or {})
