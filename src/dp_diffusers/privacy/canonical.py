"""One text for one value: canonical JSON and its SHA-256.

Guarantee: equal documents give equal bytes on every machine (sorted keys, no spaces, ASCII, no NaN).
Imports the standard library only. Source: RFC 8785 in spirit; floats use Python's shortest round-trip form.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(document: Any) -> str:
    """`document` as JSON with sorted keys and no spaces. Raises `ValueError` for NaN and infinities."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def sha256_of_text(text: str) -> str:
    """Hexadecimal SHA-256 of `text` in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(document: Any) -> str:
    """Hexadecimal SHA-256 of the canonical JSON of `document`."""
    return sha256_of_text(canonical_json(document))
