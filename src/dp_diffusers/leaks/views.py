"""What is in a released file, once what packs it is undone: text, bytes and pictures.

Guarantees that every byte of a file is in a view as it lies, and again where it was HTML, UTF-16, base64,
hexadecimal, a value in a parquet file or a picture. May import numpy, PIL and pyarrow; never torch. Other
packing (archives, encryption) is not undone.
"""

from __future__ import annotations

import base64
import binascii
import html
import io
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

_UTF_16 = re.compile(rb"(?:[\x20-\x7e]\x00){5,}[\x20-\x7e]?")
_BASE_64 = re.compile(rb"[A-Za-z0-9+/_-]{8,}")
_HEX = re.compile(rb"[0-9A-Fa-f]{12,}")
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"RIFF")
_SEPARATOR = b"\x00\x00"  # between pieces that did not lie side by side
_DEEPEST = 3  # base64 of a picture that is a value of a parquet file


@dataclass(frozen=True, kw_only=True)
class View:
    """data: bytes to search. is_text: whether they are text. pixels: uint8 `[H, W, C]` of a picture."""

    data: bytes = b""
    is_text: bool = False
    pixels: np.ndarray | None = None


def views(data: bytes, depth: int = 0) -> Iterator[View]:
    """All that can be seen in the bytes of a file."""
    yield View(data=data, is_text=_is_text(data))
    if depth == 0 and b"&" in data and _is_text(data):  # a page writes & < > and quotes in another way
        yield View(data=html.unescape(data.decode()).encode("utf-8", "replace"), is_text=True)
    if depth >= _DEEPEST:
        return
    if data.startswith(_PICTURES):
        yield from _picture(data)
    elif words := _safetensors_words(data):
        yield View(data=words, is_text=True)
    elif data.startswith(b"PAR1"):
        for part in _parquet(data):
            yield from _picture(part) if part.startswith(_PICTURES) else views(part, depth + 1)
        return
    for piece in _unpacked(data):
        yield from views(piece, depth + 1)


def _is_text(data: bytes) -> bool:
    try:
        return b"\x00" not in data.decode("utf-8").encode()
    except UnicodeDecodeError:
        return False


def _unpacked(data: bytes) -> Iterator[bytes]:
    """What UTF-16, base64 and hexadecimal hide, short pieces joined."""
    wide = [run.replace(b"\x00", b"") for run in _UTF_16.findall(data)]
    if wide:
        yield _SEPARATOR.join(wide)
    short: list[bytes] = []
    for piece in [*_from_base64(data), *_from_hex(data)]:
        if piece.startswith(_PICTURES):
            yield piece
        short.append(piece)
    if short:
        yield _SEPARATOR.join(short)


def _from_base64(data: bytes) -> Iterator[bytes]:
    """Every run of base64 letters, read from each of the four places where a group may begin."""
    runs = set(_BASE_64.findall(data))
    if _is_text(data):  # lines may be wrapped
        runs |= set(_BASE_64.findall(re.sub(rb"\s+", b"", data)))
    for run in runs:
        plain = run.replace(b"-", b"+").replace(b"_", b"/")
        for start in range(4):
            groups = plain[start : start + (len(plain) - start) // 4 * 4]
            rest = plain[start + len(groups) :]
            if len(rest) > 1:
                groups += rest + b"=" * (4 - len(rest))
            yield base64.b64decode(groups)


def _from_hex(data: bytes) -> Iterator[bytes]:
    for run in set(_HEX.findall(data)):
        for start in range(2):
            yield binascii.unhexlify(run[start : start + (len(run) - start) // 2 * 2])


def _safetensors_words(data: bytes) -> bytes:
    """Names of tensors and metadata of a safetensors file, without its shapes and offsets; nothing else."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or length > len(data):
        return b""
    try:
        header = json.loads(data[8 : 8 + length])
        named = [name for name in header if name != "__metadata__"]
        pairs = (header.get("__metadata__") or {}).items()
        return "\n".join([*named, *(str(word) for pair in pairs for word in pair)]).encode()
    except (ValueError, AttributeError, RecursionError):
        return b""


def _picture(data: bytes) -> Iterator[View]:
    """The pixels of a picture, in its colours and in others, and the texts that it carries."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            image.load()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return
    carried = [value for pair in image.info.items() for value in pair if isinstance(value, str | bytes)]
    if words := [value.encode("utf-8", "replace") for value in carried if isinstance(value, str)]:
        yield View(data=b"\n".join(words), is_text=True)
    if raw := [value for value in carried if isinstance(value, bytes)]:
        yield View(data=_SEPARATOR.join(raw))
    for mode in (image.mode,) if image.mode in ("L", "RGB") else ("L", "RGB"):
        pixels = np.asarray(image.convert(mode), np.uint8)
        yield View(pixels=pixels.reshape(image.height, image.width, -1))


def _parquet(data: bytes) -> Iterator[bytes]:
    """Metadata and values of a parquet file: those of a column joined, and each picture by itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        yield from (file.schema_arrow.metadata or {}).values()
        for batch in file.iter_batches(batch_size=1024):
            for column in batch.columns:
                yield from _values(column)
    except (pa.ArrowException, OSError):
        return


def _values(column: object) -> Iterator[bytes]:
    import pyarrow as pa

    assert isinstance(column, pa.Array)
    kind = column.type
    if pa.types.is_struct(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        flat = column.flatten()
        for part in flat if pa.types.is_struct(kind) else [flat]:
            yield from _values(part)
        return
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is_string(kind)):
        return
    values = [value.encode() if isinstance(value, str) else value for value in column.to_pylist() if value]
    yield from (value for value in values if value.startswith(_PICTURES))
    if values:
        yield (b"\n" if _is_string(kind) else _SEPARATOR).join([b"", *values])


def _is_string(kind: object) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
