"""A rehearsal on random data before anything is spent: do the layer rules reach everything, and do rows stay
apart?

Guarantees: leaves parameters, gradients and hooks bit for bit as they were, also after an error, and what
else the model keeps but for tables that it fills in once. May import torch and the engine's unit gradients.
Source: the gradient of a batch of one is the oracle, as in Opacus' tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dp_diffusers.engine.checkpointing import refuse_reentry
from dp_diffusers.engine.kept_state import kept_state
from dp_diffusers.engine.layer_checks import trainable
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.postponed import Gradient, Postponed, written_out
from dp_diffusers.engine.unit_grads import HookedUnitGradients, UnitGradientSource
from dp_diffusers.errors import ModelError, ParameterError

Losses = Callable[[Tensor], Tensor]

_ROW_TOLERANCE = 1e-4
_GRADIENT_TOLERANCE = 1e-3
_PERTURBATION = 0.05
_APART = "replace what mixes rows, such as batch norm, or a mean or a maximum over the batch"
_MIXED = ("a row alone has another loss than among others", _APART)


def dry_run(module: nn.Module, losses: Losses, *, rows: int = 4) -> None:
    """Raises `ModelError`, naming tensors or layers, unless the model can be trained with unit gradients.

    `losses(indices)` gives one loss per index, `[len(indices)]`, for prepared random inputs (timesteps and
    noise included) chosen by `indices` (int64 in 0..rows-1, with repeats); equal calls must give equal
    results.

    - Layers: none that mixes units, none without a rule.
    - Randomness: the model draws none of its own; its draws would depend on who else is in the batch.
    - Rows: removing one row, or replacing it by another, leaves the losses of the others as they were (1e-4
      relative).
    - State: no pass changes a buffer or a frozen parameter. What private images leave there has no noise.
    - Reach: every trainable tensor has a gradient somewhere.
    - Rules: the gradient of each row, by hooks and rules, equals that of a batch of one (1e-3 of the tensor's
      largest).

    Small random values are added to the trainable tensors meanwhile (LoRA's B starts at zero and would hide
    A).
    """
    if not trainable(module):
        raise ModelError("the model has no trainable tensor", hint="apply a strategy to it first")
    source = HookedUnitGradients(module)
    try:
        rehearse(source, losses, rows=rows)
    finally:
        source.close()


def rehearse(source: UnitGradientSource, losses: Losses, *, rows: int = 4) -> None:
    """What `dry_run` does, with a source of unit gradients that is there already."""
    if type(rows) is not int or rows < 2:
        raise ParameterError(f"expected rows >= 2, got {rows!r}", hint="with one row nothing can mix")
    everyone = torch.arange(rows, device=source.parameters[0].device)
    try:
        with _perturbed(source.parameters), kept_state(source.module) as settled:
            with torch.no_grad():
                losses(everyone)
            settled()
            _check_rows_apart(losses, everyone)
            source.forget()
            _check_gradients(source, losses, everyone)
    finally:
        source.forget()


@contextmanager
def _perturbed(parameters: list[nn.Parameter]) -> Iterator[None]:
    saved = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in parameters:
                change = torch.randn(parameter.shape, generator=generator) * _PERTURBATION
                parameter.add_(change.to(parameter))
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(parameters, saved):
                parameter.copy_(before)


def _check_rows_apart(losses: Losses, everyone: Tensor) -> None:
    with torch.no_grad():
        stream = _global_stream(everyone.device)
        whole = losses(everyone)
        if whole.shape != everyone.shape:
            raise ModelError(f"expected one loss per row, [{len(everyone)}], got {list(whole.shape)}")
        swapped = everyone.clone()
        swapped[0] = everyone[-1]
        _same(losses(everyone), whole, "two equal calls give different losses", "turn dropout off")
        # a dropout that is rare enough to have left these few rows alone still reads the stream
        if not torch.equal(_global_stream(everyone.device), stream):
            raise ModelError("the model draws random numbers of its own", hint="turn dropout off")
        _same(losses(everyone[1:]), whole[1:], "removing a row changes the losses of the others", _APART)
        _same(losses(swapped)[1:], whole[1:], "replacing a row changes the losses of the others", _APART)


def _global_stream(device: torch.device) -> Tensor:
    """State of torch's own random numbers on the device, which layers such as dropout read."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _same(found: Tensor, expected: Tensor, message: str, hint: str) -> None:
    found, expected = found.double(), expected.double()
    if found.shape != expected.shape or not bool(expected.isfinite().all()):
        raise ModelError(
            f"expected {list(expected.shape)} finite losses on random data, got {found.tolist()}"
        )
    if not torch.allclose(
        found, expected, rtol=_ROW_TOLERANCE, atol=_ROW_TOLERANCE * float(expected.abs().max())
    ):
        raise ModelError(message, hint=hint)


def _check_gradients(source: UnitGradientSource, losses: Losses, everyone: Tensor) -> None:
    with torch.enable_grad():
        row_losses = losses(everyone)
        refuse_reentry(row_losses)
        found = source.compute(row_losses, torch.ones_like(row_losses), RowOwners.of(everyone))
        alone = [_batch_of_one(source, losses, everyone[row : row + 1]) for row in range(len(everyone))]
    tensors = [torch.stack(rows) for rows in zip(*(gradients for _, gradients in alone))]
    largest = max(float(tensor.abs().max()) for tensor in tensors)
    unreached = [name for name, tensor in zip(source.names, tensors) if not bool(tensor.any())]
    if unreached:
        raise ModelError(
            f"no loss depends on the trainable tensors {', '.join(unreached)}",
            hint="freeze them, or choose other targets",
        )
    wrong = [name for name, got, want in zip(source.names, found, tensors) if not _right(got, want, largest)]
    if wrong:
        # who is not the one that all others depend on can be removed or replaced unnoticed: the largest value
        _same(torch.cat([loss for loss, _ in alone]), row_losses.detach(), *_MIXED)
        raise ModelError(
            f"the gradients per row of {', '.join(wrong)} are not those of a batch of one",
            hint="they are used outside the module that owns them; freeze them, or call the module",
        )


def _batch_of_one(source: UnitGradientSource, losses: Losses, row: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The loss of one row `[1]`, and its gradients."""
    loss = losses(row)
    gradients = torch.autograd.grad(loss.sum(), source.parameters, allow_unused=True)
    source.forget()
    return loss.detach(), [
        torch.zeros_like(p) if g is None else g for p, g in zip(source.parameters, gradients)
    ]


def _right(found: Gradient | None, expected: Tensor, largest: float) -> bool:
    """Whether a gradient of rows is that of batches of one; of a postponed one, its lengths and its sum
    too."""
    if isinstance(found, Postponed):
        weights = torch.linspace(0.5, 1.0, len(expected), dtype=torch.float64, device=expected.device)
        total = torch.tensordot(weights, expected.double(), 1)
        lengths = expected.double().flatten(1).norm(dim=1)
        if not (
            _close(found.weighted_sum(weights), total, largest) and _close(found.lengths, lengths, largest)
        ):
            return False
    return found is not None and _close(written_out(found), expected, largest)


def _close(found: Tensor, expected: Tensor, largest: float) -> bool:
    """Within 1e-3 of the tensor's own scale; 1e-6 of the model's scale is rounding (a softmax ignores key
    biases)."""
    error = float((found - expected).abs().max())
    return error <= _GRADIENT_TOLERANCE * float(expected.abs().max()) + 1e-6 * largest
