"""Private images and public ones that are the same, under other names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def films(root: Path, count: int = 6) -> Path:
    """`root/films` with a folder for each of three classes, and a manifest of them beside it; the folder."""
    rng = np.random.default_rng(8)
    folder = root / "films"
    for number in range(count):
        file = folder / f"class {number % 3}" / f"patient-{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(file)
    names = [file.relative_to(root).as_posix() for file in sorted(folder.rglob("*.png"))]
    for ending, between in (("csv", ","), ("tsv", "\t")):
        rows = [between.join((name, name.split("/")[1])) for name in names]
        (root / f"films.{ending}").write_text("\n".join([between.join(("path", "label")), *rows]) + "\n")
    return folder


def _links_to_files(root: Path) -> Path:
    for file in sorted((root / "films").rglob("*.png")):
        link = root.parent / "links" / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    return root.parent / "links"


def _link_to_a_folder(root: Path) -> Path:
    (root.parent / "linked").mkdir()
    (root.parent / "linked" / "class 0").symlink_to(root / "films")
    return root.parent / "linked"


def _manifest_elsewhere(root: Path) -> Path:
    (root.parent / "other").mkdir()
    path = root.parent / "other" / "list.csv"
    path.write_text((root / "films.csv").read_text().replace("films/", "../x/films/"))
    return path


# what it is called → (public, private), made of the films in a folder `x`
SAME: dict[str, Callable[[Path], tuple[object, object]]] = {
    "the folder that a manifest lists": lambda x: (x / "films", x / "films.csv"),
    "a manifest of the folder": lambda x: (x / "films.csv", x / "films"),
    "a second manifest": lambda x: (x / "films.tsv", x / "films.csv"),
    "a manifest elsewhere": lambda x: (_manifest_elsewhere(x), x / "films"),
    "links to the files": lambda x: (_links_to_files(x), x / "films"),
    "links to the files of a manifest": lambda x: (_links_to_files(x), x / "films.csv"),
    "a link to the folder": lambda x: (_link_to_a_folder(x), x / "films"),
    "a split of a data set": lambda x: ("hf://a/b:train", "hf://a/b"),
    "another split of it": lambda x: ("hf://A/b:test", "hf://a/b:other/train"),
}
