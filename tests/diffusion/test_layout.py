"""Folders that are whole and not opened: the error says so, and the call in its hint makes one that opens."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from dp_diffusers.diffusion.loading import load_base
from dp_diffusers.errors import ModelError
from latent_support import tiny_latent_base
from tiny_pipelines import stable_diffusion


def _variant(folder: Path) -> None:
    stable_diffusion().to(torch.float16).save_pretrained(folder, variant="fp16")


def _sharded_variant(folder: Path) -> None:
    stable_diffusion().to(torch.float16).save_pretrained(folder, variant="fp16", max_shard_size="20KB")


def _bin(folder: Path) -> None:
    stable_diffusion().save_pretrained(folder, safe_serialization=False)


def _beside(folder: Path) -> None:
    base: Any = tiny_latent_base(classes=0, channels=3)
    base.network.save_pretrained(folder / "unet")
    base.scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(
        '{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], '
        '"scheduler": ["diffusers", "DDPMScheduler"]}'
    )
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            shutil.move(file, folder / file.name)
        (folder / part).rmdir()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_variant, r"has no weights in \w+/ but those of the variant fp16$"),
        (_sharded_variant, r"has no weights in \w+/ but those of the variant fp16$"),
        (_bin, r"has no weights in \w+/ but \.bin files"),
        (_beside, r"has its network beside model_index\.json, not in unet/$"),
    ],
)
def test_a_whole_folder_is_not_called_damaged(make: Any, said: str, tmp_path: Path) -> None:
    make(tmp_path / "base")
    with pytest.raises(ModelError, match=said) as caught:
        load_base(tmp_path / "base")
    call = re.search(
        r"DiffusionPipeline\.from_pretrained\(DIR(.*)\)\.save_pretrained\(NEW\)", str(caught.value.hint)
    )
    assert call is not None
    options: dict[str, Any] = eval(f"dict({call[1].removeprefix(', ')})")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "base", safety_checker=None, **options)
    pipeline.save_pretrained(tmp_path / "new")
    assert load_base(tmp_path / "new").sha256


def test_a_cut_file_is_damaged(tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="is damaged"):
        load_base(tmp_path)
