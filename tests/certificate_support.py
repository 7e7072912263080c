"""A certificate made to measure, as whoever holds the files can: with a digest that fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dp_diffusers.privacy.assumptions import assumptions_of
from dp_diffusers.privacy.certificate_text import digest_of, text_of
from dp_diffusers.privacy.statements import statements_of


def read(release: Path) -> dict[str, Any]:
    """The certificate of a release, as a plain document."""
    return json.loads((release / "certificate.json").read_text())  # type: ignore[no-any-return]


def forge(release: Path, document: dict[str, Any]) -> None:
    """Writes a document as the certificate of a release; whatever it says, its text is sound."""
    try:
        text = text_of({**document, "digest": digest_of(document)})
    except ValueError:  # NaN: no text of it is sound
        text = json.dumps(document, indent=2) + "\n"
    (release / "certificate.json").write_text(text)


def consistent(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the sentences that follow from its numbers."""
    facts = {"class_names_from_data": False, "multi_owner": False}
    words = {"assumptions": assumptions_of(document, **facts), "statements": statements_of(document, **facts)}
    return {**document, **words}
