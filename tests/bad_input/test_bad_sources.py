"""Bad manifests, DICOM files, Hugging Face data sets and captions: refused with nothing spent."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_rows import Row, Spoil, both, check
from faults import encoded, table
from test_bad_data import row, world

from loop_support import cheap_trainings
from source_support import Row as Film
from source_support import dicom_file, saved

HEAD = ["path", "patient", "label", "text"]
A, B = ["a.png", "p1", "0", "a shadow"], ["b.png", "p2", "1", "no shadow"]
FILM = np.arange(64, dtype=np.uint16).reshape(8, 8)


def manifest(*lines: list[str], name: str = "list.csv") -> Spoil:
    """Two images and a manifest of these lines."""

    def write(folder: Path) -> None:
        for image in ("a.png", "b.png"):
            (folder / image).write_bytes(encoded())
        with (folder / name).open("w", newline="") as stream:
            csv.writer(stream, delimiter="\t" if name.endswith("tsv") else ",").writerows(lines)

    return write


def films(*headers: dict[str, Any], pixels: np.ndarray = FILM) -> Spoil:
    """A folder of DICOM files, one for each header."""

    def write(folder: Path) -> None:
        for number, header in enumerate(headers):
            dicom_file(folder / "films" / f"{number}.dcm", pixels, **header)

    return write


def hf(**state: Any) -> Spoil:
    """A folder of `save_to_disk`; `state` replaces what its state.json says."""

    def write(folder: Path) -> None:
        (folder / "saved").mkdir()
        saved(folder / "saved", [Film(name="a.png", label="0"), Film(name="b.png", label="1")])
        path = folder / "saved" / "state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **state}))

    return write


LIST, SAVED = "data.path=list.csv", "data.path=saved"
FILMS = "data.path=films data.label=null"
UNIT = "budget.unit=patient"
PATIENT = "budget.unit=PatientID"
MANIFESTS = [
    row("manifest of no image", manifest(HEAD), "no images in .*list.csv", "no rows", LIST),
    row(
        "manifest without the unit",
        manifest(HEAD, A),
        "no unit column 'pateint' among patient, label, text",
        "'patient'",
        f"{LIST} budget.unit=pateint",
    ),
    row(
        "manifest row of no owner",
        manifest(HEAD, A, ["b.png", "", "1", "x"]),
        "unit column 'patient' is empty for b.png",
        "fill in",
        f"{LIST} {UNIT}",
    ),
    row(
        "manifest of one image by two names",
        both(manifest(HEAD, A, ["films/../a.png", *A[1:]]), films({})),
        r"a.png and films/\.\./a.png are one file",
        "keep one",
        LIST,
    ),
    row(
        "manifest of an image that is not there",
        manifest(HEAD, ["c.png", *A[1:]]),
        "image cannot be read: .*c.png: No such file",
        "put it there",
        LIST,
    ),
    row(
        "manifest line too short",
        manifest(HEAD, A[:2]),
        r"list.csv:2: expected 4 values, got 2",
        "quotes",
        LIST,
    ),
]
DICOMS = [
    row(
        "DICOM of no patient",
        films({"PatientID": "p1"}, {}),
        "unit column 'PatientID' is empty for 1.dcm",
        "fill in",
        f"{FILMS} {PATIENT}",
    ),
    row(
        "DICOM keyword misspelt",
        films({}),
        "no unit column 'PatientId' among the DICOM keywords",
        "'PatientID'",
        f"{FILMS} budget.unit=PatientId",
    ),
    row(
        "DICOM of several frames",
        films({"NumberOfFrames": 3}, pixels=np.stack([FILM] * 3).reshape(3, 8, 8)),
        "image has 3 frames: .*0.dcm",
        "each as an image",
        FILMS,
    ),
    row(
        "DICOM among pictures",
        both(films({}), lambda folder: (folder / "films" / "a.png").write_bytes(encoded())),
        "another image lies among the DICOM files: a.png",
        "manifest",
        FILMS,
    ),
    row(
        "a window for pictures",
        table(),
        "data.window has no effect: none of the images is DICOM",
        "leave data.window out",
        "data.window=[40,400]",
    ),
    row("a window of one number", table(), r"\[center, width\] .* got \[40.0\]", "soft", "data.window=[40]"),
    row("a window without width", table(), "with a width above 0", "soft", "data.window=[40,0]"),
]
HUGGING_FACE = [
    row("saved files damaged", hf(_data_files=3), "state.json is damaged", "again", SAVED),
    row(
        "several saved splits",
        both(hf(), lambda folder: (folder / "dataset_dict.json").write_text("{}")),
        "holds several splits: saved",
        "data.path names one",
        "data.path=.",
    ),
    row(
        "a hub without a name",
        table(),
        r"expected hf://owner/name\[:split\], got hf://x",
        "owner",
        "data.path=hf://x",
    ),
    row(
        "no ledger of a hub",
        table(),
        "to name a file, since data.path is hf://",
        "one file",
        "data.path=hf://a/b budget.ledger=null",
    ),
]
CAPTIONS = [
    row(
        "captions twice",
        table(),
        "one of data.caption and",
        "text for each",
        "data.caption=x data.caption_column=label",
    ),
    row(
        "caption of another field",
        table(),
        "unknown {lable} in 'x-{lable}'",
        "{label}",
        "data.caption=x-{lable}",
    ),
    row(
        "caption of no label",
        table(),
        "but there are no labels",
        "column",
        "data.label=null data.caption=of-{label}",
    ),
    row("caption column empty", table(), "caption_column not to be empty", "text", "data.caption_column=''"),
    row(
        "caption of a model of labels",
        table(),
        "takes no text, but data.caption is given",
        "leave it out",
        "data.caption=x",
    ),
    row(
        "texts for a model of labels",
        table(text=["a", "b"]),
        "takes no text, but data.caption_column is given",
        "leave it out",
        "data.caption_column=text",
    ),
]
ROWS = [*MANIFESTS, *DICOMS, *HUGGING_FACE, *CAPTIONS]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_sources(row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    cheap_trainings(monkeypatch.setattr)
    # the dry run and the search for redone steps come before the images, and know nothing of them
    monkeypatch.setattr("dp_diffusers.run.running.rehearse_arranged", lambda family, runtime: None)
    monkeypatch.setattr(
        "dp_diffusers.privacy.ledger.first_limit", lambda curve, cost, steps, room: (steps, cost)
    )
    world(tmp_path)
    check(row, tmp_path, capsys)
