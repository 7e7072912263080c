"""The text of a certificate: one for each document, with a digest that covers every byte of it.

Guarantees:
- a certificate has one text: any other spelling of the same document (spaces, escapes, the order of its
  fields, a key given twice) is a problem that is named;
- `digest` is the SHA-256 of the document as JSON without spaces, its fields in their order, `digest` and
  `signature` null: with the one text, no byte changes unseen.
Imports the standard library only. The digest shows damage, not who issued: that takes a signature.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dp_diffusers.errors import ParameterError
from dp_diffusers.privacy.canonical import sha256_of_text

_FIELD: Final = re.compile(r"[a-z][a-z0-9_]*")

_RESTORE: Final = "restore certificate.json, or make the release again"


def text_of(document: Mapping[str, Any]) -> str:
    """The one text of a document: two spaces of indent, ASCII, fields in its own order."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def digest_of(document: Mapping[str, Any]) -> str:
    """SHA-256 of the document's JSON without spaces, with `digest` and `signature` null, in hexadecimal."""
    emptied = {**document, "digest": None, "signature": None}
    return sha256_of_text(json.dumps(emptied, separators=(",", ":"), allow_nan=False))


def document_in(text: str) -> dict[str, Any]:
    """The JSON object in a text. Raises `ParameterError` where a reader could take it for another.

    A key that is given twice, NaN, infinity, and numbers that no float holds are refused.
    """
    try:
        document = json.loads(
            text, object_pairs_hook=_once, parse_constant=_not_a_number, parse_float=_finite
        )
    except RecursionError as error:
        raise ParameterError("not a certificate: nested too deeply", hint=_RESTORE) from error
    except ValueError as error:
        raise ParameterError(f"not a certificate: {error}", hint=_RESTORE) from error
    if not isinstance(document, dict):
        raise ParameterError("not a certificate: not a JSON object", hint=_RESTORE)
    return document


def problems_of_text(text: str, document: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the text that `document` was read from."""
    digest = document.get("digest")
    if digest is None:
        yield "the certificate's digest is missing"
    elif digest != digest_of(document):
        yield "the certificate was changed: its digest is another"
        return
    if text != text_of(document):
        yield "the certificate is not written as this package writes it: its text was changed"
    strange = [name for name in document if not _FIELD.fullmatch(name)]
    if strange:
        yield f"the certificate has a field called {strange[0]!a}: names are a-z, 0-9 and _"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!a} is given twice")
    return found


def _not_a_number(word: str) -> float:
    raise ValueError(f"{word} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large")
    return value
