"""The model that draws is the trained one: its adapter in plain weights, in bfloat16, or compiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.generation import Sampling, _denoise, _initial_noise, sample
from dp_diffusers.diffusion.pixel import PixelFamily
from dp_diffusers.drawing import image_job
from dp_diffusers.drawing.drawing_model import drawing_model
from dp_diffusers.drawing.image_job import ImageJob
from dp_diffusers.errors import ParameterError
from dp_diffusers.strategies import strategy_of
from family_support import PIPELINES, prepared, stir

EVERYTHING = {"name": "lora", "targets": "all", "also": ["norm", "embedding"]}
STRATEGIES: list[Any] = [
    pytest.param(EVERYTHING, marks=pytest.mark.slow),
    {"name": "lora", "also": ["bias"]},  # which has no place in the layers of a query
    pytest.param({"name": "full"}, marks=pytest.mark.slow),
]


def _trained(family: Family, strategy: dict[str, Any]) -> Family:
    strategy_of(strategy).apply(family.network)
    stir(family.network)
    family.network.eval()
    return family


def _drawn(family: Family, **options: Any) -> torch.Tensor:
    """Encoded images of four numbers."""
    labels = torch.arange(4) % family.classes if family.classes else None
    sampling = Sampling(steps=3, guidance=1.0 if family.null_label is None else 2.0, **options)
    return _denoise(family, labels, _initial_noise(family, 0, range(4)), sampling)


def _same_model(family: Family, strategy: dict[str, Any]) -> Family:
    _trained(family, strategy)
    before = {name: value.clone() for name, value in family.network.state_dict().items()}
    expected, drawing = _drawn(family), drawing_model(family)
    assert torch.allclose(_drawn(drawing), expected, atol=2e-4 * float(expected.std()))
    after = family.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert len(before) == len(after)
    return drawing


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_guarantee_the_folded_model_draws_the_same(
    tiny_base: Callable[..., Any], strategy: dict[str, Any]
) -> None:
    family = PixelFamily(tiny_base())
    drawing = _same_model(family, strategy)
    left = [name for name, layer in drawing.network.named_modules() if isinstance(layer, BaseTunerLayer)]
    bare = [name for name in left if drawing.network.get_submodule(name).get_base_layer().bias is None]
    assert left == bare, "only a bias that has no place stays beside its layer"
    mine = {value.data_ptr() for value in family.network.parameters()}
    shared = [value for value in drawing.network.parameters() if value.data_ptr() in mine]
    assert shared or strategy == EVERYTHING, "frozen weights are in memory once"


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_guarantee_the_folded_model_of_every_family_draws_the_same(name: str) -> None:
    from family_support import pipeline_base

    targets = "linear" if name == "sana" else "all"  # peft adapts no convolution of as many groups
    for strategy in ({"name": "lora", "targets": targets}, {"name": "full"}):
        _same_model(prepared(pipeline_base(name)), strategy)


def test_coarse_weights_keep_their_adapter_beside_them(tiny_base: Callable[..., Any]) -> None:
    """An update that is smaller than the last bit of a weight would be lost in it."""
    family = PixelFamily(tiny_base())
    family.network.to(torch.bfloat16)
    _trained(family, {"name": "lora"})
    assert any(isinstance(layer, BaseTunerLayer) for layer in drawing_model(family).network.modules())


@pytest.mark.parametrize("adapted", [pytest.param(False, marks=pytest.mark.slow), True])
def test_guarantee_bfloat16_images_are_close(tiny_base: Callable[..., Any], adapted: bool) -> None:
    family = PixelFamily(tiny_base())
    if adapted:
        _trained(family, {"name": "lora"})
    half = drawing_model(family, dtype="bfloat16")
    assert {value.dtype for value in half.network.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in family.network.parameters()} == {torch.float32}
    exact, coarse = _drawn(drawing_model(family)), _drawn(half)
    assert coarse.dtype == torch.float32
    error = float((exact - coarse).abs().mean() / exact.std())
    assert 0 < error < 0.02, "two per cent of the images' deviation"


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_guarantee_bfloat16_images_of_every_family_are_close(name: str) -> None:
    from family_support import pipeline_base

    family = prepared(pipeline_base(name))
    family.network.eval()
    half = drawing_model(family, dtype="bfloat16")
    exact, coarse = _drawn(drawing_model(family)), _drawn(half)
    assert float((exact - coarse).abs().mean() / exact.std()) < 0.05
    pixels = [made.decode(exact).astype(int) for made in (family, half)]
    assert np.abs(pixels[0] - pixels[1]).mean() < 2.0, "of 255"


def test_a_missing_compiler_is_refused(
    tiny_base: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile(*_: Any, **__: Any) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(ParameterError, match=r"cannot be compiled here: no C\+\+ compiler"):
        drawing_model(PixelFamily(tiny_base()), compiled=True)


def test_a_network_that_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise torch._dynamo.exc.Unsupported("cannot be traced")

    monkeypatch.setattr(image_job, "sample", lambda *_, **__: iter(fails, None))
    unused: Any = SimpleNamespace(population=None, settings=None)
    job = ImageJob(release=unused, settings=unused, images=1, per_label=None, device="cpu", compiled=True)
    job.__dict__.update(labels=None, sampling=Sampling(), _drawing=None)
    with pytest.raises(ParameterError, match="cannot be compiled here: cannot be traced"):
        job.draw(range(1))


def test_the_last_batch_is_filled_up(tiny_base: Callable[..., Any]) -> None:
    family, seen = PixelFamily(tiny_base()), []
    predict = family.predict

    def watched(noisy: torch.Tensor, *more: Any) -> torch.Tensor:
        seen.append(len(noisy))
        return predict(noisy, *more)

    family.predict = watched  # type: ignore[method-assign]
    labels, sampling = np.arange(7) % 3, Sampling(steps=2, batch=5)
    plain = np.concatenate(list(sample(family, labels, 7, sampling)))
    assert set(seen) == {5, 2}
    seen.clear()
    filled = np.concatenate(list(sample(family, labels, 7, replace(sampling, whole_batches=True))))
    assert set(seen) == {5}
    assert filled.shape == plain.shape
    assert np.abs(filled.astype(int) - plain).max() <= 1


def test_a_compiled_network_sees_one_shape(
    tiny_base: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _, **options: asked.append(options))
    monkeypatch.setattr("dp_diffusers.drawing.drawing_model.require_compiler", lambda _: None)
    drawing_model(PixelFamily(tiny_base()), compiled=True)
    assert asked == [{"dynamic": False}]


@pytest.mark.slow
def test_guarantee_a_compiled_network_draws_the_same(tiny_base: Callable[..., Any]) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    from diffusers import UNet2DModel
    from torch._dynamo.utils import counters

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=4,
    )
    family = _trained(PixelFamily(replace(tiny_base(), network=network)), {"name": "lora"})
    labels, sampling = np.arange(7) % 3, Sampling(steps=3, batch=5, whole_batches=True)
    plain = np.concatenate(list(sample(family, labels, 7, sampling)))
    compiled = drawing_model(family, compiled=True)
    counters.clear()  # asking for the compiler compiles something, too
    found = np.concatenate(list(sample(compiled, labels, 7, sampling)))
    assert np.abs(found.astype(int) - plain).max() <= 1
    assert counters["stats"]["unique_graphs"] == 1, "one shape, one compilation, no break"
