"""The classifiers that an evaluation may train: by name, each with a schedule of its own that is fixed.

Guarantees that the name is known before any image is read. May import nothing heavy; a classifier is one file
and one line in `CLASSIFIERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from dp_diffusers.errors import unknown_name

if TYPE_CHECKING:
    from torch import nn

DEFAULT: Final = "cnn-32-64-128"
CLASSIFIERS: Final = {
    DEFAULT: "dp_diffusers.evaluation.classifier:classifier",
    "wrn-40-4": "dp_diffusers.evaluation.wide_resnet:classifier",
}


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """name: part of every figure. default_passes: size in pixels → images seen in one training.

    trained: `(train, *, seed, passes, classes, progress) -> module` in evaluation mode, where `train` is
    (uint8 [N, H, W, C], int64 [N]).
    """

    name: str
    default_passes: Callable[[int], int]
    trained: Callable[..., nn.Module]


def classifier_named(name: str, device: str = "auto") -> Classifier:
    """The classifier called `name` on `device` (auto, cpu, cuda).

    Raises `ParameterError` with the nearest known name, or for a device that is not there or that it cannot
    use.
    """
    if not isinstance(name, str) or name not in CLASSIFIERS:
        raise unknown_name("classifier", str(name), CLASSIFIERS)
    module, _, function = CLASSIFIERS[name].partition(":")
    made: Any = getattr(import_module(module), function)(device)
    assert isinstance(made, Classifier)
    return made
