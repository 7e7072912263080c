from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dp_diffusers.diffusion.patch import Patch
from dp_diffusers.errors import ModelError


@pytest.mark.parametrize("size", [1, 2, 4])
def test_guarantee_inverse_is_exact_and_norms_are_kept(size: int) -> None:
    images = torch.randn(3, 2, 8, 8)
    patched = Patch(size=size).forward(images)
    assert patched.shape == (3, 2 * size**2, 8 // size, 8 // size)
    assert torch.equal(Patch(size=size).inverse(patched), images)
    assert torch.allclose(patched.norm(), images.norm())


def test_sidecar_round_trip(tmp_path: Path) -> None:
    Patch(size=2).save(tmp_path)
    assert Patch.load(tmp_path) == Patch(size=2)
    (tmp_path / "patch.json").unlink()
    assert Patch.load(tmp_path) == Patch(size=1)


@pytest.mark.parametrize("text", ["{", "[]", '{"size": 0}', '{"size": "two"}', "{}"])
def test_damaged_sidecar_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "patch.json").write_text(text)
    with pytest.raises(ModelError, match=r"patch\.json"):
        Patch.load(tmp_path)
