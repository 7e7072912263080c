"""Numbers in a release that somebody may have written, apart from those that its structure is made of.

Guarantees that a number counts where it stands by itself in free text, and not where this package writes
numbers by itself: values of its JSON documents, numbered images. May import the standard library only. A
data set with dense ids meets offsets, shapes and numbered files everywhere: those say nothing about it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

_TOKEN: Final = re.compile(r"(?<!\w)(?<!\d\.)(?:\d{1,3}(?:[,_ ]\d{3})+|\d{4,})(?!\w)(?!\.\d)", re.ASCII)
_DOCUMENTS: Final = frozenset({"certificate.json", "adapter/adapter_config.json"})  # their strings are text
# As `images_out` numbers them: at the start of a line or below a folder.
_NUMBERED: Final = re.compile(r"(?:^|(?<=/))(?:\d{6}|[1-9]\d{6,})\.png(?=[\",\r\n]|$)", re.MULTILINE)


def numbers_in(name: str, text: str) -> set[int]:
    """The numbers from 1000 on that stand by themselves in a text of the released file `name`."""
    written = "\n".join(_strings_of(text)) if name in _DOCUMENTS else text
    return {int(re.sub("[,_ ]", "", token)) for token in _TOKEN.findall(_NUMBERED.sub("", written))}


def is_number(text: str) -> bool:
    """Whether a name or an id is a plain number, which only free text can betray.

    A small one that begins with zeros is text: no number is written so, and 123456 alone is not `00123456`.
    """
    return text.isascii() and text.isdecimal() and (text[0] != "0" or int(text) >= 10**6)


def _strings_of(text: str) -> Iterator[str]:
    """Keys and values of a JSON document that are strings; the text itself where it is none."""
    try:
        yield from _strings(json.loads(text))
    except (ValueError, RecursionError):
        yield text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
