"""Every family from private images to a verified release that stock libraries read again.

Low-rank adapters run with the fast tests, other strategies with the slow ones.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import PeftModel

import dp_diffusers as dpd
from dp_diffusers.diffusion.loading import base_of_pipeline, load_base
from dp_diffusers.drawing.images_out import PARQUET
from dp_diffusers.mechanisms.moments import moments_query
from dp_diffusers.recipe import GenerationSettings, TrainingSettings, WarmupSettings
from dp_diffusers.strategies.diffusers_file import DIFFUSERS_FILE
from family_support import PIPELINES, opened, pipeline_base, stir
from latent_support import tiny_latent_base
from loop_support import cheap_trainings

UNITS = 24
OF_DIFFUSERS = {"stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux", "sana"}
"""Families whose stock pipelines read diffusers' own file."""
FAMILIES = [*PIPELINES, "latent"]
FAST = {"pixart", "latent"}  # a transformer with texts, a U-Net with classes
SLOW = [(name, kind) for name in FAMILIES for kind in ("attention", "bias", "full")]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates are verified below, in this process, which saves a start of Python."""
    cheap_trainings(monkeypatch.setattr)


def _data(size: int, **text: Any) -> dpd.PrivateImages:
    """Grey images of two classes: colour is made of them."""
    rng = np.random.default_rng(0)
    return dpd.PrivateImages(
        images=rng.integers(0, 255, (UNITS, size, size, 1)).astype(np.uint8),
        labels=np.arange(UNITS) % 2,
        class_names=("normal", "opacity"),
        owner=np.arange(UNITS),
        unit_count=UNITS,
        **text,
    )


@lru_cache(maxsize=2)
def _plan(*, warm: bool = False) -> dpd.Plan:
    budget, mechanism = dpd.Budget(5, 1e-3), dpd.DPSGD(steps=5, expected_units=8, population=UNITS)
    return dpd.Plan.calibrate(budget, mechanism, [moments_query(budget, 2, dimensions=8)] if warm else [])


def _trained(name: str, folder: Path, strategy: Any, warmup: WarmupSettings | None = None) -> dpd.Release:
    """A release of a tiny base that lies in `folder`."""
    base = tiny_latent_base(classes=2, channels=3) if name == "latent" else pipeline_base(name)
    stir(base.network)
    base.save(folder / "base")
    text = {"caption": "chest x-ray, {label}"} if opened(base).takes_text else {}
    return dpd.finetune(
        folder / "base",
        _data(opened(base).size, **text),
        _plan(warm=warmup is not None),
        out=folder / "run",
        ledger=folder / "x.ledger",
        strategy=strategy,
        training=TrainingSettings(noise_draws=2, learning_rate=0.05),
        warmup=warmup,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["latent", "stable_diffusion", "dit"])
def test_texts_classes_and_latents_take_a_warmup(name: str, tmp_path: Path) -> None:
    warmup = WarmupSettings(dimensions=8, images=6, steps=2, batch_size=4)
    release = _trained(name, tmp_path, None, warmup)
    assert [entry["name"] for entry in release.certificate.to_dict()["mechanisms"]] == ["dpsgd", "moments"]
    assert dpd.Certificate.verify(release.path).valid


def _whole_path(name: str, folder: Path, strategy: Any) -> dpd.Release:
    release = _trained(name, folder, strategy)
    images = dpd.generate(release, images=2, settings=GenerationSettings(steps=2))
    assert pq.read_table(images / PARQUET)["label"].to_pylist() == [0, 1]
    assert dpd.Certificate.verify(release.path).valid
    assert release.certificate.mechanisms[0]["steps_charged"] == 5
    _reads_again(release, folder)
    return release


def _reads_again(release: dpd.Release, folder: Path) -> None:
    """Stock peft and stock diffusers give the network that was released."""
    trained = release.family()
    expected = _outputs(trained)
    assert not torch.allclose(_outputs(release.family(adapted=False)), expected, atol=1e-4)
    adapter = release.path / "adapter"
    fresh = DiffusionPipeline.from_pretrained(folder / "base")
    component = base_of_pipeline(fresh).component
    PeftModel.from_pretrained(getattr(fresh, component), adapter).eval()
    _same_weights(getattr(fresh, component), trained.network)
    assert torch.allclose(_outputs(opened(base_of_pipeline(fresh))), expected, atol=1e-6)
    if (adapter / DIFFUSERS_FILE).exists():
        fresh = DiffusionPipeline.from_pretrained(folder / "base")
        fresh.load_lora_weights(adapter, weight_name=DIFFUSERS_FILE)
        assert torch.allclose(_outputs(opened(base_of_pipeline(fresh))), expected, atol=1e-6)


def _same_weights(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    known = dict(expected.named_parameters())
    assert {name for name, _ in found.named_parameters()} == set(known)
    assert all(torch.equal(value, known[name]) for name, value in found.named_parameters())


def _outputs(family: Any) -> torch.Tensor:
    """What the network says of two fixed inputs."""
    family.network.eval()
    for parameter in family.network.parameters():  # views into a file are not aligned as copies are
        parameter.data = parameter.data.clone()
    labels = None
    if family.takes_text:
        family.set_prompts(["chest x-ray, normal", "a cat"])
    if family.classes:
        labels = torch.tensor([0, 1])
    noisy = torch.randn(2, *family.shape, generator=torch.Generator().manual_seed(1))
    times = family.objective.times[torch.tensor([100, 700])]
    with torch.no_grad():
        return torch.as_tensor(family.predict(noisy, times, labels))


def _runs_its_card(release: dpd.Release, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of the model card load the adapter and draw."""
    monkeypatch.chdir(release.path)
    (code,) = re.findall(r"^```python\n(.*?)^```", (release.path / "README.md").read_text(), re.M | re.S)
    code = code.replace('"base"', f'"{base}"').replace("num_inference_steps=25", "num_inference_steps=2")
    values: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), values)
    size = opened(load_base(base)).size
    images = torch.as_tensor(values["images"])
    assert images.shape[1:] in ((3, size, size), (size, size, 3))
    assert 0 <= images.min() <= images.max() <= 1


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in FAMILIES],
)
def test_low_rank_adapters(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = _whole_path(name, tmp_path, {"name": "lora", "rank": 2})
    assert (release.path / "adapter" / DIFFUSERS_FILE).exists() == (name in OF_DIFFUSERS)
    _runs_its_card(release, tmp_path / "base", monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("name", "kind"), SLOW)
def test_other_strategies(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = _whole_path(name, tmp_path, {"name": kind})
    assert not (release.path / "adapter" / DIFFUSERS_FILE).exists()
    _runs_its_card(release, tmp_path / "base", monkeypatch)
