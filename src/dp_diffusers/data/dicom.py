"""Images of a folder of DICOM files, with what their headers say: any keyword may be label, unit or caption.

Guarantees a fixed order (sorted names), that a keyword which is missing in a file is refused, and that names,
identifiers and folders which point at people are noted for the leak scan. May import pydicom (inside
functions). Source: DICOM PS3.3 and PS3.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dp_diffusers.data.captions import checked_captions
from dp_diffusers.data.dicom_pixels import quiet, require_pydicom
from dp_diffusers.data.sources import RawImages, is_missing, source
from dp_diffusers.data.unit_ids import checked_ids
from dp_diffusers.data.walking import (
    by_class,
    file_bytes,
    flat,
    is_dicom,
    is_picture,
    names_in_order,
    require_folder,
    telling_folders,
)
from dp_diffusers.errors import DataError, nearest

# Who an image shows, in words that a release may not hold.
_OF_PEOPLE = ("PatientID", "PatientName", "OtherPatientIDs", "AccessionNumber")


@source("dicom")
def read_dicom(path: Path, *, label: str | None, unit: str | None, caption: str | None) -> RawImages:
    """The DICOM images below `path`, one picture each.

    `label`: `folder` (class folders), a DICOM keyword, or None. `unit`, `caption`: keywords such as
    `PatientID`, or None. Raises: `DataError` for a folder without DICOM files or with other pictures,
    an unknown keyword, one that a file lacks, a header that cannot be read.
    """
    require_folder(path)
    require_pydicom()
    files = _files(path, label)
    asked = {"label": None if label == "folder" else label, "unit": unit, "caption": caption}
    keywords = {kind: name for kind, name in asked.items() if name is not None}
    for kind, name in keywords.items():
        _require_keyword(path, kind, name)
    headers = [_header(file, [*keywords.values(), *_OF_PEOPLE]) for file, _ in files]
    names = [str(file.relative_to(path)) for file, _ in files]
    found = {kind: _values(path, kind, name, names, headers) for kind, name in keywords.items()}

    def encoded() -> Iterator[tuple[str, bytes]]:
        for file, _ in files:
            yield str(file), file_bytes(file)

    classes = [name for _, name in files] if label == "folder" else None
    return RawImages(
        count=len(files),
        encoded=encoded,
        labels=classes or (list(map(str, found["label"])) if "label" in found else None),
        typed=classes is not None,
        class_names=names_in_order(set(classes)) if classes else None,
        units=checked_ids(path, str(unit), found["unit"]) if "unit" in found else None,
        captions=checked_captions(str(path), str(caption), found["caption"]) if "caption" in found else None,
        ids=[*_people(headers), *telling_folders(names)],
    )


def _files(path: Path, label: str | None) -> list[tuple[Path, str]]:
    files = by_class(path, is_dicom) if label == "folder" else flat(path, is_dicom)
    if not files:
        raise DataError(f"no DICOM images in {path}", hint="known kinds: .dcm, .dicom, .ima, or no ending")
    others = flat(path, is_picture)
    if others:
        raise DataError(
            f"{path}: another image lies among the DICOM files: {others[0][0].relative_to(path)}",
            hint="one kind of file in a folder; a manifest (.csv) may list both",
        )
    return files


def _require_keyword(path: Path, kind: str, name: str) -> None:
    """Raises: `DataError` for what is no DICOM keyword, with the nearest one."""
    from pydicom.datadict import keyword_dict

    if name not in keyword_dict:
        close = nearest(name, keyword_dict)
        hint = f"did you mean {close!r}?" if close else "a keyword of DICOM PS3.6, such as PatientID"
        raise DataError(f"{path}: no {kind} column {name!r} among the DICOM keywords", hint=hint)


def _header(file: Path, keywords: Sequence[str]) -> Any:
    """What a file says of itself, its pixels left out."""
    from pydicom import dcmread

    try:
        with quiet():
            return dcmread(file, stop_before_pixels=True, specific_tags=list(dict.fromkeys(keywords)))
    except MemoryError:
        raise
    except Exception as error:  # a decoder meets arbitrary bytes, and raises what it likes
        raise DataError(f"image cannot be read: {file}", hint="remove it or replace it") from error


def _values(path: Path, kind: str, name: str, files: list[str], headers: list[Any]) -> list[Any]:
    """A keyword's value of each file, as text, or as a list where it has several."""
    values = [_value(header, name) for header in headers]
    missing = next((file for file, value in zip(files, values) if is_missing(value)), None)
    if missing is not None:
        raise DataError(
            f"{path}: {kind} column {name!r} is empty for {missing}",
            hint="fill in the value, or remove the image",
        )
    return values


def _value(header: Any, keyword: str) -> str | list[str] | None:
    from pydicom.multival import MultiValue

    with quiet():
        value = header.get(keyword)
    if isinstance(value, MultiValue):
        return [str(item).strip() for item in value]
    return None if value is None else str(value).strip()


def _people(headers: list[Any]) -> list[str]:
    """Every word that names a person, and the parts of names."""
    found: set[str] = set()
    for header in headers:
        for keyword in _OF_PEOPLE:
            value = _value(header, keyword)
            texts = value if isinstance(value, list) else [value]
            found.update(part for text in texts if text for part in (text, *text.split("^")))
    return sorted(found)
