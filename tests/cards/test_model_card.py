"""The lines of a model card run as they stand, with stock diffusers and peft."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dp_diffusers.cards.loading_lines import loading_lines
from dp_diffusers.cards.model_card import certified_table
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.finetuning import train
from dp_diffusers.recipe import Recipe
from dp_diffusers.strategies.lora import Lora, save_adapter
from latent_support import tiny_latent_base


def _run(code: str, folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """What the lines leave in `images`, run in `folder`."""
    monkeypatch.chdir(folder)
    assert f'"{base.name}"' in code
    values: dict[str, Any] = {}
    exec(compile(code.replace(f'"{base.name}"', f'"{base}"'), "card", "exec"), values)
    images: torch.Tensor = values["images"]
    return images


@pytest.mark.slow
def test_the_card_of_a_release_loads_it_and_puts_patches_back(
    tiny_recipe: Path, tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = train(Recipe.load(tiny_recipe, ["mechanism.name=none"]), tmp_path / "run")
    text = (release.path / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert "pixel_shuffle(images, 2)" in code
    images = _run(code, release.path, tiny_base_folder, monkeypatch)
    assert images.shape == (3, 1, 8, 8)
    assert 0 <= images.min() <= images.max() <= 1


@pytest.mark.parametrize(("classes", "patch"), [(0, 1), (2, 1), (0, 4)])
def test_every_kind_of_base_has_lines_that_run(
    tiny_base: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int, patch: int
) -> None:
    base = tiny_base(classes=classes, patch=patch)
    base.save(tmp_path / "base")
    config = Lora(rank=2).apply(base.network, seed=0)
    save_adapter(base.network, config, tmp_path / "adapter")
    code = loading_lines(family_of(base), "base")
    assert ("pixel_shuffle" in code) == (patch > 1)
    images = _run(code, tmp_path, tmp_path / "base", monkeypatch)
    assert images.shape == (classes or 4, 1, 8, 8)


@pytest.mark.parametrize(("kind", "classes"), [("kl", 2), ("vq", 0)])
def test_lines_for_latent_models_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, classes: int
) -> None:
    base = tiny_latent_base(kind, classes=classes, size=16)
    base.save(tmp_path / "base")
    config = Lora(rank=2).apply(base.network, seed=0)
    save_adapter(base.network, config, tmp_path / "adapter")
    code = loading_lines(family_of(base), "base")
    images = _run(code, tmp_path, tmp_path / "base", monkeypatch)
    assert images.shape == (classes or 4, 1, 16, 16)


def test_the_table_says_none_and_no_more_noise_than_there_is() -> None:
    entry = {"name": "dpsgd", "max_units": None, "noise_multiplier": 1.2345678901, "steps_charged": 3}
    table = certified_table({"adapter": {"trainable_parameters": 7}, "mechanisms": [entry]}).splitlines()
    assert "| dpsgd: max_units | none |" in table
    assert "| dpsgd: noise_multiplier | 1.23456 |" in table
    assert "| dpsgd: steps_charged | 3 |" in table
