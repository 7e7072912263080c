"""The wide residual network: its published size, tiny trainings, and its place in the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dp_diffusers.evaluation.classifiers import CLASSIFIERS, classifier_named
from dp_diffusers.evaluation.wide_resnet import network, trained


@pytest.mark.slow
def test_it_has_the_published_number_of_parameters() -> None:
    """Zagoruyko & Komodakis (2016), table 4: 8.9 million for CIFAR-10."""
    count = sum(parameter.numel() for parameter in network(3, 10).parameters())
    assert 8.9e6 < count < 9.0e6


def test_two_groups_of_three_halve_the_image() -> None:
    before_pooling = network(3, 10, depth=10)[:-3]
    assert before_pooling(torch.zeros(1, 3, 32, 32)).shape == (1, 256, 8, 8)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (12, 3)])
def test_any_size_and_colour(size: int, channels: int) -> None:
    assert network(channels, 5, depth=10, width=1)(torch.zeros(2, channels, size, size)).shape == (2, 5)


@pytest.mark.slow
def test_a_tiny_one_learns_and_equal_seeds_give_equal_weights() -> None:
    labels = np.arange(32) % 2
    images = np.zeros((32, 8, 8, 1), np.uint8)
    images[labels == 0, :4], images[labels == 1, 4:] = 200, 200
    tiny = {"device": torch.device("cpu"), "passes": 1024, "classes": 2, "depth": 10, "width": 1}
    one, two = (trained((images, labels), seed=3, **tiny) for _ in range(2))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert (one(pixels).argmax(1).numpy() == labels).mean() > 0.9
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_answers_to_its_name(name: str) -> None:
    found = classifier_named(name, "cpu")
    assert found.name == name
    assert found.default_passes(32) > 0
