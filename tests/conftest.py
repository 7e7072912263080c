"""Tiny models and data that every test can build in a moment, without a network."""

from __future__ import annotations

import copy
import functools
import gc
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny_recipes import TINY_RECIPE


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects without looking for garbage: among the syntax trees of all tests there is next to none.

    What is there afterwards stays, so that no later search goes through it again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def tiny_base() -> Callable[..., Any]:
    """Makes an 8 × 8 grey class-conditional pixel model with patches of 2; the same one for the same seed.

    Each call gives a copy of its own, and leaves torch's generator where building the model leaves it.
    """

    def make(*, seed: int = 0, classes: int = 3, prediction: str = "v_prediction", patch: int = 2) -> Any:
        import torch

        base, random_state = _tiny_base(seed, classes, prediction, patch)
        torch.set_rng_state(random_state)
        return copy.deepcopy(base)

    return make


@functools.cache
def _tiny_base(seed: int, classes: int, prediction: str, patch: int) -> tuple[Any, Any]:
    """The base, built once, and the state of torch's generator after it."""
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    from dp_diffusers.diffusion.base import Base
    from dp_diffusers.diffusion.patch import Patch

    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=8 // patch,
        in_channels=patch**2,
        out_channels=patch**2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=classes + 1 if classes else None,
    )
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction)
    names = tuple(f"class {index}" for index in range(classes)) or None
    base = Base(network=unet, scheduler=scheduler, patch=Patch(size=patch), class_names=names)
    return base, torch.get_rng_state()


@pytest.fixture(scope="session")
def _saved_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base, saved once for all tests: for copies only."""
    folder = tmp_path_factory.mktemp("saved") / "base"
    copy.deepcopy(_tiny_base(0, 3, "v_prediction", 2)[0]).save(folder)
    return folder


@pytest.fixture
def tiny_base_folder(_saved_base: Path, tmp_path: Path) -> Path:
    """The tiny base, saved as a diffusers folder."""
    return Path(shutil.copytree(_saved_base, tmp_path / "base"))


@pytest.fixture
def tiny_images() -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[30, 8, 8, 1]` images of three classes that differ in brightness, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(30, dtype=np.int64) % 3
    images = rng.integers(0, 60, (30, 8, 8, 1)) + 60 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


@pytest.fixture
def tiny_parquet(tiny_images: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    """The tiny images as a parquet file."""
    from dp_diffusers.drawing.images_out import PARQUET, write_images

    write_images(*tiny_images, ["dark", "grey", "light"], tmp_path / "images", format="parquet")
    return tmp_path / "images" / PARQUET


@pytest.fixture
def tiny_recipe(tiny_base_folder: Path, tiny_parquet: Path, tmp_path: Path) -> Path:
    """A recipe file of three steps on the tiny base and the tiny images."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        TINY_RECIPE.format(base=tiny_base_folder, data=tiny_parquet, ledger=tmp_path / "tiny.ledger", steps=3)
    )
    return path
