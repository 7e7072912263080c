"""A text that stands for every image of a class: `chest x-ray, {label}`.

Guarantees that `{label}` is the only thing that is filled in, and that anything else in braces is refused.
May import the standard library.
"""

from __future__ import annotations

import re

from dp_diffusers.errors import DataError, nearest

_FIELD = "{label}"


def needs_label(caption: str) -> bool:
    """Whether the text differs between classes."""
    return _FIELD in caption


def expanded(caption: str, label: str) -> str:
    """The text of an image of the class called `label`."""
    return caption.replace(_FIELD, label)


def require_known_fields(caption: str) -> None:
    """Raises: `DataError` for an empty text, or anything in braces but `{label}`."""
    if not caption.strip():
        raise DataError("expected data.caption not to be empty", hint="null is no caption")
    unknown = [found for found in re.findall(r"\{[^{}]*\}?|\}", caption) if found != _FIELD]
    if unknown:
        close = nearest(unknown[0], [_FIELD])
        hint = f"did you mean {close}?" if close else "only {label}, the name of the class, is filled in"
        raise DataError(f"data.caption: unknown {unknown[0]} in {caption!r}", hint=hint)
