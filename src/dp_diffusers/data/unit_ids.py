"""Ids of the units in a column: one per image, or a list of them where an image shows several people.

Guarantees: a missing id is refused (an unknown owner cannot be protected); ids are of one type; several ids
in one text are refused instead of becoming one person, where it can be told; so are characters that nobody
sees; one id written in two ways of Unicode, or with blanks, is one person; no error repeats an id. May import
the standard library. Sources: Unicode Standard Annex 15, normalisation form C; Annex 44, the property
Default_Ignorable_Code_Point.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dp_diffusers.data.sources import is_missing
from dp_diffusers.errors import DataError

_ONE_TYPE = "write the ids in one type, so that a person is the same person in each file"
_FILL_IN = "an image of unknown owner cannot be protected: fill in the id, or remove the row"
_AS_LIST = (
    "several people of one image are a list column of a parquet file; a single id has no `;` and no [ ]"
)
_BETWEEN = re.compile(r"[,|/\n]")
# Control, format, private, no character, half of one, and breaks of lines and paragraphs: of these a reader
# sees nothing, or a box that stands for many.
_UNSEEN_KINDS = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
# Letters, marks and signs without ink: what is left of Default_Ignorable_Code_Point, which `unicodedata`
# lacks, and two that are drawn blank.
_NO_INK = (
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x115F, 0x1160),  # fillers of Hangul
    (0x17B4, 0x17B5),  # inherent vowels of Khmer
    (0x180B, 0x180F),  # variation selectors of Mongolian
    (0x2800, 0x2800),  # Braille without a dot
    (0x3164, 0x3164),  # filler of Hangul
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFFA0, 0xFFA0),  # filler of Hangul, half a width
    (0x1D159, 0x1D159),  # null notehead
    (0xE0000, 0xE0FFF),  # tags, more variation selectors, and what is kept free for their like
)


def checked_ids(path: str | Path, name: str, values: list[Any]) -> list[object]:
    """The ids of a column: one an image, or for a list column as tuples, distinct and sorted.

    Blanks around a text belong to no id, here as in a CSV file: `p1` and `p1 ` are one person. So are two
    writings of one text in Unicode; bytes are compared as they are.

    Raises: `DataError` for missing ids, an empty list, ids of several types or of a kind that is no id,
    a text that holds several or an unseen character.
    """
    values = [[_text(item) for item in each] if isinstance(each, list) else _text(each) for each in values]
    missing = next((row for row, value in enumerate(values) if _has_gap(value)), None)
    if missing is not None:
        raise DataError(
            f"{path}: unit column {name!r} is missing in row {missing} (counted from 0)",
            hint=_FILL_IN,
        )
    _one_type(path, name, values)
    if not isinstance(values[0], list):
        _whole_ids(path, name, [[value] for value in values])
        return [same_id(value) for value in values]
    _one_type(path, name, (item for value in values for item in value))
    _whole_ids(path, name, values)
    return [tuple(sorted(set(map(same_id, value)))) for value in values]


def same_id(value: Any) -> Any:
    """An id as it is compared: of a text the composed form, without blanks around it."""
    return unicodedata.normalize("NFC", value).strip() if isinstance(value, str) else value


def require_single(
    path: str | Path, name: str, values: Sequence[Sequence[object]], place: Callable[[int], str]
) -> None:
    """Raises: `DataError` for a text that holds several ids, or a character that nobody sees.

    values: the ids of each image. place: what an error calls the image of a number.
    """
    known = {same_id(value) for each in values for value in each}
    for row, each in enumerate(values):
        if any(_is_joined(value, known) for value in each):
            raise DataError(
                f"{path}: unit column {name!r} holds several ids in one text, first {place(row)}",
                hint=_AS_LIST,
            )
        if any(map(_has_unseen, each)):
            raise DataError(
                f"{path}: unit column {name!r} holds a character that nobody sees, first {place(row)}",
                hint="take it out: ids that look alike would be two people",
            )


def _is_joined(value: object, known: set[object]) -> bool:
    """Whether a text holds several ids: `p1;p2`, a list written out, or others of `known` in a row."""
    if not isinstance(value, str):
        return False
    text = value.strip()
    if ";" in text or (text.startswith("[") and text.endswith("]")):
        return True
    parts = [same_id(part) for part in _BETWEEN.split(text)]
    return len(parts) > 1 and known.issuperset(parts)


def _has_unseen(value: object) -> bool:
    """Whether a text holds a character that leaves no mark of its own on a page."""
    text = same_id(value)
    if not isinstance(text, str) or (text.isascii() and text.isprintable()):
        return False
    return any(map(_is_unseen, text))


def _is_unseen(sign: str) -> bool:
    if unicodedata.category(sign) in _UNSEEN_KINDS:
        return True
    return any(first <= ord(sign) <= last for first, last in _NO_INK)


def _text(value: Any) -> Any:
    """Bytes as hexadecimal text: digests are no UTF-8, and whether one is may not decide for the others."""
    return value.hex() if isinstance(value, bytes) else value


def _has_gap(value: object) -> bool:
    if isinstance(value, list):
        return not value or any(map(is_missing, value))
    return is_missing(value)


def _one_type(path: str | Path, name: str, values: Iterable[object]) -> None:
    kinds = sorted({type(value).__name__ for value in values})
    if len(kinds) > 1:  # one person as 7 in one file and "7" in another would be two
        raise DataError(
            f"{path}: unit column {name!r} is of {' and '.join(kinds)} in different files", hint=_ONE_TYPE
        )


def _whole_ids(path: str | Path, name: str, values: Sequence[Sequence[object]]) -> None:
    if isinstance(values[0][0], dict | list | tuple):
        raise DataError(
            f"{path}: expected unit column {name!r} to hold numbers or text, or lists of them",
            hint="one level of lists: an image has an id, or a list of ids",
        )
    require_single(path, name, values, lambda row: f"in row {row} (counted from 0)")
