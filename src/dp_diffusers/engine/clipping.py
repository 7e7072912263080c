"""Clipping: each owner's whole raw gradient is scaled once, then added; no owner can move the sum by more
than C.

Guarantees: norms, factors and sums in float64, so that 1e30 neither overflows nor leaks; an owner with a
non-finite loss or gradient contributes exactly zero, masked before any contraction. May import torch and the
errors. Source: Abadi et al., *Deep Learning with Differential Privacy* (2016, arXiv 1607.00133).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dp_diffusers.errors import GuaranteeError, positive, unknown_name

ClippingRule = Callable[[Tensor, float], Tensor]  # (norms [U] float64, clip_norm) -> factors [U] float64

_RULES: dict[str, ClippingRule] = {}
_VALUES_PER_BLOCK = 1 << 17  # float64 copies of one block of owners stay inside the cache


def clipping_rule(name: str) -> Callable[[ClippingRule], ClippingRule]:
    """Registers a clipping rule: factors in [0, 1] with `factors * norms <= clip_norm`."""

    def register(function: ClippingRule) -> ClippingRule:
        _RULES[name] = function
        return function

    return register


def clipping_rules() -> dict[str, ClippingRule]:
    """All registered rules by name."""
    return dict(_RULES)


@clipping_rule("flat")
def flat(norms: Tensor, clip_norm: float) -> Tensor:
    """`min(1, C / norm)`.

    | norm | factor |
    |------|--------|
    | 0    | 1      |
    | <= C | 1      |
    | > C  | C/norm |
    """
    return (clip_norm / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)


@dataclass(kw_only=True)
class _Pending:
    """Raw gradients of the last pass; its owners may still get rows from the next one."""

    ids: list[int]
    gradients: list[Tensor | None]  # [U, *shape] each
    usable: Tensor  # [U] bool


class ClippedSum:
    """The running sum of clipped gradients of one step.

    Guarantees
    - Rows of one owner in consecutive passes are summed before the owner is clipped, once.
    - An owner that returns after it was closed raises `GuaranteeError` before anything is added.
    - A rule that would let an owner exceed `clip_norm` raises `GuaranteeError` before anything is added.
    """

    def __init__(self, parameters: Sequence[Tensor], clip_norm: float, clipping: str) -> None:
        positive(clip_norm=clip_norm)
        if clipping not in _RULES:
            raise unknown_name("clipping rule", clipping, _RULES)
        self._clip_norm = clip_norm
        self._rule = _RULES[clipping]
        self._parameters = list(parameters)
        self._pending: _Pending | None = None
        self._closed: set[int] = set()
        self._totals = self._zeros()

    def __repr__(self) -> str:
        return f"ClippedSum(clip_norm={self._clip_norm})"

    def refuse_returning(self, ids: Sequence[int]) -> None:
        """Raises `GuaranteeError` if any of the owners was already clipped in this step."""
        if not self._closed.isdisjoint(ids):
            raise GuaranteeError(
                "an owner came back after it was clipped: it would be clipped twice and count twice",
                hint="keep all rows of an owner in one pass or in consecutive passes",
            )

    def add(self, ids: list[int], gradients: list[Tensor | None], usable: Tensor) -> None:
        """Takes one pass: `gradients [U, *shape]` (kept, and added to), `usable [U]` false for a non-finite
        owner."""
        self.refuse_returning(ids)
        last, self._pending = self._pending, _Pending(ids=ids, gradients=list(gradients), usable=usable)
        if last is not None:
            self._close(last, self._carry_over(last, self._pending))

    def take(self) -> list[Tensor]:
        """The clipped sums, float64 in parameter order; the state is cleared for the next step."""
        if self._pending is not None:
            self._close(self._pending, set())
        totals, self._totals = self._totals, self._zeros()
        self._pending, self._closed = None, set()
        return totals

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros(p.shape, dtype=torch.float64, device=p.device) for p in self._parameters]

    def _carry_over(self, last: _Pending, now: _Pending) -> set[int]:
        """Adds the raw gradients of owners that go on in this pass; returns their positions in the last
        one."""
        place = {owner: position for position, owner in enumerate(now.ids)}
        carried = [(position, place[owner]) for position, owner in enumerate(last.ids) if owner in place]
        if not carried:
            return set()
        source, target = (torch.tensor(side, device=now.usable.device) for side in zip(*carried))
        for which, before in enumerate(last.gradients):
            if before is not None:
                after = now.gradients[which]
                if after is None:
                    after = before.new_zeros(len(now.ids), *before.shape[1:])
                now.gradients[which] = after.index_add_(0, target, before[source].to(after.dtype))
        now.usable = now.usable.clone()
        now.usable[target] &= last.usable[source]
        return {position for position, _ in carried}

    def _close(self, batch: _Pending, still_open: set[int]) -> None:
        """Clips the owners of a pass (except those still open) and adds them to the sums."""
        norms = self._norms(batch)
        # In float64 a sum of squares of float32 numbers is finite exactly when all of them are.
        usable = batch.usable & norms.isfinite()
        norms = torch.where(usable, norms, 0.0)
        factors = self._rule(norms, self._clip_norm)
        if bool((factors * norms > self._clip_norm * (1 + 1e-9)).any()) or bool((factors > 1).any()):
            raise GuaranteeError("the clipping rule lets an owner exceed the clip norm")
        closing = usable.clone()
        closing[list(still_open)] = False
        self._contract(batch, torch.where(closing, factors, 0.0), usable)
        self._closed.update(owner for position, owner in enumerate(batch.ids) if position not in still_open)

    @staticmethod
    def _norms(batch: _Pending) -> Tensor:
        squares = torch.zeros(len(batch.ids), dtype=torch.float64, device=batch.usable.device)
        for gradient in batch.gradients:
            if gradient is not None:
                for rows, total in _blocks(gradient, squares):
                    total += rows.square_().sum(1)
        return squares.sqrt()

    def _contract(self, batch: _Pending, factors: Tensor, usable: Tensor) -> None:
        """Adds `sum_u factors[u] * gradient[u]` in float64, unusable owners replaced by zeros first (0 * NaN
        is NaN)."""
        masked = not bool(usable.all())
        for gradient, total in zip(batch.gradients, self._totals):
            if gradient is None:
                continue
            if masked:
                keep = usable.view(-1, *[1] * (gradient.ndim - 1))
                gradient = torch.where(keep, gradient, 0.0)
            flat_total = total.view(-1)
            for rows, factor in _blocks(gradient, factors):
                flat_total += factor @ rows


def _blocks(gradient: Tensor, per_owner: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Float64 copies `[block, D]` of a gradient `[U, *shape]`, one at a time, each with its part of a vector
    `[U]`."""
    rows = gradient.reshape(len(gradient), -1)
    size = max(1, _VALUES_PER_BLOCK // max(1, rows.shape[1]))
    for block, part in zip(torch.split(rows, size), torch.split(per_owner, size)):
        yield block.to(torch.float64, copy=True), part
