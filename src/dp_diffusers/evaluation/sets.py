"""The sets of images of an evaluation: opened, of one shape, numbered by the classes of the synthetic ones.

Guarantees that no class of real images is left out unsaid. May import numpy and the readers of `data`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.data.decoding import Resize
from dp_diffusers.data.dicom_pixels import Window
from dp_diffusers.data.public_images import PublicImages
from dp_diffusers.errors import DataError, ParameterError, counted
from dp_diffusers.evaluation.arrays import checked_arrays, pair_of
from dp_diffusers.evaluation.class_numbers import listed
from dp_diffusers.evaluation.classifier import Labelled
from dp_diffusers.evaluation.public_model import public_images_of
from dp_diffusers.evaluation.reading import LabelledImages, read_images

Images = str | Path | Labelled | PublicImages | LabelledImages
PUBLIC: Final = "public images"  # in a note


def real_images(real: LabelledImages, names: tuple[str, ...], called: str) -> LabelledImages:
    """Real images, numbered as the synthetic ones are. `called`: in an error, `reference` or `real`.

    Raises `DataError` for a class that the synthetic images lack: it must not be left out.
    """
    found = real.numbered_as(names, called)
    if len(found.images) < len(real.images):
        missing = len(real.images) - len(found.images)
        raise DataError(
            f"{counted(missing, f'{called} image has', f'{called} images have')} a class that the synthetic "
            "images lack",
            hint=f"synthetic classes: {listed(names)}",
        )
    return found


def require_common(synthetic: LabelledImages, reference: LabelledImages) -> None:
    """Raises `DataError` where no class has images in both sets: what is learnt of one is not in the other.

    reference: numbered as the synthetic images are.
    """
    shown, asked = ({*part.labels.tolist()} for part in (synthetic, reference))
    if not shown & asked:
        of_each = [listed(_names(part, synthetic)) for part in (asked, shown)]
        raise DataError(
            "no class has both synthetic images and images of the reference",
            hint=f"classes of the reference: {of_each[0]}; of the synthetic images: {of_each[1]}; number or "
            "name them alike",
        )


def repeated(real: LabelledImages, reference: LabelledImages) -> list[str]:
    """What to say where images to train on are in the reference as well, pixel for pixel."""
    tested = set(map(_digest, reference.images))
    again = sum(_digest(image) in tested for image in real.images)
    if not again:
        return []
    return [
        f"{counted(again, 'real image is', 'real images are')} in the reference too: the accuracy of real "
        "images comes out too high"
    ]


def unlearnable(synthetic: LabelledImages, reference: LabelledImages) -> list[str]:
    """What to say where the synthetic images show fewer than two classes, or others than the reference."""
    there, notes = set(synthetic.labels.tolist()), []
    if len(there) < 2:
        notes.append("the synthetic images are all of one class: a classifier has nothing to tell apart")
    asked = set(reference.labels.tolist())
    if missing := asked - there:
        notes.append(f"no synthetic image of {_told(missing, reference)} that the reference has")
    if untested := there - asked:
        notes.append(
            f"no image of the reference of {_told(untested, synthetic)} that the synthetic ones show"
        )
    return notes


def _told(numbers: set[int], images: LabelledImages) -> str:
    return f"{counted(len(numbers), 'class', 'classes')} ({listed(_names(numbers, images))})"


def _names(numbers: set[int], images: LabelledImages) -> list[str]:
    known = dict(enumerate(images.class_names))
    return [known.get(number, str(number)) for number in sorted(numbers)]


def digest_of(images: LabelledImages) -> str:
    """SHA-256 of pixels, shape and class of every image, in whatever order: the same for the same set."""
    known = dict(enumerate(images.class_names))
    names = [str(known.get(label, label)).encode() for label in images.labels.tolist()]
    each = sorted(_digest(image) + name for image, name in zip(images.images, names))
    return hashlib.sha256(repr((images.images.shape[1:], each)).encode()).hexdigest()


def with_public_sets(
    synthetic: LabelledImages, public: LabelledImages | None, together: bool
) -> list[LabelledImages]:
    """The public images, and where they are wanted `together`, the synthetic and public ones."""
    if public is None:
        if together:
            raise ParameterError("no public images to train with", hint="name them: --public PATH")
        return []
    return [public, _together([synthetic, public])] if together else [public]


def opened(
    images: Images,
    shape: tuple[int, ...] | None,
    *,
    called: str = "images",
    on_disk: bool = True,
    progress: Callable[..., None] | None = None,
    label: str | None = None,
    own: Sequence[str] = (),
    resize: Resize = "crop",
    window: Window | None = None,
) -> LabelledImages:
    """Images of any kind; files are brought to `shape` (H, W, C), arrays must have it.

    called: what they are, in an error. Raises `DataError`.
    label, own, resize, window: as `read_images` takes them. on_disk: many pixels may go to a temporary file;
    not those of real images, which stay where they are.
    """
    if isinstance(images, str | Path):
        size, channels = (None, None) if shape is None else (shape[0], shape[2])
        how: dict[str, Any] = {"on_disk": on_disk, "progress": progress, "label": label, "own": own}
        how |= {"resize": resize, "window": window}
        return read_images(images, size=size, channels=channels, **how)
    if isinstance(images, PublicImages | LabelledImages):
        names, notes = images.class_names, images.notes
        pixels, labels = checked_arrays(images.images, images.labels, called, len(names) or None)
    else:
        pixels, labels = checked_arrays(*pair_of(images, called), called)
        names, notes = tuple(map(str, range(int(labels.max()) + 1))), ()
    if shape is not None and pixels.shape[1:] != shape:
        raise DataError(
            f"{called}: expected images of shape {shape}, as the synthetic ones, got {pixels.shape[1:]}",
            hint="resize the arrays, or give a path: files are resized",
        )
    return LabelledImages(images=pixels, labels=labels, class_names=names, notes=notes)


def public_images(
    public: Images | Sequence[Images], run: Path | None, shape: tuple[int, ...], names: tuple[str, ...]
) -> LabelledImages | None:
    """All public images of the synthetic classes; those of the run's base where none are given.

    What they lack, and what was left out of them, is in their notes. Raises `DataError`.
    """
    parts = [opened(part, shape, called=PUBLIC) for part in each_of(public)]
    if not parts:
        recorded = None if run is None else public_images_of(run, shape[0], shape[2])
        # other classes are another task: a row for them would compare nothing
        if recorded is None or not set(names) <= set(recorded.class_names):
            return None
        parts = [recorded]
    found = _together([part.numbered_as(names, PUBLIC) for part in parts])
    return replace(found, notes=(*found.notes, *_left_out(parts, found), *_lacking(found)))


def each_of(images: Images | Sequence[Images]) -> list[Any]:
    """One set of images, or several, as a list."""
    single = isinstance(images, str | Path | PublicImages | LabelledImages) or _is_arrays(images)
    return [images] if single or not isinstance(images, Sequence) else list(images)


def _left_out(parts: Sequence[LabelledImages], found: LabelledImages) -> list[str]:
    number = sum(len(part.images) for part in parts) - len(found.images)
    if not number:
        return []
    said = counted(number, "image is", "images are")
    return [f"{PUBLIC}: {said} left out, of classes that the synthetic images lack"]


def _lacking(found: LabelledImages) -> list[str]:
    names, there = found.class_names, set(found.labels.tolist())
    missing = [name for number, name in enumerate(names) if number not in there]
    if not missing:
        return []
    return [f"{PUBLIC}: no image of {len(missing)} of {len(names)} synthetic classes ({listed(missing)})"]


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _is_arrays(value: object) -> bool:
    return (
        isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, np.ndarray) for part in value)
    )


def _together(parts: Sequence[LabelledImages]) -> LabelledImages:
    if len(parts) == 1:  # no second copy in memory
        return parts[0]
    return LabelledImages(
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        class_names=parts[0].class_names,
        notes=tuple(note for part in parts for note in part.notes),
    )
