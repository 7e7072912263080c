"""Images, tables, folders and a base, made wrong on purpose."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bad_rows import Spoil
from PIL import Image


def encoded(size: tuple[int, int] = (8, 8), mode: str = "L", kind: str = "PNG", **options: Any) -> bytes:
    """An image as a file's bytes."""
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind, **options)
    return stream.getvalue()


def animated() -> bytes:
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 90, 200)]
    return encoded(kind="GIF", save_all=True, append_images=frames)


def table(place: Path | str = "images.parquet", images: Any = None, **columns: Any) -> Spoil:
    """Writes a parquet file of images and columns, twelve rows unless a column says otherwise."""

    def write(folder: Path) -> None:
        rows = next((len(column) for column in columns.values() if column is not None), 12)
        pixels = [encoded()] * rows if images is None else images
        cells = {"image": pixels, "label": [row % 3 for row in range(len(pixels))], **columns}
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({name: cell for name, cell in cells.items() if cell is not None}), path)

    return write


def bad_bytes(content: bytes, place: str = "images.parquet") -> Spoil:
    return lambda folder: (folder / place).write_bytes(content)


def cut(place: str, kept: int = -40) -> Spoil:
    """Cuts the end off a file."""
    return lambda folder: (folder / place).write_bytes((folder / place).read_bytes()[:kept])


def pictures(files: dict[str, bytes], metadata: list[list[str]] | bytes | None = None) -> Spoil:
    """A folder of images, with its metadata.csv."""

    def write(folder: Path) -> None:
        (folder / "pictures").mkdir()
        for name, content in files.items():
            (folder / "pictures" / name).parent.mkdir(exist_ok=True)
            (folder / "pictures" / name).write_bytes(content)
        if isinstance(metadata, bytes):
            (folder / "pictures" / "metadata.csv").write_bytes(metadata)
        elif metadata is not None:
            with (folder / "pictures" / "metadata.csv").open("w", newline="") as stream:
                csv.writer(stream).writerows(metadata)

    return write


def write_base(folder: Path) -> None:
    """The tiny base, as conftest makes it."""
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    from dp_diffusers.diffusion.base import Base
    from dp_diffusers.diffusion.patch import Patch

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=4,
    )
    names = ("class 0", "class 1", "class 2")
    Base(network=unet, scheduler=DDPMScheduler(), patch=Patch(size=2), class_names=names).save(folder)
