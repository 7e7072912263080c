"""From the bytes of a DICOM file to a picture of 8 bits.

Guarantees that what a pixel becomes follows from its own file or from a public window, never from other
images: the window of the recipe, else the file's own, else the full range of the stored bits. May import
numpy, PIL and pydicom (inside functions). Source: DICOM PS3.3, C.7.6.3 and C.11.2.1.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from dp_diffusers.errors import DataError

Window: TypeAlias = Sequence[float]  # center and width, in units of the rescaled values
Shape: TypeAlias = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
_REPLACE = "remove it or replace it"
_GREY = ("MONOCHROME1", "MONOCHROME2")


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom warns of odd values by printing them: nothing of a header is for the screen."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)


def require_pydicom() -> None:
    """Raises: `DataError` where the optional library is not installed."""
    if find_spec("pydicom") is None:
        raise DataError("DICOM images need pydicom", hint="pip install 'dp-diffusers[dicom]'")


def dicom_picture(data: bytes, name: str, window: Window | None) -> Image.Image:
    """The only frame of a DICOM file, grey or RGB, 8 bits. `window`: center and width instead of the file's.

    Raises: `DataError` naming the image: several frames, a palette, a compression without a decoder, damage.
    """
    require_pydicom()
    try:
        with quiet():
            return _picture(data, name, window)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a decoder meets arbitrary bytes, and raises what it likes
        raise DataError(f"image cannot be read: {name}", hint=_REPLACE) from error


def _picture(data: bytes, name: str, window: Window | None) -> Image.Image:
    from pydicom import dcmread

    file = dcmread(io.BytesIO(data))
    _require_one_plain_picture(file, name)
    pixels = _pixels(file, name)
    if pixels.ndim == 3:
        return Image.fromarray(_eight_bits(pixels, int(file.BitsStored)), "RGB")
    grey = windowed(_rescaled(file, pixels), *_window(file, window))
    if file.PhotometricInterpretation == "MONOCHROME1":  # its smallest value is white
        grey = 255 - grey
    return Image.fromarray(grey, "L")


def windowed(values: np.ndarray, window: Window, shape: Shape = "LINEAR") -> np.ndarray:
    """float `[H, W]` as uint8: values below the window are 0, above it 255 (C.11.2.1.2 and C.11.2.1.3)."""
    center, width = window
    if shape == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    elif shape == "LINEAR_EXACT":
        share = (values - center) / width + 0.5
    elif width <= 1:
        share = np.where(values > center - 0.5, 1.0, 0.0)
    else:
        share = (values - (center - 0.5)) / (width - 1) + 0.5
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def _require_one_plain_picture(file: Any, name: str) -> None:
    frames = int(file.get("NumberOfFrames") or 1)
    if frames > 1:
        raise DataError(
            f"image has {frames} frames: {name}", hint="store one picture of it, or each as an image"
        )
    if "PixelData" not in file:
        raise DataError(f"DICOM file holds no 8 or 16 bit picture: {name}", hint=_REPLACE)
    kind = file.PhotometricInterpretation
    if kind not in _GREY and not (kind == "RGB" or kind.startswith("YBR")):
        raise DataError(f"DICOM image of kind {kind}: {name}", hint="store it as MONOCHROME2 or RGB")
    if kind in _GREY and "ModalityLUTSequence" in file:
        raise DataError(
            f"DICOM image with a ModalityLUTSequence: {name}", hint="store it with RescaleSlope instead"
        )


def _pixels(file: Any, name: str) -> np.ndarray:
    """`[H, W]`, or `[H, W, 3]` in RGB. Raises: `DataError` for a compression that nothing here decodes."""
    from pydicom.pixels import pixel_array

    syntax = file.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        from pydicom.pixels import get_decoder

        if not get_decoder(syntax).is_available:
            raise DataError(
                f"DICOM image compressed as {syntax.name}, which nothing installed decodes: {name}",
                hint="pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg; or store it uncompressed",
            )
    return np.asarray(pixel_array(file))


def _rescaled(file: Any, pixels: np.ndarray) -> np.ndarray:
    """Stored values as what they measure, float64 `[H, W]`."""
    slope, intercept = _number(file, "RescaleSlope", 1.0), _number(file, "RescaleIntercept", 0.0)
    return np.asarray(pixels * slope + intercept, np.float64)


def _window(file: Any, given: Window | None) -> tuple[Window, Shape]:
    """The window and how it bends: the given one, the file's first one, else the range of the stored bits."""
    if given is not None:
        return given, "LINEAR_EXACT"
    center, width = _number(file, "WindowCenter"), _number(file, "WindowWidth")
    if center is not None and width is not None and width > 0:
        shapes: dict[object, Shape] = {"LINEAR_EXACT": "LINEAR_EXACT", "SIGMOID": "SIGMOID"}
        return (center, width), shapes.get(file.get("VOILUTFunction"), "LINEAR")
    bits, signed = int(file.BitsStored), bool(file.PixelRepresentation)
    lowest = -(2 ** (bits - 1)) if signed else 0
    ends = _rescaled(file, np.array([lowest, lowest + 2**bits - 1]))
    return (float(ends.mean()), float(np.ptp(ends))), "LINEAR_EXACT"


def _number(file: Any, keyword: str, default: Any = None) -> Any:
    """A finite number of the header, the first where there are several."""
    value = file.get(keyword)
    if value is None or value == "":
        return default
    value = value[0] if not isinstance(value, str) and hasattr(value, "__len__") else value
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(keyword)
    return number


def _eight_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Colours by their high byte."""
    return (pixels.astype(np.uint32) >> max(bits - 8, 0)).astype(np.uint8)
