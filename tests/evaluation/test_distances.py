"""Figures of distance as a whole: named by their extractor, complete, and read through the gate alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from metric_support import PIXELS

from dp_diffusers.data.drawn_digits import drawn_digits
from dp_diffusers.errors import ParameterError
from dp_diffusers.evaluation.distances import (
    METRICS,
    Distances,
    Progress,
    figure_names,
    measured,
    require_one_extractor,
)
from dp_diffusers.evaluation.diversity import OF_REFERENCE
from dp_diffusers.evaluation.embedding import embed, silent
from dp_diffusers.evaluation.evaluating import TESTED, evaluate
from dp_diffusers.evaluation.features import Features
from dp_diffusers.evaluation.held_apart import IN_NO_RUN
from dp_diffusers.evaluation.held_out import HeldOut
from dp_diffusers.evaluation.reading import LabelledImages

FIGURES = ("fid", "kid", "kid_standard_error", "precision", "recall", "density", "coverage")


def digits(count: int, seed: int, size: int = 12) -> LabelledImages:
    images, labels = drawn_digits(count, size, seed, fonts=0.0)
    return LabelledImages(images=images[..., None], labels=labels, class_names=tuple("0123456789"))


def measure(
    of: str, images: LabelledImages, reference: HeldOut, features: Features, progress: Progress
) -> Distances:
    return measured(of, embed(features, images.images, progress), reference, progress)


def test_every_figure_of_the_table_is_there_and_in_its_bounds() -> None:
    reference = HeldOut(digits(60, 1))
    found = measure("synthetic", digits(50, 0), reference, PIXELS, silent)
    assert tuple(found.figures) == figure_names() == FIGURES
    assert (found.features, found.images, found.reference) == ("pixels-4", 50, 60)
    assert found.figures["fid"] > 0
    assert all(0 <= found.figures[name] <= 1 for name in ("precision", "recall", "coverage"))
    assert reference.readers == FIGURES
    assert measure("synthetic", digits(50, 0), reference, PIXELS, silent) == found


def test_the_reference_is_embedded_once() -> None:
    seen: list[int] = []

    def counting(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return PIXELS.function(images)

    measure("x", digits(50, 0), HeldOut(digits(60, 1)), replace(PIXELS, function=counting), silent)
    assert seen == [50, 60]


def test_figures_of_two_extractors_do_not_stand_side_by_side() -> None:
    one = measure("x", digits(20, 0), HeldOut(digits(20, 1)), PIXELS, silent)
    require_one_extractor([one, replace(one, of="y")])
    with pytest.raises(ParameterError, match="by pixels-4 and by inception-v3 cannot be compared"):
        require_one_extractor([one, replace(one, features="inception-v3")])
    with pytest.raises(ParameterError, match="cannot be compared"):
        require_one_extractor([one, replace(one, sha256="00" * 32)])
    scores = evaluate(digits(20, 0), digits(20, 1), features=PIXELS, seeds=2, passes=64)
    with pytest.raises(ParameterError, match="cannot be compared"):
        replace(scores, distances=(*scores.distances, replace(one, features="inception-v3")))


def test_document_and_table_name_the_extractor() -> None:
    synthetic, told = digits(60, 0), []
    scores = evaluate(
        synthetic,
        digits(50, 1),
        public_model=digits(60, 2),
        features=PIXELS,
        seeds=2,
        passes=64,
        progress=lambda **facts: told.append(facts),
    )
    document = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert (document["features"], document["features_sha256"]) == ("pixels-4", None)
    assert (document["classifier"], document["reference_images"]) == ("cnn-32-64-128", 50)
    first, second = document["rows"]
    assert {name: document[name] for name in FIGURES} == {name: first[name] for name in FIGURES}
    assert first["fid"] != second["fid"] is not None
    assert document["read_by"] == [*FIGURES, *OF_REFERENCE, *TESTED]
    assert document["covered_by_epsilon"] is False
    text = scores.explain()
    assert "distances to 50 reference images, by pixels-4:" in text
    assert "FD-pixels-4" in text
    assert "FID" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("  public model, ε = 0") and "±" in line]
    assert f"{second['coverage']:.3f}" in line
    assert {"step": 60, "steps": 60, "unit": "images"} in told


def test_without_distances_every_figure_is_null() -> None:
    scores = evaluate(digits(20, 0), digits(20, 1), features=None, seeds=2, passes=64)
    document = scores.to_dict()
    assert document["features"] is None
    assert [document[name] for name in FIGURES] == [None] * 7
    assert document["read_by"] == [*TESTED]
    assert "distances" not in scores.explain()


def test_too_few_images_are_said() -> None:
    scores = evaluate(digits(20, 0), digits(9, 1), features=PIXELS, seeds=2, passes=64)
    assert scores.to_dict()["fid"] is None
    assert "synthetic: no distances by 9 images, 10 are needed" in scores.notes
    few = evaluate(digits(20, 0), digits(16, 1), features=PIXELS, seeds=2, passes=64)
    assert any("FD-pixels-4 of 16 images in 16 dimensions is biased upwards" in note for note in few.notes)
    enough = evaluate(digits(20, 0), digits(17, 1), features=PIXELS, seeds=2, passes=64)
    assert enough.notes == (IN_NO_RUN,)


def test_an_unknown_extractor_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(ParameterError, match="unknown features 'effnet'"):
        evaluate(digits(20, 0), digits(20, 1), features="effnet")


def test_the_table_of_metrics_names_no_figure_twice() -> None:
    assert len(set(figure_names())) == sum(len(names) for names in METRICS)


@pytest.mark.slow
@pytest.mark.parametrize("features", ["pixels", "efficientnet-lite0-64"])
@pytest.mark.parametrize("case", ["digits", "noisy"])
def test_fid_and_kid_are_those_of_torchmetrics(features: str, case: str) -> None:
    """Two pairs of image sets, the same features, to 1e-3 relative."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    from dp_diffusers.evaluation.embedding import embed
    from dp_diffusers.evaluation.features import features_named
    from dp_diffusers.evaluation.frechet import frechet_distance
    from dp_diffusers.evaluation.kernel_distance import squared_mmd

    extractor: Features = PIXELS if features == "pixels" else features_named(features)

    class Module(torch.nn.Module):
        num_features = extractor.dim

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(extractor.of(images.permute(0, 2, 3, 1).numpy()))

    made, real = digits(200, 0).images, digits(200, 1).images
    if case == "noisy":
        made = np.maximum(made, np.random.default_rng(0).integers(0, 90, made.shape, dtype=np.uint8))
    fid = FrechetInceptionDistance(feature=Module())
    kid = KernelInceptionDistance(feature=Module(), subsets=1, subset_size=200)
    for images, is_real in ((made, False), (real, True)):
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        fid.update(batch, real=is_real)
        kid.update(batch, real=is_real)
    one, other = (embed(extractor, images, silent) for images in (made, real))
    assert frechet_distance(one, other) == pytest.approx(float(fid.compute()), rel=1e-3)
    mine = squared_mmd(one.vectors.astype(float), other.vectors.astype(float))
    assert mine == pytest.approx(float(kid.compute()[0]), rel=1e-3, abs=2e-6)
