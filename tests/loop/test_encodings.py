"""Private images encoded once: never in the loop, whole after a kill, and never those of something else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dp_diffusers import training
from dp_diffusers.diffusion.latent import LatentFamily
from dp_diffusers.finetuning import train
from dp_diffusers.loop import encoded_cache, row_store
from dp_diffusers.loop.augmentation import augment, variants
from dp_diffusers.loop.encoded_cache import EncodedCache
from dp_diffusers.loop.encodings import EncodedEachTime
from dp_diffusers.loop.row_store import INDEX
from dp_diffusers.recipe import Recipe
from dp_diffusers.training import Loop
from latent_support import tiny_latent_base
from loop_support import cheap_trainings

IMAGES = np.random.default_rng(3).integers(0, 256, (10, 8, 8, 1)).astype(np.uint8)
SHOWN = variants(("flip",), 8)


def mean_of(images: np.ndarray) -> torch.Tensor:
    """A cheap encoding, float32 `[N, 1, 2, 2]`."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return torch.nn.functional.avg_pool2d(pixels, 4)


class Counting:
    """`mean_of`, with the number of images that it was given; it stops the process, or raises, at a call."""

    def __init__(self, stop: Callable[[], Any] | None = None, at: int = 0) -> None:
        self.images = self.calls = 0
        self._stop, self._at = stop, at

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        self.calls += 1
        if self._stop is not None and self.calls == self._at:
            self._stop()
        self.images += len(images)
        return mean_of(images)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 images, files of 2 blocks, noted at once."""
    monkeypatch.setattr(encoded_cache, "BLOCK", 4)
    monkeypatch.setattr(row_store, "SHARD_BYTES", 2 * 4 * 16)
    monkeypatch.setattr(row_store, "SECONDS", 0.0)


def cache_of(folder: Path, encode: Any = mean_of, **other: Any) -> EncodedCache:
    """A cache of the images above in a folder."""
    facts = {"key": "model", "images": IMAGES, "variants": SHOWN}
    return EncodedCache(folder=folder / "cache", encode=encode, **{**facts, **other})


def expected(image: np.ndarray, variant: np.ndarray) -> torch.Tensor:
    return mean_of(augment(IMAGES[image], variant, SHOWN))


def is_right(cache: EncodedCache) -> bool:
    """Whether every variant of every image is what its encoding gives."""
    variant, image = (part.ravel() for part in np.mgrid[: len(SHOWN), : len(IMAGES)])
    return torch.equal(cache.take(image, variant), expected(image, variant))


@pytest.mark.usefixtures("small_shards")
def test_every_variant_of_every_image_is_encoded_once(tmp_path: Path) -> None:
    encode = Counting()
    cache = cache_of(tmp_path, encode)
    cache.fill()
    assert is_right(cache)
    assert is_right(cache)
    assert encode.images == len(SHOWN) * len(IMAGES)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    again = Counting()
    cache_of(tmp_path, again).fill()
    assert again.images == 0


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_kill_in_the_middle_goes_on_where_it_was(tmp_path: Path, at: int) -> None:
    child = os.fork()
    if not child:  # pragma: no cover
        cache_of(tmp_path, Counting(lambda: os.kill(os.getpid(), signal.SIGKILL), at)).fill()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    encode = Counting()
    cache = cache_of(tmp_path, encode)
    cache.fill()
    assert encode.calls == 5 - (at - 1)
    assert is_right(cache)


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_was_changed_is_encoded_again(tmp_path: Path) -> None:
    cache_of(tmp_path).fill()
    shards = sorted((tmp_path / "cache").glob("*.bin"))
    assert [shard.stat().st_size for shard in shards] == [8 * 16, 8 * 16, 4 * 16]
    shards[1].write_bytes(shards[1].read_bytes()[:-4] + b"\0\0\0\1")
    shards[2].unlink()
    encode = Counting()
    cache = cache_of(tmp_path, encode)
    cache.fill()
    assert encode.calls == 2
    assert is_right(cache)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    "other",
    [{"key": "another"}, {"images": IMAGES[::-1]}, {"images": IMAGES[:9]}, {"variants": SHOWN[:1]}],
    ids=["model", "order", "fewer", "variants"],
)
def test_the_cache_of_something_else_is_not_used(tmp_path: Path, other: dict[str, Any]) -> None:
    cache_of(tmp_path, **other).fill()
    encode = Counting()
    cache = cache_of(tmp_path, encode)
    cache.fill()
    assert encode.images == len(SHOWN) * len(IMAGES)
    assert is_right(cache)
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 3


@pytest.mark.parametrize("index", ["{", "[]", '{"key": 1}', ""])
def test_a_damaged_index_is_that_of_something_else(tmp_path: Path, index: str) -> None:
    cache_of(tmp_path).fill()
    (tmp_path / "cache" / INDEX).write_text(index)
    cache = cache_of(tmp_path)
    cache.fill()
    assert is_right(cache)


@pytest.mark.usefixtures("small_shards")
def test_guarantee_what_is_said_does_not_depend_on_the_images(tmp_path: Path) -> None:
    said = []
    for count in (1, 3, 9, 10):
        lines: list[str] = []
        cache_of(tmp_path / str(count), images=IMAGES[:count]).fill(lines.append)
        said.append(lines)
    assert said[0] == [f"encoding images: {percent} %" for percent in range(10, 101, 10)]
    assert all(lines == said[0] for lines in said)


@pytest.fixture
def latent_recipe(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The tiny recipe on a tiny latent model."""
    folder = tiny_recipe.parent / "latent-base"
    tiny_latent_base().save(folder)
    cheap_trainings(monkeypatch.setattr)
    return Recipe.load(tiny_recipe, [f"base={folder}", "training.augmentations=2"])


