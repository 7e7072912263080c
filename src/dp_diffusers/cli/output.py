"""What the command line writes, and where: data to stdout, everything else to stderr.

Guarantees that stdout holds the answer alone (with --json one document), so that it can be piped.
May import the standard library alone. Manners: uv's style guide, NO_COLOR.
"""

from __future__ import annotations

import contextlib
import json as json_library
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass
class Settings:
    """Options of the verb being run: set once per command."""

    json: bool = False
    quiet: bool = False
    out: Path | None = None


settings = Settings()


def configure(*, json: bool = False, quiet: bool = False, out: Path | None = None) -> None:
    """Sets the options of the running verb. `out` is where a crash log would go."""
    settings.json, settings.quiet, settings.out = json, quiet, out


def answer(text: str, document: Mapping[str, Any]) -> None:
    """The result of a verb on stdout: `text`, or `document` as one JSON document with --json."""
    print(json_library.dumps(document, indent=2) if settings.json else text, flush=True)


def say(text: str) -> None:
    """A message on stderr, unless --quiet."""
    if not settings.quiet:
        print(text, file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """A fact on stderr that nobody may miss, under --quiet as well."""
    print(text, file=sys.stderr, flush=True)


def complain(message: str, hint: str | None = None) -> None:
    """An error on stderr: `error: …`, and after a blank line `hint: …`; unsaid where nobody reads."""
    with contextlib.suppress(BrokenPipeError):
        print(f"{_painted('error:', '31')} {message}", file=sys.stderr)
        if hint:
            print(f"\n{_painted('hint:', '36')} {hint}", file=sys.stderr)
        sys.stderr.flush()


def _painted(text: str, code: str) -> str:
    return f"\033[1;{code}m{text}\033[0m" if _colourful(sys.stderr) else text


def _colourful(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
