"""What every model family must do; a new line in `FAMILIES` needs an example here, and inherits all tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.embeddings import LabelEmbedding

from dp_diffusers.diffusion.base import fingerprint
from dp_diffusers.diffusion.family import FAMILIES
from dp_diffusers.diffusion.loading import load_base
from dp_diffusers.errors import ModelError
from dp_diffusers.loop.rehearsal import rehearse
from dp_diffusers.strategies import strategy_of
from family_support import CASES, EXAMPLES, example, images_for, opened, pipeline_base, prepared, rows, stir


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def base(request: pytest.FixtureRequest, tiny_base: Callable[..., Any]) -> Any:
    return example(tiny_base, *request.param)


@pytest.fixture
def family(base: Any) -> Any:
    stir(base.network)
    return prepared(base, label_dropout=0.2)


@pytest.fixture
def images(family: Any) -> tuple[np.ndarray, np.ndarray]:
    return images_for(family)


def test_every_family_has_an_example() -> None:
    assert set(EXAMPLES) == set(FAMILIES)


def test_each_family_knows_its_examples_alone(tiny_base: Callable[..., Any]) -> None:
    for name, options in CASES:
        base = example(tiny_base, name, options)
        for other, target in FAMILIES.items():
            module, attribute = target.split(":")
            assert getattr(import_module(module), attribute).matches(base) == (other == name)


def test_one_loss_for_each_row(family: Any, images: Any) -> None:
    losses = family.row_losses(*rows(family, *images, list(range(7))))
    assert losses.shape == (7,)
    assert losses.dtype == torch.float32
    assert losses.requires_grad
    assert bool(losses.isfinite().all())


def test_guarantee_a_row_does_not_see_another(family: Any, images: Any) -> None:
    clean, labels, draws = rows(family, *images, list(range(6)))
    before = family.row_losses(clean, labels, draws)
    changed = replace(draws, noise=draws.noise.clone(), timesteps=draws.timesteps.clone())
    changed.noise[2] = 7.0
    changed.timesteps[2] = 1
    other = clean.clone()
    other[2] = -1.0
    after = family.row_losses(other, labels, changed)
    apart = torch.arange(6) != 2
    assert torch.allclose(after[apart], before[apart], rtol=1e-5)
    assert not torch.allclose(after[2], before[2], rtol=1e-3)


def test_guarantee_no_gradient_flows_between_rows(family: Any, images: Any) -> None:
    clean, labels, draws = rows(family, *images, list(range(5)))
    clean.requires_grad_(True)
    losses = family.row_losses(clean, labels, draws)
    (gradient,) = torch.autograd.grad(losses[3], clean)
    norms = gradient.flatten(1).norm(dim=1)
    assert float(norms[3]) > 0
    assert float(norms[torch.arange(5) != 3].max()) == 0


def test_guarantee_a_units_loss_does_not_depend_on_who_else_is_there(family: Any, images: Any) -> None:
    together = family.row_losses(*rows(family, *images, [0, 4, 9, 12]))
    for place, unit in enumerate([0, 4, 9, 12]):
        alone = family.row_losses(*rows(family, *images, [unit]))
        assert torch.allclose(alone[0], together[place], rtol=1e-5)


def test_what_is_encoded_decodes(family: Any, images: Any) -> None:
    pixels, _ = images
    encoded = family.encode(pixels)
    assert encoded.shape == (len(pixels), *family.shape)
    assert encoded.dtype == torch.float32
    decoded = family.decode(encoded)
    assert decoded.dtype == np.uint8
    assert decoded.shape == pixels.shape
    if not family.encodes_once:  # an autoencoder loses something
        assert np.array_equal(decoded, pixels)


def test_a_dropped_label_is_the_null_class(family: Any, images: Any) -> None:
    if family.null_label is None:
        pytest.skip("a model without labels has none to drop")
    clean, labels, draws = rows(family, *images, [0, 1, 2])
    dropped = family.row_losses(clean, labels, replace(draws, drop_label=torch.ones(3, dtype=torch.bool)))
    null = torch.full_like(labels, family.null_label)
    kept = replace(draws, drop_label=torch.zeros(3, dtype=torch.bool))
    assert torch.equal(dropped, family.row_losses(clean, null, kept))


@pytest.mark.slow
def test_its_folder_is_an_ordinary_one(base: Any, family: Any, images: Any, tmp_path: Path) -> None:
    base.save(tmp_path)
    assert fingerprint(load_base(tmp_path)) == fingerprint(base)
    stock = DiffusionPipeline.from_pretrained(tmp_path)
    expected = family.network.state_dict()
    found = getattr(stock, base.component).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    again = prepared(load_base(tmp_path), label_dropout=0.2)
    inputs = rows(family, *images, [0, 1, 2])
    assert torch.allclose(again.row_losses(*inputs), family.row_losses(*inputs), atol=1e-6)


def test_a_prompt_means_the_same_beside_any_other(base: Any) -> None:
    family = prepared(base)
    if not family.takes_text:
        pytest.skip("a model of classes reads no prompts")
    family.set_prompts(["a dog", "a much longer text about a cat"])
    noisy = torch.zeros(1, *family.shape)
    beside = family.conditions(torch.tensor([0]), noisy)
    family.set_prompts(["a dog"])
    alone = family.conditions(torch.tensor([0]), noisy)
    assert all(torch.equal(value, alone[name]) for name, value in beside.items())
    null = family.conditions(None, noisy)
    assert any(not torch.equal(value, null[name]) for name, value in alone.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_rehearsal_reaches_everything(base: Any) -> None:
    family = prepared(base)
    strategy_of({"name": "full"}).apply(family.network)
    rehearse(family)


def test_guarantee_no_part_of_a_prompt_is_logged(
    base: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    family = opened(base)
    if not family.takes_text:
        pytest.skip("a model of classes reads no prompts")
    capfd.readouterr()
    family.set_prompts(["secret words " * 100])
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.planted
def test_planted_pipelines_that_log_what_they_cut_off(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = opened(pipeline_base("stable_diffusion"))
    monkeypatch.setattr("dp_diffusers.diffusion.text.quiet", contextlib.nullcontext)
    family.set_prompts(["secret words " * 100])
    assert "secret" in caplog.text.replace(" ", "")


@pytest.mark.planted
def test_planted_labels_that_the_network_drops_by_itself() -> None:
    family = prepared(pipeline_base("dit"))
    for layer in family.network.modules():
        if isinstance(layer, LabelEmbedding):
            layer.dropout_prob = 0.1
    with pytest.raises(ModelError, match=r"random numbers of its own|equal calls give different"):
        rehearse(family)
