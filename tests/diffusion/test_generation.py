from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from dp_diffusers.diffusion.generation import Sampling, balanced_labels, require_sampler, sample
from dp_diffusers.diffusion.pixel import PixelFamily
from dp_diffusers.diffusion.variation import varied
from dp_diffusers.errors import ModelError, ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.recipe import Recipe
from family_support import opened, pipeline_base, stir


def _all(family: Any, count: int, start: int = 0, **options: Any) -> np.ndarray:
    labels = balanced_labels(count, family.base.classes)
    return np.concatenate(list(sample(family, labels, count, Sampling(steps=4, **options), start=start)))


def test_labels_are_exactly_balanced() -> None:
    labels = balanced_labels(31, 10)
    assert labels is not None
    assert np.bincount(labels).tolist() == [4] + [3] * 9
    assert balanced_labels(5, 0) is None


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_guarantee_images_do_not_depend_on_the_batch(
    tiny_base: Callable[..., Any], sampler: str, guidance: float
) -> None:
    family = PixelFamily(tiny_base())
    options = {"sampler": sampler, "guidance": guidance}
    whole = _all(family, 7, batch=7, **options)
    assert whole.shape == (7, 8, 8, 1)
    parts = _all(family, 7, batch=2, **options)
    assert np.abs(whole.astype(int) - parts).max() <= 1
    resumed = _all(family, 7, start=4, batch=3, **options)
    assert np.abs(whole[4:].astype(int) - resumed).max() <= 1
    assert np.abs(whole.astype(int) - _all(family, 7, batch=7, seed=1, **options)).max() > 1


def test_a_perfect_denoiser_gives_back_the_image(tiny_base: Callable[..., Any]) -> None:
    """Samplers are right if a network that knows the one true image leads to it from any noise."""
    family = PixelFamily(tiny_base(prediction="epsilon"))
    truth = torch.rand(family.shape) - 0.5

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor, labels: Any) -> torch.Tensor:
        alpha = family.objective.signal.square()[timesteps].view(-1, 1, 1, 1)
        return (noisy - alpha.sqrt() * truth) / (1 - alpha).sqrt()

    family.predict = predict  # type: ignore[method-assign]
    for sampler in ("ddim", "dpmsolver++"):
        labels = balanced_labels(2, 3)
        images = np.concatenate(list(sample(family, labels, 2, Sampling(steps=10, sampler=sampler))))
        expected = family.decode(truth[None])
        assert np.abs(images.astype(int) - expected).max() <= 2, sampler


def test_guidance_without_a_null_class_is_refused(tiny_base: Callable[..., Any]) -> None:
    family = PixelFamily(tiny_base(classes=0))
    with pytest.raises(ParameterError, match="null class"):
        _all(family, 2, guidance=2.0)
    assert _all(family, 2).shape == (2, 8, 8, 1)


def test_the_null_class_is_the_last_embedding_whatever_has_a_name(tiny_base: Callable[..., Any]) -> None:
    for names, expected in ((("a", "b"), 4), (("a", "b", "c", "d"), 4), (None, 4), ((*"abcde",), None)):
        family = PixelFamily(replace(tiny_base(classes=4), class_names=names))
        assert family.null_label == expected, names


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"batch": 0}, {"guidance": float("nan")}, {"sampler": "dddim"}]
)
def test_bad_sampling_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        Sampling(**options)


def test_a_learned_variance_is_no_matter_to_the_other_sampler() -> None:
    """DiT cuts it off what it predicts; the solver must not cut again."""
    images = []
    for variance in ("fixed_small", "learned_range"):
        base = pipeline_base("dit")
        base = replace(base, scheduler=DDPMScheduler(variance_type=variance, clip_sample=False))
        images.append(_all(opened(base), 3, sampler="dpmsolver++"))
    assert np.array_equal(*images)


