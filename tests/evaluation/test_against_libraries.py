"""The distances beside well-known implementations: the same features, two pairs of sets, 1e-3 relative."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from metric_support import PIXELS
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dp_diffusers.data.drawn_digits import drawn_digits
from dp_diffusers.evaluation.embedding import Embedded, embed, silent
from dp_diffusers.evaluation.features import Features, features_named
from dp_diffusers.evaluation.frechet import frechet_distance
from dp_diffusers.evaluation.kernel_distance import squared_mmd
from dp_diffusers.evaluation.neighbours import neighbourhood

COUNT = 300
pytestmark = pytest.mark.slow


def _drawn(count: int, seed: int) -> NDArray[np.uint8]:
    images, _ = drawn_digits(count, 16, seed)
    return images[..., None]


def _handwritten() -> NDArray[np.uint8]:
    """Handwritten digits of scikit-learn, 16 x 16: each pixel twice."""
    values = (load_digits().images[:COUNT] * 15.9).astype(np.uint8)
    return values.repeat(2, 1).repeat(2, 2)[..., None]


def _pair(case: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Made and real images, of unequal number."""
    made = _drawn(COUNT - 50, 0)
    return made, _drawn(COUNT, 1) if case == "drawn" else _handwritten()


@pytest.fixture(params=["pixels", "efficientnet-lite0-64"], scope="module")
def features(request: pytest.FixtureRequest) -> Features:
    return PIXELS if request.param == "pixels" else features_named(request.param)


@pytest.fixture(params=["drawn", "handwritten"], scope="module")
def sets(request: pytest.FixtureRequest, features: Features) -> tuple[Embedded, Embedded]:
    """Made and real images as the extractor sees them."""
    made, real = _pair(request.param)
    return embed(features, made, silent), embed(features, real, silent)


def test_precision_recall_density_and_coverage_are_those_of_prdc(sets: tuple[Embedded, Embedded]) -> None:
    """The authors' own implementation (Naeem et al. 2020): `prdc`."""
    from prdc import compute_prdc

    made, real = sets
    third, fifth = (
        compute_prdc(real_features=real.vectors, fake_features=made.vectors, nearest_k=k) for k in (3, 5)
    )
    mine = neighbourhood(made, real)
    for name, theirs in (("precision", third), ("recall", third), ("density", fifth), ("coverage", fifth)):
        assert getattr(mine, name) == pytest.approx(float(theirs[name]), rel=1e-3, abs=1e-9), name


def test_precision_and_recall_are_those_of_torch_fidelity(sets: tuple[Embedded, Embedded]) -> None:
    metric = _torch_fidelity("metric_prc")
    made, real = (torch.from_numpy(part.vectors) for part in sets)
    precision, recall = metric.calculate_precision_recall_full(made, real, 3, 10_000)
    mine = neighbourhood(*sets)
    assert (mine.precision, mine.recall) == pytest.approx((precision, recall), rel=1e-3)


def test_fid_and_kid_are_those_of_torch_fidelity(sets: tuple[Embedded, Embedded]) -> None:
    fid, kid = _torch_fidelity("metric_fid"), _torch_fidelity("metric_kid")
    made, real = sets
    theirs = fid.fid_statistics_to_metric(*map(_statistics, sets), verbose=False)
    assert frechet_distance(made, real) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    count = len(made.vectors)
    vectors = made.vectors.astype(float), real.vectors[:count].astype(float)
    mmd = kid.mmd2(*_kernels(kid, *vectors))
    assert squared_mmd(*vectors) == pytest.approx(mmd, rel=1e-3, abs=1e-7)


def _statistics(part: Embedded) -> dict[str, NDArray[np.float64]]:
    return {"mu": part.mean, "sigma": part.covariance}


def _kernels(
    kid: ModuleType, one: NDArray[np.float64], other: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    settings = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    return [kid.kernel_poly(*pair, **settings) for pair in ((one, one), (one, other), (other, other))]


def _torch_fidelity(name: str) -> ModuleType:
    """A module of torch-fidelity (extra `fid`); skipped where it, or a torchvision that fits, is missing."""
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is not installed: pip install 'dp-diffusers[fid]'")
    try:
        __import__(f"torch_fidelity.{name}")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch-fidelity cannot be used here: {error}")
    return sys.modules[f"torch_fidelity.{name}"]
