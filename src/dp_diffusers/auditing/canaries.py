"""Canaries in gradient space: units whose whole gradient is one entry of one trainable matrix.

Guarantees: different canaries have orthogonal gradients, each far above the clip norm, and reach the sum by
the same way as images: layer, row losses, owners, clip. May import torch. Source: the strongest attacks of
Nasr et al. 2023 (arXiv 2302.07956), with directions that the model itself can produce.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dp_diffusers.errors import ModelError
from dp_diffusers.loop.rows import Rows

CLIPS = 1e4  # gradient of each row of a canary, in clip norms: it is clipped, also were each row on its own


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """The canaries of one layer: canary `first + i` is the entry `places[i]` of its weight, laid out flat."""

    layer: nn.Module
    first: int
    places: np.ndarray  # [M] int64

    @property
    def weight(self) -> Tensor:
        """The trained matrix."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    def outputs(self, canaries: np.ndarray) -> Tensor:
        """`[R]`: for each row one output, whose gradient is 1 at its canary's entry and 0 everywhere else."""
        weight = self.weight
        place = np.unravel_index(self.places[canaries - self.first], weight.shape)
        row, column, *offset = (torch.from_numpy(index).to(weight.device) for index in place)
        rows = torch.arange(len(canaries), device=weight.device)
        # an input that the kernel covers just once; without a kernel there is no more to it
        inputs = weight.new_zeros(len(canaries), *weight.shape[1:])
        hot = inputs.clone()
        entry = (rows, column, *offset)
        hot[entry] = 1.0
        centre = self.layer.padding if isinstance(self.layer, nn.Conv2d) else ()
        # the second call takes the gradient of a bias away
        output = (rows, row, *centre)
        found: Tensor = (self.layer(hot) - self.layer(inputs))[output]
        return found


class GradientCanaries:
    """`count` canaries at random entries, each in or out by a fair coin; scored by what each step releases.

    count: as many as were asked for, or as the trainable matrices have entries. included: `[count]` bool.
    Raises `ModelError` for a network without a trainable linear or plain convolution layer.
    """

    def __init__(
        self,
        network: nn.Module,
        count: int,
        *,
        clip_norm: float,
        noise_draws: int,
        random: np.random.Generator,
    ) -> None:
        layers = usable_layers(network, enough=count)
        sizes = _sizes(layers)
        self.count = min(count, int(sizes.sum()))
        chosen = np.sort(random.choice(int(sizes.sum()), self.count, replace=False))
        self.sites = _sites(layers, sizes, chosen)
        self.included = random.random(self.count) < 0.5
        self.noise_draws = noise_draws
        self._amplitude = CLIPS * clip_norm * noise_draws
        self._members = np.flatnonzero(self.included)

    @property
    def unit_count(self) -> int:
        """Canaries that take part as units."""
        return len(self._members)

    def passes(self, units: np.ndarray, rows_per_pass: int) -> Iterator[CanaryRows]:
        """The rows of the included canaries numbered `units`: `noise_draws` each, one layer to a pass."""
        at_once = max(1, rows_per_pass // self.noise_draws)
        for site in self.sites:
            canaries = self._members[units]
            inside = (canaries >= site.first) & (canaries < site.first + len(site.places))
            for start in range(0, int(inside.sum()), at_once):
                part = slice(start, start + at_once)
                yield self._rows(site, units[inside][part], canaries[inside][part])

    def _rows(self, site: Site, units: np.ndarray, canaries: np.ndarray) -> CanaryRows:
        draws, count = self.noise_draws, len(units)
        return CanaryRows(
            site=site,
            units=units,
            counts=np.full(count, draws),
            position=np.repeat(np.arange(count), draws),
            slot=np.tile(np.arange(draws), count),
            image=np.repeat(canaries, draws),
            variant=np.zeros(count * draws, np.int64),
            weight=np.full(count * draws, 1.0 / draws, np.float32),
        )

    def row_losses(self, rows: CanaryRows) -> Tensor:
        """`[R]`: losses whose gradients are the canaries' entries, far above the clip norm."""
        return self._amplitude * rows.site.outputs(rows.image)

    def read(self) -> np.ndarray:
        """float64 `[count]`: the `grad` of every canary's entry, in or out, as the last release left it."""
        found = []
        for site in self.sites:
            gradient = site.weight.grad
            assert gradient is not None
            found.append(gradient.detach().double().cpu().numpy().reshape(-1)[site.places])
        return np.concatenate(found)


@dataclass(frozen=True, kw_only=True)
class CanaryRows(Rows):
    """Rows of one pass of canaries; `image` numbers the canary."""

    site: Site


class Evidence:
    """The log-likelihood ratio of "in" against "out" for each canary, step by step: the best score there is.

    A step releases the entry x clip norms: noise of deviation sigma, and 1 more where the canary is in and
    was sampled, with probability q (Neyman & Pearson). log(1 - q + q exp((2 x - 1) / (2 sigma^2))) a step.
    """

    def __init__(self, count: int, *, sampling_probability: float, noise_multiplier: float) -> None:
        self.scores = np.zeros(count)
        self._out = math.log1p(-sampling_probability) if sampling_probability < 1 else -math.inf
        self._in = math.log(sampling_probability)
        self._variance = noise_multiplier**2

    def add(self, released: np.ndarray) -> None:
        """Takes one step: `released [count]`, in clip norms."""
        ratio = (2.0 * released - 1.0) / (2.0 * self._variance)
        self.scores += np.logaddexp(self._out, self._in + ratio)


def usable_layers(network: nn.Module, *, enough: int) -> list[nn.Module]:
    """Trainable linear layers; with fewer entries than `enough`, plain convolutions too. Each matrix once.

    Raises `ModelError` where there is none.
    """
    found = list({id(_weight(layer)): layer for layer in network.modules() if _usable(layer)}.values())
    linear: list[nn.Module] = [layer for layer in found if isinstance(layer, nn.Linear)]
    if not found:
        raise ModelError(
            "the audit finds no trainable linear or convolution layer for its canaries",
            hint="choose a strategy that trains one, such as lora on attention",
        )
    return linear if _sizes(linear).sum() >= enough else found


def _sizes(layers: list[nn.Module]) -> np.ndarray:
    return np.array([_weight(layer).numel() for layer in layers], np.int64)


def _usable(layer: nn.Module) -> bool:
    """A linear layer, or a convolution without stride, dilation and groups, whose weight is trained."""
    if isinstance(layer, nn.Conv2d):
        plain = layer.stride == layer.dilation == (1, 1) and layer.groups == 1
        if not plain or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            return False
    return isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.requires_grad


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _sites(layers: list[nn.Module], sizes: np.ndarray, chosen: np.ndarray) -> list[Site]:
    """The chosen entries (ascending, counted through all layers) by layer."""
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    firsts = np.searchsorted(chosen, bounds)
    return [
        Site(layer=layer, first=int(first), places=chosen[first:last] - start)
        for layer, start, first, last in zip(layers, bounds, firsts, firsts[1:])
        if last > first
    ]
