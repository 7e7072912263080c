"""From encoded images to one uint8 array of one size and one number of channels.

Guarantees that every image has the same shape, that there are as many as were counted, that a size or colour
change is said, and that an image which cannot be read is named. May import numpy and PIL, and pydicom through
`dicom_pixels`; never torch.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from dp_diffusers.data.dicom_pixels import Window, dicom_picture
from dp_diffusers.data.pixel_room import Room, in_memory
from dp_diffusers.data.walking import is_dicom_data
from dp_diffusers.errors import DataError, ParameterError

Resize = Literal["fit", "crop"]
RESIZE = "data.resize: fit (pad to a square) or crop (cut to a square)"
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F"})


@dataclass(kw_only=True)
class Decoder:
    """What images must become; `size` or `channels` None takes those of the first image.

    window: center and width of the values of a DICOM image that become black to white; pictures beside them
    stay as they are, and without any DICOM image it is refused, if `needs_dicom`. squares: what to do about
    images that are no squares, or of several sizes, in an error. room: makes the array, uint8 of a shape.
    alike: where `size` or `channels` is None all images must have those of the first, or they are refused:
    no private image may decide what becomes of the others.
    """

    size: int | None = None
    channels: int | None = None
    resize: Resize | None = None
    window: Window | None = None
    needs_dicom: bool = True
    squares: str = RESIZE
    room: Room = in_memory
    alike: bool = False
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 3):
            raise ParameterError(f"expected channels to be 1 or 3, got {self.channels}")
        if self.resize not in (None, "fit", "crop"):
            raise ParameterError(f"expected resize to be fit, crop or null, got {self.resize!r}")
        if self.window is not None and not (len(self.window) == 2 and self.window[1] > 0):
            raise ParameterError(
                f"expected window to be a center and a width above 0, got {self.window}",
                hint="in units of the rescaled values, such as [40, 400] for soft tissue",
            )
        self._sizes: dict[tuple[int, int], str] = {}
        self._colours: dict[int, str] = {}
        self._alike_in_size = self.alike and self.size is None
        self._alike_in_colour = self.alike and self.channels is None
        self._met_dicom = False

    def decode(self, encoded: Iterable[tuple[str, bytes]], count: int) -> np.ndarray:
        """Returns: uint8 `[count, H, W, C]`. Raises: `DataError` naming the image, or for another count."""
        images: np.ndarray | None = None
        for index, (name, data) in enumerate(exactly(encoded, count)):
            image = self._shaped(self._coloured(self._open(name, data), name), name)
            pixels = np.asarray(image, np.uint8).reshape(image.height, image.width, -1)
            if images is None:
                images = self.room((count, *pixels.shape))
            images[index] = pixels
        if images is None:
            raise DataError("no images")
        if self.window is not None and self.needs_dicom and not self._met_dicom:
            raise DataError(
                "data.window has no effect: none of the images is DICOM", hint="leave data.window out"
            )
        self._say(images.shape[1:])
        return images

    @property
    def windowed(self) -> bool:
        """Whether `window` has decided how an image came out."""
        return self.window is not None and self._met_dicom

    def _open(self, name: str, data: bytes) -> Image.Image:
        if is_dicom_data(data):
            self._met_dicom = True
            return dicom_picture(data, name, self.window)
        return _open(name, data)

    def _coloured(self, image: Image.Image, name: str) -> Image.Image:
        """Grey or RGB, as asked; the first image decides where nothing is asked."""
        own = 1 if image.mode in _GREY_MODES else 3
        self._colours.setdefault(own, name)
        if self._alike_in_colour and len(self._colours) > 1:
            raise DataError(
                f"images of grey ({self._colours[1]}) and of colour ({self._colours[3]})",
                hint="say what they are to become: channels=1 or channels=3, the model's number",
            )
        self.channels = self.channels or own
        image = _eight_bits(image) if own == 1 else image
        if image.mode in {"LA", "PA", "RGBA", "P"} or "transparency" in image.info:
            image = _on_black(image)
        return image.convert("L" if self.channels == 1 else "RGB")

    def _shaped(self, image: Image.Image, name: str) -> Image.Image:
        self._sizes.setdefault(image.size, name)
        if self.resize is None and len(self._sizes) > 1:
            raise _mixed(self._sizes, self.squares)
        if self._alike_in_size and len(self._sizes) > 1:
            raise _mixed(
                self._sizes, "say what they are to become: size=64, say, the side of the model's images"
            )
        if self.size is None:
            self.size = (
                image.width if self.resize is None and image.width == image.height else min(image.size)
            )
            if self.resize is None and image.width != image.height:
                raise _not_square(image.size, name, self.squares)
        target = (self.size, self.size)
        if image.size == target:
            return image
        if self.resize is None and image.width != image.height:
            raise _not_square(image.size, name, self.squares)
        if self.resize == "fit":
            return ImageOps.pad(image, target, Image.Resampling.BICUBIC, color=0)
        return ImageOps.fit(image, target, Image.Resampling.BICUBIC)

    def _say(self, shape: tuple[int, ...]) -> None:
        """Notes the same for every data set that is accepted under one setting: no image changes them.

        Without `resize` all images have one size, or they are refused; grey and RGB may be mixed, unsaid.
        """
        target = f"{shape[1]}x{shape[0]}"
        if self.resize is not None:
            self.notes.append(f"images of another size would be brought to {target} ({self.resize})")
        elif (own := "x".join(map(str, next(iter(self._sizes))))) != target:
            self.notes.append(f"images resized from {own} to {target}")


def exactly(encoded: Iterable[tuple[str, bytes]], count: int) -> Iterator[tuple[str, bytes]]:
    """The same images. Raises: `DataError` unless they are `count`: owners would be those of others."""
    came = 0
    for image in encoded:
        came += 1
        if came > count:
            break
        yield image
    if came != count:
        raise DataError(
            f"the source yields {'fewer' if came < count else 'more'} images than it had when it was opened",
            hint="read it again once nobody writes to it",
        )


def _open(name: str, data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PIL says of a file is the file's own, and private
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            # the second picture of an MPO is its preview
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            image.load()
            turned = _turned(image)
    except MemoryError:
        raise
    except Exception as error:  # a decoder meets arbitrary bytes, and raises what it likes
        raise DataError(f"image cannot be read: {name}", hint="remove it or replace it") from error
    if frames > 1:
        raise DataError(
            f"image has {frames} frames: {name}", hint="store one picture of it, or each as an image"
        )
    _require_levels(image, name)
    return turned


def _turned(image: Image.Image) -> Image.Image:
    """The right way up, as EXIF says; where that cannot be read, as it is stored."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a reader of arbitrary bytes raises what it likes
        return image


