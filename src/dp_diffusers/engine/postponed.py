"""A layer's gradients of owners that are not written out: known by their lengths and by their weighted sum.

Guarantees: `lengths` are those of what `weighted_sum` adds for an owner, but for the rounding of sums in
which nothing cancels; an owner of weight zero adds exactly zero, whatever it holds. May import torch and the
engine's owners. Source: Bu et al., *Differentially Private Optimization on Large Model at Small Cost* (2022,
arXiv 2210.00038), book-keeping.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from dp_diffusers.engine.owners import RowOwners

BLOCK: Final = 16  # owners in one sum of float32; the sums of blocks are added in float64
LARGEST_INPUT: Final = 1e15
LARGEST_BACKPROP: Final = 1e36  # times the largest factor of a clipping rule it is still a float32
LARGEST_SUM: Final = 1e38  # of the lengths of the products of an owner: no sum of them leaves float32
_REACH: Final = 2.0**-120  # a weighted backprop is then below 2^121, which float32 holds
_UNIT_ROUNDOFF: Final = 2.0**-24  # of float32
_TOO_MUCH: Final = 1e-4  # of a length, for the rounding of float32; ordinary layers have less than 2e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class Postponed:
    """Gradients `[U, *shape]` of a weight, as what they are computed from: R = U * K rows, K for each owner.

    An owner with an input or backprop beyond `LARGEST_INPUT` or `LARGEST_BACKPROP`, or that is not finite, is
    written out alone: it counts where its gradient is finite in float32, as it does where a whole layer is
    written out, and has the length infinity where it is not, so that the clipped sum leaves it out.
    For all others a weight of at most clip norm / length keeps every product in float32 below 1e6 clip norms.
    """

    inputs: Tensor  # [R, ...] float32 or better
    backprop: Tensor  # [R, ...] the same
    owners: RowOwners
    shape: torch.Size  # of the weight
    lengths: Tensor  # [U] float64
    cancels: Tensor  # [U] bool, of owners that are written out after all, each alone, in float64
    write: Callable[[Tensor, Tensor, RowOwners], Tensor]  # inputs, backprop, owners -> [U, *shape]
    add_up: Callable[[Tensor, Tensor], Tensor]  # inputs, backprop -> [*shape], over all rows

    def written_out(self) -> Tensor:
        """`[U, *shape]`; that of owners whose positions cancel is rounded once, from float64."""
        written = self.write(self.inputs, self.backprop, self.owners)
        for owner in torch.nonzero(self.cancels)[:, 0]:
            written[owner] = self._alone(owner).to(written.dtype)
        return written

    def of(self, positions: Tensor) -> Postponed:
        """Those of some owners, by their positions (int64)."""
        count, fold = len(positions), self.owners.fold
        index = torch.arange(count, device=positions.device).repeat_interleave(fold)
        rows = (positions[:, None] * fold + torch.arange(fold, device=positions.device)).flatten()
        return replace(
            self,
            inputs=self.inputs[rows],
            backprop=self.backprop[rows],
            owners=RowOwners(ids=list(range(count)), index=index, fold=fold),
            lengths=self.lengths[positions],
            cancels=self.cancels[positions],
        )

    def apart(self) -> Postponed:
        """With inputs of its own: the caller may fill a buffer anew before the sum is taken."""
        return replace(self, inputs=self.inputs.clone())

    def measured(self) -> Postponed:
        """With the lengths of what is written out for those that cancel or are too large, in place."""
        for owner in torch.nonzero(self.cancels | self.lengths.isinf())[:, 0]:
            # who counts must not depend on the way that other owners make this layer take
            counts = self._is_finite_in_its_precision(owner)
            self.lengths[owner] = self._alone(owner).norm() if counts else torch.inf
            self.cancels[owner] = counts
        return self

    def _is_finite_in_its_precision(self, owner: Tensor) -> bool:
        one = self.of(owner.view(1))
        return bool(self.write(one.inputs, one.backprop, one.owners).isfinite().all())

    def _alone(self, owner: Tensor) -> Tensor:
        """The gradient of one owner, float64 `[*shape]`."""
        one = self.of(owner.view(1))
        return self.write(one.inputs.double(), one.backprop.double(), one.owners)[0]

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """`sum_u weights[u] * gradient[u]` for `weights [U]` (float64, >= 0), float64 `[*shape]`.

        The weight of an owner goes into its backprops, and one plain weight gradient serves a block of
        owners. What is left out is replaced by zeros on both sides first (0 * NaN is NaN). A power of two
        near the longest weighted gradient is taken out first: beside large inputs the backprops would be
        below what float32 can tell apart, and what is rounded there could double a small clip norm.
        """
        total = torch.zeros(self.shape, dtype=torch.float64, device=weights.device)
        for owner in torch.nonzero(self.cancels & (weights > 0))[:, 0]:
            total += weights[owner] * self._alone(owner)
        weights = weights.masked_fill(self.cancels, 0.0)
        scale = self._scale(weights)
        weights, in_blocks = weights / scale, torch.zeros_like(total)
        whole = bool((weights > 0).all())
        size = BLOCK * self.owners.fold
        per_row = weights.repeat_interleave(self.owners.fold)
        for part in zip(
            *(torch.split(rows, size) for rows in (self.inputs, self.backprop, per_row)), strict=True
        ):
            inputs, backprop, factors = part
            scaled = (backprop * _beside(factors, backprop)).to(backprop.dtype)
            if not whole:
                inputs = torch.where(_beside(factors, inputs) > 0, inputs, 0.0)
                scaled = torch.where(_beside(factors, scaled) > 0, scaled, 0.0)
            in_blocks += self.add_up(inputs, scaled)
        return total + in_blocks * scale

    def _scale(self, weights: Tensor) -> Tensor:
        """The power of two below the longest weighted gradient, float64; one half where all are left out.

        A larger one where backprops would leave float32 at the other end: those beside inputs of nothing.
        """
        largest = self.backprop.abs().flatten(1).amax(1).double().view(-1, self.owners.fold).amax(1)
        longest = (weights * self.lengths).nan_to_num(0.0, 0.0).max()
        reach = (weights * largest).nan_to_num(0.0, 0.0).max() * _REACH
        most = torch.maximum(longest, reach)
        return torch.ldexp(torch.ones_like(most), torch.frexp(most).exponent - 1)


Gradient = Tensor | Postponed


def written_out(gradient: Gradient) -> Tensor:
    """`[U, *shape]` in any case."""
    return gradient.written_out() if isinstance(gradient, Postponed) else gradient


def measured(squares: Tensor, absolute: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """Lengths, `[U]` float64, and which owners' positions cancel, so that they are not to be trusted.

    squares: `[U]`, squared lengths from Gram matrices in float64. absolute: `[U]`, the sum over positions of
    the lengths of the products that make up the gradient. terms: positions of an owner. The float32 sum over
    n terms is off by about sqrt(n) units of rounding times `absolute` (Higham & Mary 2019, SIAM J. Sci.
    Comput. 41(5)), at worst by n; and the root of a small square by what float64 has lost. Nothing is added
    to a length: with one of other rows in the pass all are written out, and nobody's length may change then.
    """
    lengths = squares.clamp(min=0.0).sqrt()
    rounding = _UNIT_ROUNDOFF * (2.0 + math.sqrt(BLOCK * terms)) * absolute
    return lengths, rounding > _TOO_MUCH * lengths


def _beside(factors: Tensor, rows: Tensor) -> Tensor:
    return factors.view(-1, *[1] * (rows.ndim - 1))


def first_of(gradient: Gradient | None, count: int) -> Gradient | None:
    """That of the first `count` owners of a pass."""
    if isinstance(gradient, Postponed):
        return gradient.of(torch.arange(count, device=gradient.lengths.device))
    return None if gradient is None else gradient[:count]
