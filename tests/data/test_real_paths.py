"""Where files lie, held against `os.path.realpath`, and a source with two names of one of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dp_diffusers.data.real_paths import real_paths, require_distinct
from dp_diffusers.errors import DataError

LINKS = {
    "near": "a/1.png",
    "a/back": "../b/2.png",
    "twice": "near",
    "b/through": "../folder/1.png",
    "folder": "a",
    "a/loose": "nothing/here",
    "ring": "gnir",
    "gnir": "ring",
    "a/up": "..",
    "dots": "a/./../b//2.png",
    **{f"chain{n}": f"chain{n + 1}" for n in range(12)},
    "chain12": "a/1.png",
}
PLAIN = (
    "a/1.png",
    "b/2.png",
    "a/../b/2.png",
    "folder/1.png",
    "folder/back",
    "a/up/near",
    "a/",
    "a/..",
    "no/one",
)


def _laid_out(root: Path) -> Path:
    for name in ("a/1.png", "b/2.png"):
        (root / name).parent.mkdir()
        (root / name).touch()
    for name, end in LINKS.items():
        (root / name).symlink_to(end)
    return root


@pytest.mark.parametrize("relative", [True, False])
def test_a_file_lies_where_the_system_says(
    relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _laid_out(tmp_path)
    monkeypatch.chdir(root)
    files = [name if relative else f"{root}/{name}" for name in (*LINKS, *PLAIN)]
    assert list(real_paths(files)) == [os.path.realpath(file) for file in files]


def test_two_names_of_one_file_are_told_from_two_files(tmp_path: Path) -> None:
    root = _laid_out(tmp_path)
    require_distinct(root, ["a/1.png", "a/back", "a/loose", "ring"])
    for one, other in (("a/1.png", "twice"), ("near", "chain0"), ("a/back", "dots"), ("near", "near")):
        with pytest.raises(DataError, match=rf"{root}: {one} and {other} are one file") as caught:
            require_distinct(root, [one, other])
        assert caught.value.hint