def _require_levels(image: Image.Image, name: str) -> None:
    """Raises `DataError` for values that are no levels of grey: nobody said which are black and white."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):  # of PNG they are 16 bits
        raise DataError(
            f"image holds values of another range than 8 or 16 bits: {name}",
            hint="store it as grey of 8 or 16 bits, with the black and white that you mean",
        )


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey by its high byte: `convert` alone would clip everything above 255 to white.

    A level that stands for transparent (tRNS of PNG) is black: its high byte is that of other levels, too.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        clear = image.info.get("transparency")
        values = np.where(values == clear, 0, values) if isinstance(clear, int) else values
        return Image.fromarray((np.clip(values, 0, 65535) >> 8).astype(np.uint8))
    return image


def _on_black(image: Image.Image) -> Image.Image:
    """Transparent pixels become black, others darker by how transparent they are; palettes become colours.

    What colour hides behind a transparent pixel is undefined. One level or colour may stand for it, too.
    """
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)


def _mixed(sizes: dict[tuple[int, int], str], hint: str) -> DataError:
    (one, first), (two, second) = list(sizes.items())[:2]
    return DataError(
        f"images of mixed sizes: {one[0]}x{one[1]} ({first}) and {two[0]}x{two[1]} ({second})",
        hint=hint,
    )


def _not_square(size: tuple[int, int], name: str, hint: str) -> DataError:
    return DataError(
        f"expected square images, got {size[0]}x{size[1]} ({name})",
        hint=hint,
    )