class EncodedInTheLoopError(RuntimeError):
    """An image was encoded inside the loop."""


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images that each call of `encode` got; a call inside a step raises."""
    sizes: list[int] = []
    inside: list[int] = []
    encode, losses = LatentFamily.encode, Loop.row_losses

    def watched_encode(self: Any, images: np.ndarray) -> torch.Tensor:
        if inside:
            raise EncodedInTheLoopError
        sizes.append(len(images))
        return encode(self, images)

    def watched_losses(self: Any, *args: Any) -> torch.Tensor:
        inside.append(1)
        found = losses(self, *args)
        inside.clear()
        return found

    monkeypatch.setattr(LatentFamily, "encode", watched_encode)
    monkeypatch.setattr(Loop, "row_losses", watched_losses)
    return sizes


@pytest.mark.slow
def test_guarantee_no_image_is_encoded_in_the_loop(
    latent_recipe: Recipe, watched: list[int], tmp_path: Path
) -> None:
    release = train(latent_recipe, tmp_path / "run")
    shown = len(variants(("shift",), 8))
    assert sum(watched) - 1 - 3 == shown * 30  # one image is tried first, and three public ones before it
    assert release.certificate.epsilon <= 5
    assert not (tmp_path / "run" / "private" / "cache").exists()


@pytest.mark.slow
def test_what_a_dying_process_left_of_the_cache_is_removed(latent_recipe: Recipe, tmp_path: Path) -> None:
    train(latent_recipe, tmp_path / "run")
    left = [tmp_path / "run" / "private" / name for name in ("cache", "captions")]
    for folder in left:
        folder.mkdir()
        (folder / "encoded-000000.bin").write_bytes(b"x")
    train(latent_recipe, tmp_path / "run")
    assert not any(folder.exists() for folder in left)


@pytest.mark.planted
def test_planted_encoding_in_each_step_is_seen(
    latent_recipe: Recipe, watched: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training,
        "encodings_of",
        lambda family, data, shown, folder: EncodedEachTime(family=family, data=data, variants=shown),
    )
    with pytest.raises(EncodedInTheLoopError):
        train(latent_recipe, tmp_path / "run")
