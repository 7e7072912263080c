"""The last look at a release before it is certified: does anything private stand in it, word for word?

Guarantees:
- every file is searched for names, ids, paths of this machine, bytes of private files, pixels, whole private
  images and private counts, packed in the ways of `leaks.views`;
- what is found is told by file and kind, of a number not even the kind; the words themselves go to
  `RUN/private/leaks.json` alone.
May import numpy and what reads images; never torch. It finds carelessness, not a model that remembers: that
is what the noise is for. Of pixels it does not find other forms than bytes and float32 in [-1, 1] (such as
float32 in [0, 1], float16, float64, wider integers, lists of numbers), nor every copy that is turned, cut or
changed.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from dp_diffusers.data.traces import WINDOW, Traces, is_distinctive, picture_digest
from dp_diffusers.errors import VerificationError
from dp_diffusers.leaks.byte_search import ByteSearch
from dp_diffusers.leaks.numbers import is_number, numbers_in
from dp_diffusers.leaks.views import View, views
from dp_diffusers.privacy.files import release_files

FOUND = "leaks.json"
SMALLEST_COUNT = 1000  # smaller numbers are everywhere
_SURE = 8  # bytes that chance does not make in a file of hundreds of megabytes
_UNSAID = "something that may be private"  # to call a number private would tell it


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
        """Every way to write a secret text that is no plain number → its kind and the text."""
        return {
            written: (kind, text)
            for kind, texts in self._named.items()
            for text in texts
            if not is_number(text)
            for written in _spellings(text)
        }

    @property
    def has_traces(self) -> bool:
        """Whether private images are among them: a run that notes them notes their number at least."""
        return bool(self.traces.counts)

    def but_for(self, numbers: Iterable[int]) -> Secrets:
        """The same without numbers that are public."""
        return replace(self, public_numbers=self.public_numbers | set(numbers))

    @property
    def _named(self) -> Mapping[str, Iterable[str]]:
        return {
            "the name of a private file": self.traces.names,
            "the id of a unit": self.traces.ids,
            "the caption of an image": self.traces.captions,
            "a path of this machine": self.paths,
            "the name of this machine or its user": self.machine,
        }

    @cached_property
    def texts(self) -> ByteSearch:
        """Looks for all texts."""
        return ByteSearch(self.kinds)

    @cached_property
    def windows(self) -> ByteSearch:
        """Looks for bytes of private files and pixels."""
        return ByteSearch(self.traces.windows, start=4, width=8)

    @cached_property
    def numbers(self) -> dict[int, str]:
        """Private numbers that are large enough to be told from others, each with its kind."""
        found = {int(text): kind for kind, texts in self._named.items() for text in texts if is_number(text)}
        found |= {count: "a private count" for count in self.traces.counts if count >= SMALLEST_COUNT}
        public = self.public_numbers | numbers_in("", self.public_text)
        return {number: kind for number, kind in found.items() if number not in public}


def require_no_leak(
    folder: Path, secrets: Secrets, report: Path, *, also: Mapping[str, bytes] | None = None
) -> None:
    """Searches every file below `folder`, and `also`, as if they lay there.

    Raises `VerificationError` naming each file and the kind of thing in it; `report` then says what exactly.
    """
    found = list(leaks(folder, secrets, also or {}))
    if not found:
        return
    _report(report, [{"file": file, "kind": kind, "what": what} for file, kind, what in found])
    kinds = ((file, _UNSAID if is_number(what) else kind) for file, kind, what in found)
    told = "; ".join(dict.fromkeys(f"{file} holds {kind}" for file, kind in kinds))
    raise VerificationError(
        f"nothing was certified: {told}",
        hint=f"{report} says what it is and stays private; take its cause away and run the same again, "
        "which costs nothing",
    )


def _report(path: Path, found: list[dict[str, str]]) -> None:
    """Writes what was found where its owner alone can read it, from the first byte on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(found, stream)


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
        found += _in_view(view, secrets, name)
    shown = "a file whose name" if any(what in name for _, what in found) else name
    for kind, what in dict.fromkeys(found):
        yield shown, kind, what


def _in_view(view: View, secrets: Secrets, name: str = "") -> Iterator[tuple[str, str]]:
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
    if view.is_text and secrets.numbers:
        written_numbers = numbers_in(name, view.data.decode("utf-8", "replace"))
        yield from ((secrets.numbers[n], str(n)) for n in sorted(written_numbers & secrets.numbers.keys()))


def _stands_out(view: View, place: int, written: bytes) -> bool:
    """Whether chance and longer words are ruled out: a word by itself, or something long."""
    before, after = view.data[max(place - 4, 0) : place], view.data[place + len(written) :][:4]
    if len(written) < _SURE and not all(32 <= byte < 127 or byte in b"\t\n\r\0" for byte in before + after):
        return False
    if written.isalnum() and len(written) < 2 * _SURE:
        fraction = written.isdigit() and before[-1:] == b"."  # of 0.00012345
        return not (fraction or before[-1:].isalnum() or after[:1].isalnum())
    return True


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
    place = Path(__file__).parents[1]
    sources = [path for path in sorted(place.rglob("*")) if path.suffix in (".py", ".html", ".css", ".js")]
    return "\n".join(path.read_text(encoding="utf-8") for path in sources)
