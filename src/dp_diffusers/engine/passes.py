"""What the gradient boxes share: which parameters they train, what a pass must look like, where a mean goes.

Guarantees: a pass of another shape, or with weights that are not finite, is refused before anything is added.
May import torch and the engine's layer checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from dp_diffusers.engine.layer_checks import trainable
from dp_diffusers.errors import ModelError, ParameterError


def trainable_of(parameters: nn.Module | Iterable[nn.Parameter]) -> list[nn.Parameter]:
    if isinstance(parameters, nn.Module):
        found = list(trainable(parameters).values())
    else:
        many = isinstance(parameters, Iterable) and not isinstance(parameters, str | Tensor | Mapping)
        given = list(parameters) if many else None
        wrong = given is None or not all(isinstance(each, Tensor) for each in given)
        if given is None or wrong:
            raise ParameterError(
                "expected an nn.Module, or the parameters themselves",
                hint="the model, or model.parameters(); without their names",
            )
        found = list({id(p): p for p in given if p.requires_grad}.values())
    if not found:
        raise ModelError("no trainable parameter was given", hint="apply a strategy to the model first")
    return found


def check_pass(row_losses: Tensor, owner: Tensor, weight: Tensor) -> None:
    if not all(isinstance(each, Tensor) for each in (row_losses, owner, weight)):
        raise ParameterError("expected row_losses, owner and weight as tensors [R]")
    if row_losses.ndim != 1 or owner.shape != row_losses.shape or weight.shape != row_losses.shape:
        shapes = f"{list(row_losses.shape)}, {list(owner.shape)}, {list(weight.shape)}"
        raise ParameterError(f"expected row_losses, owner and weight of one shape [R], got {shapes}")
    if not bool(weight.isfinite().all()):
        raise ParameterError("expected finite weights", hint="use 1/K for each of the K rows of an owner")


def set_grads(parameters: list[nn.Parameter], sums: list[Tensor], expected_units: float) -> None:
    for parameter, total in zip(parameters, sums):
        parameter.grad = (total / expected_units).to(parameter.dtype)