def test_variations_are_made_as_many_at_once_as_the_family_says(
    tiny_base: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = PixelFamily(tiny_base())
    images, labels = np.zeros((5, 8, 8, 1), np.uint8), balanced_labels(5, 3)

    def made(batch: int) -> list[np.ndarray]:
        sampling = Sampling(steps=2, batch=batch)
        return list(varied(family, images, labels, sampling, level=0.5, streams=[*"abcde"]))

    (whole,) = made(250)
    monkeypatch.setattr(PixelFamily, "images_at_once", 2)
    parts = made(250)
    assert [len(part) for part in parts] == [2, 2, 1]
    assert np.abs(np.concatenate(parts).astype(int) - whole).max() <= 1
    assert [len(part) for part in made(1)] == [1] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "sampler ddim cannot draw 25 steps .*sigmoid"), ({"sampler": "dpmsolver++"}, "sigmoid")],
)
def test_a_sampler_that_cannot_draw_is_found_before(
    tiny_base: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    family = PixelFamily(replace(tiny_base(), scheduler=DDPMScheduler(beta_schedule="sigmoid")))
    family.network.train()
    with pytest.raises(ModelError, match=message) as caught:
        require_sampler(family, Sampling(**options))
    assert "generation.sampler" in (caught.value.hint or "")
    assert family.network.training
    require_sampler(PixelFamily(tiny_base()), Sampling(**options))


def test_a_sampler_of_more_steps_than_the_schedule_is_found_before(tiny_base: Callable[..., Any]) -> None:
    family = PixelFamily(replace(tiny_base(), scheduler=DDPMScheduler(num_train_timesteps=20)))
    with pytest.raises(ModelError, match="cannot draw 25 steps"):
        require_sampler(family, Sampling())
    with pytest.raises(ParameterError, match="null class"):
        require_sampler(PixelFamily(tiny_base(classes=0)), Sampling(guidance=2.0))


@pytest.mark.slow
def test_guarantee_a_sampler_that_cannot_draw_costs_nothing(
    tiny_base: Callable[..., Any], tiny_base_folder: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    replace(tiny_base(), scheduler=DDPMScheduler(beta_schedule="sigmoid")).save(tiny_base_folder)
    with pytest.raises(ModelError, match="the sampler ddim cannot draw"):
        train(Recipe.load(tiny_recipe), tmp_path / "run")
    assert not (tmp_path / "tiny.ledger").exists()


def test_a_stochastic_flow_sampler_draws_one_image_of_a_seed() -> None:
    drawn = []
    for stochastic in (True, True, False):
        base = pipeline_base("stable_diffusion_3")
        stir(base.network)
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=stochastic)
        family = opened(replace(base, scheduler=scheduler))
        family.set_prompts(["a cat"])
        drawn += sample(family, np.zeros(1, np.int64), 1, Sampling(steps=3))
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], drawn[2])


def _overflowing(base: Any) -> PixelFamily:
    """A model whose weights are finite, and what it draws is not: a training may end there."""
    family = PixelFamily(base)
    with torch.no_grad():
        family.network.conv_out.weight.mul_(1e38)  # type: ignore[union-attr, operator]
    return family


def test_values_that_are_not_finite_become_no_images(tiny_base: Callable[..., Any]) -> None:
    family, labels = _overflowing(tiny_base()), balanced_labels(2, 3)
    images, sampling = np.zeros((2, 8, 8, 1), np.uint8), Sampling(steps=4)
    for draw in (
        lambda: list(sample(family, labels, 2, sampling)),
        lambda: list(varied(family, images, labels, sampling, level=1.0, streams=[*"ab"])),
        lambda: require_sampler(family, sampling),
    ):
        with pytest.raises(ModelError, match="the sampler ddim draws values that are not finite") as caught:
            draw()
        assert "costs nothing" in (caught.value.hint or "")


@pytest.mark.parametrize("spacing", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_a_solver_of_flow_matching_takes_the_levels_of_flow_matching(
    tiny_base: Callable[..., Any], spacing: str
) -> None:
    """Spacings of other samplers are made of betas, and came before those of flow matching."""
    given = [FlowMatchEulerDiscreteScheduler(**options) for options in ({}, {spacing: True})]
    plain, spaced = (
        _all(PixelFamily(replace(tiny_base(), scheduler=scheduler)), 3, sampler="dpmsolver++")
        for scheduler in given
    )
    assert np.array_equal(plain, spaced)


def test_so_it_does_where_the_base_came_with_that_solver(tiny_base: Callable[..., Any]) -> None:
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    given = [DPMSolverMultistepScheduler(**options, use_lu_lambdas=lu) for lu in (False, True)]
    plain, spaced = (
        _all(PixelFamily(replace(tiny_base(), scheduler=scheduler)), 3, sampler="dpmsolver++")
        for scheduler in given
    )
    assert np.array_equal(plain, spaced)
