"""What the engine's tests share: a receipt, boxes with next to no noise, and the batch-of-one oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.postponed import written_out
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.engine.unit_grads import HookedUnitGradients
from dp_diffusers.errors import GuaranteeError

CLIP = 0.5


class Receipt:
    """A stand-in for the ledger's receipt: one step, one lane, one plan, once."""

    def __init__(self, step: int, lane: bytes, plan: str = "plan") -> None:
        self.matches = (step, lane, plan)
        self.used = False

    def redeem(self, step: int, lane: bytes, plan_fingerprint: str) -> None:
        if self.used or self.matches != (step, lane, plan_fingerprint):
            raise GuaranteeError("receipt already used, or of another step")
        self.used = True


def make_box(parameters: nn.Module | Iterable[nn.Parameter], **changes: Any) -> PrivateGradient:
    """A box whose noise is too small to see (1e-9 C), so that a release shows the clipped sum."""
    facts: dict[str, Any] = {
        "clip_norm": CLIP,
        "noise_multiplier": 1e-9,
        "expected_units": 4,
        "keys": RunKeys.for_tests(0),
        "plan_fingerprint": "plan",
    }
    return PrivateGradient(parameters, **(facts | changes))


def release(box: PrivateGradient, step: int = 0) -> Tensor:
    """The released sums as one float64 vector."""
    keys = box._keys
    return flat(box.release(step, Receipt(step, keys.lane)))


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def clipped_sum(
    module: nn.Module,
    losses: Callable[[Tensor], Tensor],
    passes: list[list[int]],
    owner: Tensor,
    weight: Tensor,
    **changes: Any,
) -> Tensor:
    """The clipped sum when the rows are accumulated in the given passes."""
    box = make_box(module, **changes)
    for rows in passes:
        index = torch.tensor(rows, dtype=torch.int64)
        box.accumulate(losses(index), owner[index], weight[index])
    return release(box)


def fast_gradients(
    module: nn.Module, losses: Callable[[], Tensor], owner: Tensor, weight: Tensor
) -> list[Tensor]:
    """Hooks on, one forward pass, gradients per owner, hooks off."""
    source = HookedUnitGradients(module)
    try:
        found = source.compute(losses(), weight, RowOwners.of(owner))
    finally:
        source.close()
    count = len(RowOwners.of(owner).ids)
    return [
        p.new_zeros(count, *p.shape) if g is None else written_out(g)
        for p, g in zip(source.parameters, found)
    ]


def oracle(
    module: nn.Module, losses: Callable[[Tensor], Tensor], owner: Tensor, weight: Tensor
) -> list[Tensor]:
    """The same gradients from batches of one row: nothing here knows a layer rule."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    ids = RowOwners.of(owner).ids
    totals = [torch.zeros(len(ids), *p.shape, dtype=torch.float64) for p in parameters]
    for row in range(len(owner)):
        loss = (losses(torch.tensor([row])) * weight[row]).sum()
        for total, gradient in zip(totals, torch.autograd.grad(loss, parameters, allow_unused=True)):
            if gradient is not None:
                total[ids.index(int(owner[row]))] += gradient
    return totals


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-4) -> None:
    """Relative to the largest entry of each tensor."""
    assert len(found) == len(expected)
    for got, want in zip(found, expected):
        assert got.shape == want.shape
        scale = float(want.abs().max()) if want.numel() else 0.0
        assert float((got.double() - want.double()).abs().max()) <= tolerance * scale + 1e-12
