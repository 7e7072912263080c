"""A base that came as an object: a release draws from it only while it is what the release was made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

import dp_diffusers as dpd
from dp_diffusers.diffusion.base import Base, fingerprint
from dp_diffusers.diffusion.loading import load_base
from dp_diffusers.errors import GuaranteeError, ModelError
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.run import held_base
from dp_diffusers.training import Loop


@pytest.fixture
def tuned(
    tiny_base_folder: Path, tiny_images: Any, tmp_path: Path
) -> Callable[..., tuple[Base, dpd.Release]]:
    """A run on a base in memory, which is given or loaded; again: of the finished run."""
    images, labels = tiny_images
    names = ("a", "b", "c")
    data = dpd.PrivateImages(
        images=images, labels=labels, class_names=names, owner=np.arange(30), unit_count=30
    )
    plan = dpd.Plan.calibrate(None, NonPrivate(steps=1, expected_units=10, population=30))

    def run(name: str, base: Base | None = None, said: list[str] | None = None) -> tuple[Base, dpd.Release]:
        base = replace(load_base(tiny_base_folder), in_memory=True) if base is None else base
        lines = [] if said is None else said
        progress = lambda **facts: lines.append(str(facts.get("message", "")))  # noqa: E731
        return base, dpd.finetune(base, data, plan, out=tmp_path / name, progress=progress)

    return run


def _adapted(base: Base) -> list[Any]:
    return [layer for layer in base.network.modules() if isinstance(layer, BaseTunerLayer)]


def _other_weights(base: Base) -> None:
    network: Any = base.network
    network.conv_in.weight.data.add_(0.5)


def _other_adapter(base: Base) -> None:
    next(p for p in base.network.parameters() if p.requires_grad).data.add_(0.5)


def _switched_off(base: Base) -> None:
    _adapted(base)[0].enable_adapters(False)


def _scaled(base: Base) -> None:
    _adapted(base)[0].scale_layer(0.5)


CHANGES = [_other_weights, _other_adapter, _switched_off, _scaled]


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_guarantee_a_changed_pipeline_draws_nothing_for_a_release(
    change: Callable[[Base], None], tuned: Callable[..., tuple[Base, dpd.Release]]
) -> None:
    base, release = tuned("run")
    before = (release.path / "certificate.json").read_bytes()
    dpd.generate(release, per_label=1, out=release.folder.root / "first")
    change(base)
    with pytest.raises(ModelError, match="the pipeline was changed since this release was made"):
        dpd.generate(release, per_label=1)
    with pytest.raises(ModelError, match=r"changed since this release was made|carries another adapter"):
        tuned("run", base)
    assert (release.path / "certificate.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.planted
def test_planted_a_release_that_does_not_look(
    tuned: Callable[..., tuple[Base, dpd.Release]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, release = tuned("run")
    _other_adapter(base)
    monkeypatch.setattr("dp_diffusers.release.require_unchanged", lambda base, state: None)
    dpd.generate(release, per_label=1)
    assert dpd.Certificate.verify(release.path).problems == (), "images of another model would be certified"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_weights, "is not the one that this adapter was trained on"),
        (None, "another adapter than that"),
    ],
)
def test_guarantee_a_finished_run_takes_up_its_own_base_alone(
    change: Callable[[Base], None] | None, message: str, tuned: Callable[..., tuple[Base, dpd.Release]]
) -> None:
    tuned("run")
    if change is None:
        base, _ = tuned("other")
        _other_adapter(base)
    else:
        base = tuned("other")[0]
        base = replace(load_base(str(base.source)), in_memory=True)
        change(base)
        base = replace(base, sha256=fingerprint(base))
    with pytest.raises(ModelError, match=message):
        tuned("run", base)


@pytest.mark.slow
def test_a_pipeline_as_it_was_is_taken_up_again(tuned: Callable[..., tuple[Base, dpd.Release]]) -> None:
    base, release = tuned("run")
    assert torch.is_tensor(next(iter(release.family().network.parameters())))
    fresh, again = tuned("run")
    assert held_base.state_of(fresh) == held_base.state_of(base)
    assert again.family().network is fresh.network


@pytest.mark.parametrize("in_memory", [True, False])
def test_guarantee_only_what_is_trained_may_change(in_memory: bool, tiny_base_folder: Path) -> None:
    base = replace(load_base(tiny_base_folder), in_memory=in_memory)
    base.network.requires_grad_(False)
    network: Any = base.network
    network.conv_out.weight.requires_grad_(True)
    with held_base.rest_untouched(base):
        network.conv_out.weight.data.add_(0.5)
    if not in_memory:  # drawn from anew
        with held_base.rest_untouched(base):
            _other_weights(base)
        return
    says = "weights or buffers of the base that it does not train"
    with pytest.raises(GuaranteeError, match=says), held_base.rest_untouched(base):
        _other_weights(base)


@pytest.mark.slow
def test_guarantee_a_training_that_changes_the_base_releases_nothing(
    tuned: Callable[..., tuple[Base, dpd.Release]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Loop.run

    def leaking(self: Loop) -> None:
        run(self)
        _other_weights(self.family.base)

    monkeypatch.setattr(Loop, "run", leaking)
    with pytest.raises(GuaranteeError, match="that it does not train"):
        tuned("run")
    assert not (tmp_path / "run" / "release" / "certificate.json").exists()


@pytest.mark.slow
def test_a_pipeline_in_memory_is_told_of_before_anything_is_paid(
    tuned: Callable[..., tuple[Base, dpd.Release]],
) -> None:
    said: list[str] = []
    tuned("run", said=said)
    assert "the base model came as an object" in said[0]
    tuned("run", said=(again := []))
    assert not any("came as an object" in line for line in again)
