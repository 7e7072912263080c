"""DICOM: values, windows and kinds against pydicom's own arithmetic, and each thing that can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.pixels import apply_rescale, apply_windowing
from pydicom.uid import JPEG2000Lossless

from dp_diffusers.data import dicom_pixels
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import DataError, ParameterError
from source_support import dicom_file

RAMP = np.arange(0, 64 * 64, dtype=np.uint16).reshape(64, 64)
CT: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": "1", "RescaleIntercept": "-1024"}


def read(path: Path, **options: Any) -> np.ndarray:
    return PrivateImages.open(path, **options).images[:, :, :, 0]


@pytest.mark.parametrize("shape", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [("40", "400"), ("-600.5", "1500"), (["40", "50"], ["2", "9"])])
@pytest.mark.filterwarnings("ignore:overflow")  # in pydicom's own sigmoid
def test_a_files_own_window_is_pydicoms(shape: str | None, center: Any, width: Any, tmp_path: Path) -> None:
    dicom_file(tmp_path / "a.dcm", RAMP, **CT, WindowCenter=center, WindowWidth=width, VOILUTFunction=shape)
    file = dcmread(tmp_path / "a.dcm")
    windowed = apply_windowing(apply_rescale(file.pixel_array, file), file)
    # pydicom's window ends at the values of the least and the greatest stored number
    expected = 255 * (windowed + 1024) / 4095
    assert np.abs(read(tmp_path)[0] - expected).max() <= 0.5 + 1e-6


def test_a_window_one_wide_is_a_threshold(tmp_path: Path) -> None:
    dicom_file(tmp_path / "a.dcm", RAMP, WindowCenter="100", WindowWidth="1")
    assert np.array_equal(read(tmp_path)[0], np.where(RAMP >= 100, 255, 0))


@pytest.mark.parametrize(
    ("kind", "bits", "low", "high"),
    [("uint16", 12, 0, 4095), ("uint16", 16, 0, 65535), ("int16", 12, -2048, 2047)],
)
def test_guarantee_without_a_window_the_range_is_that_of_the_stored_bits(
    kind: str, bits: int, low: int, high: int, tmp_path: Path
) -> None:
    """Whatever other images hold: a range that is taken from the data would tell of the brightest one."""
    pixels = np.full((8, 8), (low + high + 1) // 2, kind)
    pixels[0, :2] = low, high
    dicom_file(tmp_path / "a.dcm", pixels, BitsStored=bits, HighBit=bits - 1)
    alone = read(tmp_path)[0]
    assert alone[0, :3].tolist() == [0, 255, 128]
    dicom_file(tmp_path / "b.dcm", np.full((8, 8), high, kind), BitsStored=bits, HighBit=bits - 1)
    dicom_file(tmp_path / "c.dcm", np.full((8, 8), low, kind), BitsStored=bits, HighBit=bits - 1)
    assert np.array_equal(read(tmp_path)[0], alone)
    assert read(tmp_path)[1:, 0, 0].tolist() == [255, 0]


@pytest.mark.planted
def test_a_planted_range_of_the_image_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = dicom_pixels.windowed

    def stretched(values: np.ndarray, window: Any, shape: Any = "LINEAR") -> np.ndarray:
        return real(values, (float(values.mean()), float(np.ptp(values)) or 1.0), shape)

    monkeypatch.setattr(dicom_pixels, "windowed", stretched)
    with pytest.raises(AssertionError):
        test_guarantee_without_a_window_the_range_is_that_of_the_stored_bits("uint16", 12, 0, 4095, tmp_path)


def test_rescaling_without_a_window_changes_nothing_but_its_sign(tmp_path: Path) -> None:
    dicom_file(tmp_path / "a.dcm", RAMP, **CT)
    dicom_file(tmp_path / "b.dcm", RAMP, BitsStored=12, HighBit=11)
    plain, rescaled = read(tmp_path)
    assert np.array_equal(plain, rescaled)


def test_the_recipes_window_goes_before_the_files(tmp_path: Path) -> None:
    dicom_file(tmp_path / "a.dcm", RAMP, **CT, WindowCenter="0", WindowWidth="1")
    found = read(tmp_path, window=[40, 400])[0].astype(int)
    expected = np.rint(255 * np.clip((RAMP.astype(float) - 1024 + 160) / 400, 0, 1))
    assert np.abs(found - expected).max() <= 1


def test_monochrome1_is_white_where_it_is_small(tmp_path: Path) -> None:
    dicom_file(tmp_path / "a.dcm", RAMP, BitsStored=12, HighBit=11)
    dicom_file(tmp_path / "b.dcm", RAMP, BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1")
    plain, inverted = read(tmp_path)
    assert np.array_equal(inverted, 255 - plain)


def test_colours_stay_colours(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :, 1] = 200
    dicom_file(tmp_path / "a.dcm", pixels)
    assert PrivateImages.open(tmp_path).images[0, 0, 0].tolist() == [0, 200, 0]


def test_files_without_an_ending_are_known_by_their_mark(tmp_path: Path) -> None:
    for name in ("deep/IM0001", "1.2.840.4711"):
        dicom_file(tmp_path / name, RAMP)
    dicom_file(tmp_path / "DICOMDIR", RAMP)
    (tmp_path / "README").write_text("no image")
    assert len(read(tmp_path)) == 2


def test_a_manifest_may_list_dicom(tmp_path: Path) -> None:
    dicom_file(tmp_path / "scans" / "a.dcm", RAMP)
    (tmp_path / "list.csv").write_text("path,person\nscans/a.dcm,p1\n")
    data = PrivateImages.from_csv(tmp_path / "list.csv", label=None, unit="person", window=(32768, 65536))
    assert data.images.shape == (1, 64, 64, 1)


def test_a_window_is_for_the_dicom_files_of_a_mixed_manifest(tmp_path: Path) -> None:
    """Wherever they stand in it; pictures stay as they are."""
    dicom_file(tmp_path / "b.dcm", RAMP)
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(tmp_path / "a.png")
    for rows in ("a.png\nb.dcm", "b.dcm\na.png"):
        (tmp_path / "list.csv").write_text(f"path\n{rows}\n")
        data = PrivateImages.from_csv(tmp_path / "list.csv", label=None, window=(100.5, 2))
        film, scan = sorted(data.images[..., 0], key=lambda pixels: int(np.ptp(pixels)))
        assert (film == 77).all()
        assert set(np.unique(scan)) >= {0, 255}


def test_a_window_without_any_dicom_file_is_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path\na.png\n")
    with pytest.raises(DataError, match=r"data\.window has no effect: none of the images is DICOM"):
        PrivateImages.from_csv(tmp_path / "list.csv", label=None, window=(40, 400))


def test_class_folders(tmp_path: Path) -> None:
    for name, finding in (("well/a.dcm", 1), ("ill/b.dcm", 2)):
        dicom_file(tmp_path / name, RAMP, PatientID=f"patient {finding}")
    data = PrivateImages.from_dicom(tmp_path, label="folder", unit="PatientID", classes=["well", "ill"])
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]
    assert PrivateImages.open(tmp_path, label="auto").labels is None, "folders may be called like people"


def test_labels_of_a_keyword_may_be_numbers(tmp_path: Path) -> None:
    for number in (1, 0):
        dicom_file(tmp_path / f"{1 - number}.dcm", RAMP, SeriesNumber=str(number))
    data = PrivateImages.from_dicom(tmp_path, label="SeriesNumber")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]


def test_guarantee_words_that_name_people_are_noted_whatever_the_unit(tmp_path: Path) -> None:
    header = {"PatientID": "clinic-0815", "PatientName": "Mustermann^Erika", "AccessionNumber": "A-00471101"}
    dicom_file(tmp_path / "mustermann-1954" / "images" / "a.dcm", RAMP, **header)
    ids = PrivateImages.open(tmp_path).traces.ids
    assert {"clinic-0815", "Mustermann", "A-00471101", "mustermann-1954"} <= ids
    assert "images" not in ids


BAD: list[tuple[str, np.ndarray, dict[str, Any], str]] = [
    (
        "frames",
        np.stack([RAMP] * 3),
        {"NumberOfFrames": 3, "Rows": 64, "Columns": 64},
        "image has 3 frames: .*a.dcm",
    ),
    ("palette", RAMP, {"PhotometricInterpretation": "PALETTE COLOR"}, "of kind PALETTE COLOR: .*a.dcm"),
    ("no pixels", RAMP, {"PixelData": None}, "holds no 8 or 16 bit picture: .*a.dcm"),
    ("too few pixels", RAMP, {"PixelData": bytes(64)}, "image cannot be read: .*a.dcm"),
    ("no number", RAMP, {"BitsStored": None}, "image cannot be read: .*a.dcm"),
    ("not square", RAMP[:32], {}, "expected square images, got 64x32"),
]


@pytest.mark.parametrize(("name", "pixels", "header", "message"), BAD, ids=[row[0] for row in BAD])
def test_what_is_no_picture_is_named(
    name: str, pixels: np.ndarray, header: dict[str, Any], message: str, tmp_path: Path
) -> None:
    dicom_file(tmp_path / "a.dcm", pixels, **header)
    with pytest.raises(DataError, match=message) as caught:
        PrivateImages.open(tmp_path)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_compression_that_nothing_decodes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dicom_file(tmp_path / "a.dcm", RAMP)
    file = dcmread(tmp_path / "a.dcm")
    file.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + b"\xfe\xff\x00\xe0\x04\x00\x00\x00abcd"
    file["PixelData"].is_undefined_length = True
    file["PixelData"].VR = "OB"
    file.file_meta.TransferSyntaxUID = JPEG2000Lossless
    file.save_as(tmp_path / "a.dcm")
    monkeypatch.setattr(type(_decoder()), "is_available", property(lambda decoder: False))
    with pytest.raises(
        DataError, match=r"compressed as JPEG 2000 .*, which nothing installed decodes: .*a.dcm"
    ):
        PrivateImages.open(tmp_path)


def _decoder() -> Any:
    from pydicom.pixels import get_decoder

    return get_decoder(JPEG2000Lossless)


def test_other_pictures_in_the_folder_are_refused(tmp_path: Path) -> None:
    dicom_file(tmp_path / "a.dcm", RAMP)
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"another image lies among the DICOM files: b\.png"):
        PrivateImages.open(tmp_path)


def test_a_damaged_header_is_named_and_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.dcm").write_bytes(b"secret" * 50)
    with pytest.raises(DataError, match=r"image cannot be read: .*a\.dcm"):
        PrivateImages.open(tmp_path, unit="PatientID")
    said = capsys.readouterr()
    assert said.out + said.err == ""


def test_without_pydicom_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dicom_file(tmp_path / "a.dcm", RAMP)
    monkeypatch.setattr(dicom_pixels, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="DICOM images need pydicom") as caught:
        PrivateImages.open(tmp_path)
    assert "dp-diffusers[dicom]" in str(caught.value.hint)


@pytest.mark.parametrize("window", [(40, 0), (40, -1), (40,), (40, float("nan"))])
def test_a_window_that_is_none(window: Any, tmp_path: Path) -> None:
    dicom_file(tmp_path / "a.dcm", RAMP)
    with pytest.raises(ParameterError, match="expected window to be a center and a width above 0"):
        PrivateImages.from_dicom(tmp_path, window=window)
