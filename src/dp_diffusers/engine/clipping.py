"""Clipping: each owner's whole raw gradient is scaled once, then added; no owner can move the sum by more
than C.

Guarantees: norms, factors and sums in float64, so that 1e30 neither overflows nor leaks; an owner with a
non-finite loss or gradient contributes exactly zero, masked before any contraction. May import torch, the
clipping rules and the errors. Source: Abadi et al., *Deep Learning with Differential Privacy* (2016, arXiv
1607.00133).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dp_diffusers.engine.blocks import as_stored, blocks
from dp_diffusers.engine.clipping_rules import rule_named
from dp_diffusers.engine.flat import apart
from dp_diffusers.engine.postponed import Gradient, Postponed
from dp_diffusers.errors import GuaranteeError, positive

_ROUNDING = 1e-9  # of float64, in factors and norms
_EDGE = 1e-3  # of the clip norm, beyond it, where the count of `take` goes from one half to minus one half


@dataclass(kw_only=True)
class _Pending:
    """Raw gradients of the last pass; its owners may still get rows from the next one."""

    ids: list[int]
    gradients: list[Tensor | None]  # [U, *shape] each
    postponed: dict[int, Postponed]  # those by place whose gradients are not written out, and None there
    usable: Tensor  # [U] bool

    @classmethod
    def of(cls, ids: list[int], gradients: Sequence[Gradient | None], usable: Tensor) -> _Pending:
        """One pass: gradients of all parameters, written out or postponed."""
        written = [None if isinstance(gradient, Postponed) else gradient for gradient in gradients]
        postponed = {place: g for place, g in enumerate(gradients) if isinstance(g, Postponed)}
        return cls(ids=ids, gradients=written, postponed=postponed, usable=usable)

    def write_out(self) -> None:
        """Nothing is postponed any longer."""
        for place, gradient in self.postponed.items():
            self.gradients[place] = gradient.written_out()
        self.postponed = {}

    def keep(self) -> None:
        """What is postponed is needed once the caller has gone on, who may fill a buffer anew."""
        self.postponed = {place: gradient.apart() for place, gradient in self.postponed.items()}

    def rows(self, place: int, owners: Tensor) -> Tensor | None:
        """The gradients of some owners, by their positions."""
        if place in self.postponed:
            return self.postponed[place].of(owners).written_out()
        gradient = self.gradients[place]
        return None if gradient is None else gradient[owners]


class ClippedSum:
    """The running sum of clipped gradients of one step.

    Guarantees
    - Rows of one owner in consecutive passes are summed before the owner is clipped, once.
    - An owner that returns after it was closed raises `GuaranteeError` before anything is added.
    - A rule that would let an owner exceed `clip_norm` raises `GuaranteeError` before anything is added.

    `groups`: for each parameter the group that it is clipped in, 0 to G - 1; None is one group of all.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        clip_norm: float,
        clipping: str,
        groups: Sequence[int] | None = None,
    ) -> None:
        positive(clip_norm=clip_norm)
        self._clip_norm = clip_norm
        self._factors = rule_named(clipping).factors
        self._parameters = list(parameters)
        self._groups = [0] * len(self._parameters) if groups is None else list(groups)
        self._pending: _Pending | None = None
        self._closed: set[int] = set()
        self._totals: list[Tensor] = []  # none until an owner is added
        self._surplus = 0.0

    @property
    def clip_norm(self) -> float:
        """C, the most that one owner moves the sum of the running step by."""
        return self._clip_norm

    @clip_norm.setter
    def clip_norm(self, value: float) -> None:
        """Between steps alone. Raises `GuaranteeError` once an owner was added."""
        positive(clip_norm=value)
        if self._pending is not None or self._closed:
            raise GuaranteeError("the clip norm of a step cannot change once the step has begun")
        self._clip_norm = value

    @property
    def owners(self) -> list[int]:
        """The owners that were added in this step; private."""
        return sorted(self._closed.union(() if self._pending is None else self._pending.ids))

    def __repr__(self) -> str:
        return f"ClippedSum(clip_norm={self._clip_norm})"

    def refuse_returning(self, ids: Sequence[int]) -> None:
        """Raises `GuaranteeError` if any of the owners was already clipped in this step."""
        if not self._closed.isdisjoint(ids):
            raise GuaranteeError(
                "an owner came back after it was clipped: it would be clipped twice and count twice",
                hint="keep all rows of an owner in one pass or in consecutive passes",
            )

    def add(
        self, ids: list[int], gradients: Sequence[Gradient | None], usable: Tensor, *, complete: bool = False
    ) -> None:
        """Takes one pass: `gradients [U, *shape]` (kept, and added to), `usable [U]` false for a non-finite
        owner. complete: none of its owners comes back, so that they are clipped and added at once."""
        self.refuse_returning(ids)
        # the last pass is let go before it is added: after an error it is not added once more
        last, self._pending = self._pending, None
        now = _Pending.of(ids, gradients, usable)
        if last is not None:
            self._close(last, self._carry_over(last, now))
        if complete:
            self._close(now, set())
        else:
            now.keep()
            self._pending = now

    def take(self) -> tuple[list[Tensor], float]:
        """The clipped sums, float64 in parameter order, and the sum over owners of +1/2 for each that was no
        longer than the clip norm, -1/2 for each that was, and what is between up to 0.1 % above; the state is
        cleared for the next step, also after an error: what one step has added never reaches another."""
        try:
            self.finish()
            return self._totals or self._zeros(), self._surplus
        finally:
            self._totals, self._surplus, self._pending, self._closed = [], 0.0, None, set()

    def finish(self) -> None:
        """Clips and adds the owners that are still open; none of them may get another row."""
        last, self._pending = self._pending, None
        if last is not None:
            self._close(last, set())

    def start_over(self) -> None:
        """Forgets the step so far; in place, as it is called when memory ran out."""
        for total in self._totals:
            total.zero_()
        self._surplus, self._pending, self._closed = 0.0, None, set()

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
        now.write_out()
        for which in range(len(self._parameters)):
            before = last.rows(which, source)
            if before is not None:
                after = now.gradients[which]
                if after is None:
                    after = before.new_zeros(len(now.ids), *before.shape[1:])
                now.gradients[which] = after.index_add_(0, target, before.to(after.dtype))
        now.usable = now.usable.clone()
        now.usable[target] &= last.usable[source]
        return {position for position, _ in carried}

    def _close(self, batch: _Pending, still_open: set[int]) -> None:
        """Clips the owners of a pass (except those still open) and adds them to the sums."""
        self._totals = self._totals or self._zeros()  # not before a pass has let go of its memory
        norms = self._norms(batch)
        for place, gradient in batch.postponed.items():
            group = norms[:, self._groups[place]]
            group.copy_(torch.hypot(group, gradient.lengths))
        # In float64 a sum of squares of float32 numbers is finite exactly when all of them are.
        usable = batch.usable & norms.isfinite().all(1)
        norms = torch.where(usable[:, None], norms, 0.0)
        factors = self._bounded_factors(norms)
        closing = usable.clone()
        closing[list(still_open)] = False
        # before anything is added: one that an error has added in part does not come back
        self._closed.update(owner for position, owner in enumerate(batch.ids) if position not in still_open)
        factors = torch.where(closing[:, None], factors, 0.0)
        self._contract(batch, factors, usable)
        for place, gradient in batch.postponed.items():
            self._totals[place] += gradient.weighted_sum(factors[:, self._groups[place]])
        self._surplus += float(self._below(norms[closing].square().sum(1).sqrt()).sum())

    def _below(self, lengths: Tensor) -> Tensor:
        """+1/2 at the clip norm and less, -1/2 at C (1 + edge) and more, a line between.

        At a step, the rounding of a length, which differs with who else is in the pass, would move others'
        counts by a whole one.
        """
        beyond = lengths / self._clip_norm - 1.0
        return 0.5 - (beyond / _EDGE).clamp(0.0, 1.0)

    def _bounded_factors(self, norms: Tensor) -> Tensor:
        """The rule's factors `[U, G]`. Raises `GuaranteeError` where an owner would exceed the clip norm."""
        factors = self._factors(norms, self._clip_norm)
        lengths = (factors * norms).square().sum(1).sqrt()
        # written so that a NaN is refused too
        if not bool((factors >= 0).all() and (lengths <= self._clip_norm * (1 + _ROUNDING)).all()):
            raise GuaranteeError("the clipping rule lets an owner exceed the clip norm")
        return factors

    def _norms(self, batch: _Pending) -> Tensor:
        """`[U, G]`: the norm of each owner's gradient in each group."""
        count = max(self._groups, default=0) + 1
        squares = torch.zeros(count, len(batch.ids), dtype=torch.float64, device=batch.usable.device)
        for block in blocks(batch.gradients, self._groups):
            squares[block.group, block.owners] += block.values.square_().sum(1)
        return squares.sqrt().T

    def _contract(self, batch: _Pending, factors: Tensor, usable: Tensor) -> None:
        """Adds `sum_u factors[u, group] * gradient[u]` in float64, unusable owners replaced by zeros first
        (0 * NaN is NaN)."""
        masked = not bool(usable.all())
        for block in blocks(batch.gradients, self._groups):
            if masked:
                block.values.masked_fill_(~usable[block.owners, None], 0.0)
            pairs = zip(self._totals[block.places], batch.gradients[block.places], strict=True)
            totals = [as_stored(total, gradient) for total, gradient in pairs if gradient is not None]
            added = factors[block.owners, block.group] @ block.values
            for total, part in zip(totals, apart(added, totals), strict=True):
                total += part
