"""The five families that `bench` times, tiny, with four rows of three units: gradients however they run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dp_diffusers.diffusion.family import Family
from dp_diffusers.queries.saliency_choice import with_network
from dp_diffusers.recipe import RuntimeSettings
from dp_diffusers.runtime.arrangement import in_precision
from dp_diffusers.strategies import strategy_of
from engine_support import clipped_sum, fast_gradients, flat, oracle
from family_support import example, images_for, prepared, rows, some_draws, stir

OWNER = torch.tensor([4, 4, 9, 7])  # one unit with two rows
WEIGHT = torch.tensor([0.25, 0.75, 1.0, 1.0])
FAMILIES: dict[str, dict[str, Any]] = {
    "pixel": {},
    "latent": {"autoencoder": "kl"},
    "stable_diffusion": {"prediction": "epsilon"},
    "dit": {},
    "stable_diffusion_3": {},
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "targets": "attention"},
    "lora-linear": {"name": "lora", "targets": "linear"},
    "full": {"name": "full"},
}


@dataclass(kw_only=True)
class Example:
    """A model under a strategy, away from its start, and the inputs of four rows."""

    family: Family
    clean: Tensor
    labels: Tensor | None
    draws: Any

    def losses(self, runtime: RuntimeSettings) -> Callable[[Tensor], Tensor]:
        """Losses of the rows with these numbers, in the precision of the run."""

        def losses(index: Tensor) -> Tensor:
            labels = None if self.labels is None else self.labels[index]
            with in_precision(runtime, torch.device("cpu")):
                return self.family.row_losses(self.clean[index], labels, some_draws(self.draws, index))

        return losses

    def gradients(self, runtime: RuntimeSettings) -> list[Tensor]:
        """Of each unit, by hooks and rules."""
        losses = self.losses(runtime)
        return fast_gradients(self.family.network, lambda: losses(torch.arange(4)), OWNER, WEIGHT)

    def released(self, runtime: RuntimeSettings, passes: list[list[int]]) -> Tensor:
        """The clipped sum, with next to no noise."""
        return clipped_sum(self.family.network, self.losses(runtime), passes, OWNER, WEIGHT)

    def precisely(self) -> list[Tensor]:
        """Of each unit, from batches of one row through a float64 network as diffusers made it."""
        double = with_network(self.family, copy.deepcopy(self.family.network).double())
        exact = replace(
            self,
            family=double,
            clean=self.clean.double(),
            draws=replace(self.draws, noise=self.draws.noise.double()),
        )
        return oracle(double.network, exact.losses(RuntimeSettings()), OWNER, WEIGHT)


def arranged_example(tiny_base: Callable[..., Any], name: str, strategy: str) -> Example:
    """The same one for the same names."""
    base = example(tiny_base, name, FAMILIES[name])
    stir(base.network)
    family = prepared(base)
    strategy_of(STRATEGIES[strategy]).apply(family.network)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in family.network.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    clean, labels, draws = rows(family, *images_for(family), [0, 1, 2, 3])
    return Example(family=family, clean=clean, labels=labels, draws=draws)


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, relative to the tensor's largest entry, or a hundredth of the model's."""
    largest = max(float(want.abs().max()) for want in expected)
    return max(
        float((got.double() - want.double()).abs().max()) / max(float(want.abs().max()), 0.01 * largest)
        for got, want in zip(found, expected, strict=True)
    )


__all__ = ["FAMILIES", "OWNER", "STRATEGIES", "WEIGHT", "Example", "arranged_example", "distance", "flat"]
