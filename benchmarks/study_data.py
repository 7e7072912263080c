"""The images of recipes/study-mnist.yaml: a fixed part of a parquet file, and a stand-in to tune rates on.

    python benchmarks/study_data.py subset mnist-train.parquet mnist-20k.parquet --images 20000
    python benchmarks/study_data.py stand-in FOLDER

`subset` keeps the rows whose numbers have the smallest hashes, so that everyone keeps the same. `stand-in`
writes 20,000 training and 4,500 test images, made by shifts, turns and bends from the 1,797 handwritten
digits that scikit-learn ships (Alpaydin & Kaynak 1998), each digit on one side only: rates chosen there have
seen no image of MNIST.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from dp_diffusers.demo import handwritten_digits, is_held_out
from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.evaluation.augmentation import distorted

FRAME, SIZE = 20, 28  # a digit of 20 pixels in 28, as in MNIST
INK, CONTRAST = 0.35, 4.0  # what is lighter than this is paper; how fast it gets from there to ink


def chosen_rows(count: int, images: int) -> np.ndarray:
    """int64 `[images]`: the rows with the smallest hashes, in their order."""
    hashes = [hashlib.sha256(f"subset/{row}".encode()).digest() for row in range(count)]
    return np.sort(np.argsort(np.array(hashes, dtype="S32"), kind="stable")[:images])


def subset(source: Path, target: Path, images: int) -> None:
    """Writes the chosen rows of a parquet file, columns and metadata as they are."""
    table = pq.read_table(source)
    pq.write_table(table.take(chosen_rows(len(table), images)), target)


def framed(images: np.ndarray) -> np.ndarray:
    """uint8 `[N, 28, 28, 1]`: the digits at 20 pixels in a black frame."""
    result = np.zeros((len(images), SIZE, SIZE, 1), np.uint8)
    edge = (SIZE - FRAME) // 2
    for place, image in enumerate(images[..., 0]):
        large = Image.fromarray(image).resize((FRAME, FRAME), Image.Resampling.BICUBIC)
        result[place, edge:-edge, edge:-edge, 0] = np.asarray(large)
    return result


def bent(images: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[count, 28, 28, 1]` variants of images in turn, and the place of each one's original."""
    generator = torch.Generator().manual_seed(seed)
    origin = np.arange(count) % len(images)
    parts = []
    for first in range(0, count, 1000):
        batch = torch.from_numpy(images[origin[first : first + 1000]]).permute(0, 3, 1, 2).float()
        moved = distorted(batch / 127.5 - 1, generator, flip=False)
        sharp = ((moved + 1) / 2 - INK) * CONTRAST  # 8 x 8 pixels are blurred when they are made larger
        parts.append((sharp.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts), origin


def stand_in(folder: Path) -> None:
    """Writes `train` and `test` below `folder`, each a folder with one parquet file."""
    images, labels = handwritten_digits()
    held_out = np.array([is_held_out(index) for index in range(len(images))])
    names = [str(digit) for digit in range(10)]
    for name, mine, count in (("train", ~held_out, 20_000), ("test", held_out, 4_500)):
        made, origin = bent(framed(images[mine]), count, seed=int(name == "test"))
        write_images(made, labels[mine][origin], names, folder / name, format="parquet")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    cut = verbs.add_parser("subset")
    cut.add_argument("source", type=Path)
    cut.add_argument("target", type=Path)
    cut.add_argument("--images", type=int, default=20_000)
    verbs.add_parser("stand-in").add_argument("folder", type=Path)
    given = parser.parse_args()
    if given.verb == "subset":
        subset(given.source, given.target, given.images)
    else:
        stand_in(given.folder)


if __name__ == "__main__":
    main()
