"""The last look at a release before it is certified: does anything private stand in it, word for word?

Guarantees:
- every file is searched for names, ids, paths of this machine, bytes of private files, pixels, whole private
  images and private counts, packed in the ways of `leak_views`;
- what is found is told by file and kind; the words themselves go to `RUN/private/leaks.json` alone.
May import numpy and what reads images; never torch. It finds carelessness, not a model that remembers: that
is what the noise is for.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from dp_diffusers.byte_search import ByteSearch
from dp_diffusers.data.traces import WINDOW, Traces, is_distinctive, picture_digest
from dp_diffusers.errors import VerificationError
from dp_diffusers.leak_views import View, views
from dp_diffusers.privacy.files import release_files

FOUND = "leaks.json"
SMALLEST_COUNT = 1000  # smaller numbers are everywhere
_SURE = 8  # bytes that chance does not make in a file of hundreds of megabytes
_NUMBER = re.compile(rb"(?<![\w.])\d{1,3}(?:[,_ ]\d{3})+(?![\w])|(?<![\w.])\d{4,}(?![\w])")


@dataclass(frozen=True, kw_only=True, repr=False)
class Secrets:
    """What may not be in a release. `public`: words and numbers that are public whatever else they are."""

    traces: Traces
    paths: frozenset[str] = frozenset()
    machine: frozenset[str] = frozenset()
    public_text: str = ""
    public_numbers: frozenset[int] = field(default_factory=frozenset)

    @cached_property
    def kinds(self) -> dict[bytes, tuple[str, str]]:
        """Every way to write a secret text → its kind and the text."""
        named = {
            "the name of a private file": self.traces.names,
            "the id of a unit": self.traces.ids,
            "a path of this machine": self.paths,
            "the name of this machine or its user": self.machine,
        }
        return {
            written: (kind, text)
            for kind, texts in named.items()
            for text in texts
            for written in _spellings(text)
        }

    @cached_property
    def texts(self) -> ByteSearch:
        """Looks for all texts."""
        return ByteSearch(self.kinds)

    @cached_property
    def windows(self) -> ByteSearch:
        """Looks for bytes of private files and pixels."""
        return ByteSearch((row.tobytes() for row in self.traces.windows), start=4, width=8)

    @cached_property
    def counts(self) -> frozenset[int]:
        """Private numbers that are large enough to be told from others."""
        return frozenset(n for n in self.traces.counts if n >= SMALLEST_COUNT) - self.public_numbers


def require_no_leak(
    folder: Path, secrets: Secrets, report: Path, *, also: Mapping[str, bytes] | None = None
) -> None:
    """Searches every file below `folder`, and `also`, as if they lay there.

    Raises `VerificationError` naming each file and the kind of thing in it; `report` then says what exactly.
    """
    found = list(leaks(folder, secrets, also or {}))
    if not found:
        return
    report.write_text(json.dumps([{"file": file, "kind": kind, "what": what} for file, kind, what in found]))
    report.chmod(0o600)
    told = "; ".join(dict.fromkeys(f"{file} holds {kind}" for file, kind, _ in found))
    raise VerificationError(
        f"nothing was certified: {told}",
        hint=f"{report} says what it is and stays private; take its cause away and run the same again, "
        "which costs nothing",
    )


def leaks(
    folder: Path, secrets: Secrets, also: Mapping[str, bytes] | None = None
) -> Iterator[tuple[str, str, str]]:
    """(file, kind, what) of everything private in the files below `folder`; `what` is private itself."""
    named = {name: path for name, path in release_files(folder).items() if path.is_file()}
    for name, path in named.items():
        yield from _in_file(name, path.read_bytes(), secrets)
    for name, content in (also or {}).items():
        yield from _in_file(name, content, secrets)


def _in_file(name: str, content: bytes, secrets: Secrets) -> Iterator[tuple[str, str, str]]:
    found = list(_in_view(View(data=name.encode("utf-8", "replace"), is_text=True), secrets))
    for view in views(content):
        found += _in_view(view, secrets)
    shown = "a file whose name" if any(what in name for _, what in found) else name
    for kind, what in dict.fromkeys(found):
        yield shown, kind, what


def _in_view(view: View, secrets: Secrets) -> Iterator[tuple[str, str]]:
    if view.pixels is not None:
        if picture_digest(view.pixels) in secrets.traces.pictures:
            yield "a private image", "one of the private images, pixel for pixel"
        return
    for place, written in secrets.texts.found(view.data):
        kind, text = secrets.kinds[written]
        if _stands_out(view, place, written) and text not in secrets.public_text:
            yield kind, text
    if next(secrets.windows.found(view.data), None) is not None:
        yield "bytes of a private image", f"{WINDOW} bytes of a private image or of its file"
    if view.is_text and secrets.counts:
        yield from (("a private count", str(number)) for number in _numbers(view.data) & secrets.counts)


def _stands_out(view: View, place: int, written: bytes) -> bool:
    """Whether chance and longer words are ruled out: a word or a number by itself, or something long."""
    before, after = view.data[max(place - 4, 0) : place], view.data[place + len(written) :][:4]
    if len(written) < _SURE and not all(32 <= byte < 127 or byte in b"\t\n\r\0" for byte in before + after):
        return False
    if written.isalnum() and len(written) < 2 * _SURE:
        return not (before[-1:].isalnum() or after[:1].isalnum())
    return True


def _numbers(text: bytes) -> set[int]:
    return {int(re.sub(rb"[,_ ]", b"", number)) for number in _NUMBER.findall(text)}


def _spellings(text: str) -> Iterator[bytes]:
    """A text as bytes: plain, as JSON and as part of an address; UTF-16 where it is more than ASCII."""
    yield text.encode("utf-8", "surrogateescape")
    if not text.isascii() or "\\" in text or '"' in text:
        yield json.dumps(text)[1:-1].encode()
        yield text.encode("utf-16-le", "surrogatepass")
        yield text.encode("utf-16-be", "surrogatepass")
    if quote(text, safe="/") != text:
        yield quote(text, safe="/", errors="replace").encode()


def paths_of(given: Iterable[str | Path | None]) -> frozenset[str]:
    """Absolute paths and those of the folders that they lie in, but for the first level of the disk."""
    found = set()
    for path in (Path(item) for item in given if item):
        for whole in {path.absolute(), path.resolve()}:
            found |= {str(part) for part in (whole, *whole.parents) if len(part.parts) > 2}
    return frozenset(text for text in found if is_distinctive(text))


def machine_names() -> frozenset[str]:
    """Names of this machine, its user and the user's home, where they are distinctive."""
    names = {socket.gethostname(), str(Path.home())}
    with contextlib.suppress(KeyError, OSError):  # a user without a name
        names.add(getpass.getuser())
    return frozenset(name for name in names if is_distinctive(name))


def own_words() -> str:
    """The source of this package: a word that stands in it is no secret of anyone's."""
    place = Path(__file__).parent
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(place.rglob("*.py")))
