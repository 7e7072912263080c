"""The closed box between losses and optimiser: losses per row go in, a noisy sum comes out, against a
receipt.

Guarantees: one owner moves the sum by at most the clip norm, whatever its rows; nobody outside holds a sum
without noise; noise needs the ledger's receipt of its step. May import torch and the engine's parts, never
dp_accounting. Source: Abadi et al. (2016, arXiv 1607.00133), with several rows per owner as in De et al.
(2022, arXiv 2204.13650) and, where the clip norm adapts, the count of Andrew et al. (2021, arXiv 1905.03871).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dp_diffusers.engine.clipping import ClippedSum
from dp_diffusers.engine.clipping_rules import rule_named
from dp_diffusers.engine.dry_run import Losses, rehearse
from dp_diffusers.engine.flat import apart, together
from dp_diffusers.engine.groups import layer_groups
from dp_diffusers.engine.noise import noise_std, noisy
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.passes import check_pass, set_grads, trainable_of
from dp_diffusers.engine.postponed import first_of
from dp_diffusers.engine.quantile import Quantile
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.engine.together import ONE_PROCESS, Together
from dp_diffusers.engine.unit_grads import HookedUnitGradients, ReferenceUnitGradients, UnitGradientSource
from dp_diffusers.errors import GuaranteeError, ParameterError, positive


class Receipt(Protocol):
    """Proof that a step was paid for; `redeem` raises when it is used twice or does not match."""

    def redeem(self, step: int, lane: bytes, plan_fingerprint: str) -> None:
        """Uses the receipt up."""


class PrivateGradient:
    """The DP-SGD gradient of one model, step by step: `accumulate` any number of passes, then `release`.

    `parameters` is the module (fast: hooks on the layers that own its trainable parameters) or an iterable of
    parameters (exact and slow: one backward pass per owner). One call of `accumulate` belongs to the forward
    pass just before it; a forward pass that is given up contributes nothing.

    Guarantees
    - One owner moves the clipped sum by at most `clip_norm` (1 + 1e-5), for every number of rows; in large
      layers (`postponed`) values made to cancel just so may add their rounding to that (docs/design/0021).
    - An owner with a non-finite loss or gradient contributes exactly zero.
    - Pay, then noise: `release` redeems the receipt before it draws, and no step is released twice in a lane.
    - A step without any `accumulate` still releases noise.
    - What `start_over` threw away, or a `release` that failed or was refused has left, is in no later
      release; nor is what was accumulated for a step that was left out between two others.
    - With a `quantile` (clipping `adaptive`) the clip norm of a step follows from earlier releases alone.
    - Of several processes (`join`), the first alone is paid for and adds noise, once, to the sum of all; the
      others get what it released.

    `quantile`: the count that moves the clip norm; its noise and that of the gradient are one release, and
    whoever makes the box has split the accounted noise between them. Raises `ModelError` for layers that mix
    units or have no gradient rule, `ParameterError` for numbers out of range.
    """

    def __init__(
        self,
        parameters: nn.Module | Iterable[nn.Parameter],
        *,
        clip_norm: float,
        noise_multiplier: float,
        expected_units: float,
        keys: RunKeys,
        plan_fingerprint: str,
        clipping: str = "flat",
        quantile: Quantile | None = None,
    ) -> None:
        positive(clip_norm=clip_norm, noise_multiplier=noise_multiplier, expected_units=expected_units)
        _check_quantile(clipping, quantile)
        if not hasattr(keys, "claim"):  # what is given is a secret, perhaps: it is not shown
            raise ParameterError("expected the keys of a run", hint="`Plan.fresh_keys()` draws them")
        groups = _groups(parameters, clipping)
        self._source = _source(parameters)
        self._sum = ClippedSum(self._source.parameters, clip_norm, clipping, groups)
        self._start, self._quantile = clip_norm, quantile
        self._noise_multiplier = noise_multiplier
        self._std = noise_std(clip_norm, noise_multiplier)
        self._expected_units = expected_units
        self._keys = keys
        self._plan_fingerprint = plan_fingerprint
        self._together: Together = ONE_PROCESS
        self._gathered: tuple[list[Tensor], float] | None = None
        self._next: int | None = None  # step after the last release; None where any may follow

    def join(self, together: Together) -> None:
        """Makes this box one of several, of a training in several processes. Before the first pass."""
        self._together = together

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in the order of what `release` returns."""
        return list(self._source.parameters)

    def rehearse(self, losses: Losses, *, rows: int = 4) -> None:
        """Tries the box on random rows, before a loop of one's own opens private ones. Raises `ModelError`.

        `losses(index)` gives one loss per number in `index` (int64 `[n]`, from 0..rows-1, with repeats), as
        the loop will, for `rows` prepared random inputs: `lambda index: model(x[index]).square().mean(1)`.
        Rows that depend on each other, a model that draws random numbers, tensors that no loss reaches, and
        gradients of rows that are not those of a batch of one are found; they are in `train` and `finetune`.
        A box cannot see them in its passes, and without the rehearsal they void its guarantees unsaid.
        Nothing is added, and parameters are left as they were.
        """
        rehearse(self._source, losses, rows=rows)

    def accumulate(
        self, row_losses: Tensor, owner: Tensor, weight: Tensor, *, complete: bool = False, filling: int = 0
    ) -> None:
        """Adds one pass: `row_losses [R]` in the graph, `owner [R]` int64, `weight [R]` (1/K for K rows of an
        owner).

        Rows of an owner may span consecutive passes. Raises `GuaranteeError` for an owner that comes back
        later, `ModelError` for a layer whose rows are not these, both before anything is added; no rows is a
        no-op. complete: no owner of this pass has rows in the next one, which saves memory; one that has
        comes back later. filling: the last so many rows, under owners of their own, are nobody's: they make
        passes of one size, as a kernel for fewer rows rounds otherwise (in bfloat16 or TF32 by more than the
        noise covers), and are dropped.
        """
        try:
            check_pass(row_losses, owner, weight)
            if len(row_losses) == 0:
                return
            if self._gathered is not None:
                raise GuaranteeError("the sums of this step were gathered: nothing can be added to them")
            owners = RowOwners.of(owner.to(row_losses.device))
            kept = owners.count_without(filling)
            self._sum.refuse_returning(owners.ids[:kept])
            weight = weight.detach().to(row_losses)
            gradients = self._source.compute(row_losses, weight, owners)
            usable = owners.all_rows(row_losses.detach().isfinite())
            if kept < owners.count:
                gradients = [first_of(gradient, kept) for gradient in gradients]
            self._sum.add(owners.ids[:kept], gradients, usable[:kept], complete=complete)
        finally:
            self._source.forget()

    def discard(self, row_losses: Tensor) -> None:
        """Does the work of a pass for rows `[R]` that belong to nobody, and drops what it finds."""
        try:
            owners = RowOwners.of(torch.arange(len(row_losses), device=row_losses.device))
            self._source.compute(row_losses, torch.ones_like(row_losses), owners)
        finally:
            self._source.forget()

    def gather(self) -> None:
        """Ends the passes of a step: the first of several processes gets the sums of all, in its box.

        It comes before the payment, so that a process that dies until then costs nothing. Raises
        `GuaranteeError` in all of them if an owner is on two.
        """
        if self._gathered is not None:
            raise GuaranteeError("the sums of this step were gathered before")
        self._together.refuse_shared(self._sum.owners)
        totals, surplus = self._sum.take()
        halves = torch.tensor([surplus], dtype=torch.float64)
        self._together.sum_to_first([*totals, halves])
        self._gathered = totals, float(halves)

    def release(self, step: int, receipt: Receipt | None) -> list[Tensor]:
        """Ends the step: noisy SUMS (float32, parameter order); each `p.grad` becomes its sum /
        expected_units.

        Raises `GuaranteeError` without a valid receipt for this step and lane, and for a step released
        before, or that does not follow the last one (a loop that goes on although it got no receipt calls
        `start_over`); the sum is thrown away then, as it is wherever this fails. Of several processes only
        the first has a receipt; the others wait for what it releases.
        """
        if not self._together.first:
            return self._shared(
                [torch.zeros_like(p.detach(), dtype=torch.float32) for p in self._source.parameters]
            )
        try:
            self._redeem(step, receipt)
        except BaseException:
            self.start_over()  # the samples of two steps in one release are more than was accounted
            raise
        self._std = noise_std(self._sum.clip_norm, self._noise_multiplier)
        if self._gathered is None:
            self.gather()
        totals, surplus = self._taken()
        released = apart(noisy(together(totals), self._keys, step, self._std), totals)
        if self._quantile is not None:
            share = self._quantile.share(surplus, self._expected_units, self._keys, step)
            self._sum.clip_norm = self._quantile.followed(self._sum.clip_norm, share, self._start)
        return self._shared(released)

    def _redeem(self, step: int, receipt: Receipt | None) -> None:
        """Uses receipt and step up. Raises `GuaranteeError` as `release` does."""
        if receipt is None:
            raise GuaranteeError(
                "noise needs the ledger's receipt for this step",
                hint="pass what `Reservation.charge(step)` returned",
            )
        if self._keys.claimed(step):
            raise GuaranteeError(
                f"step {step} was already released in this lane: its noise would be repeated"
            )
        if self._next not in (None, step):
            raise GuaranteeError(
                f"step {step} comes where step {self._next} was to be released: what was accumulated for "
                "that one may be in its sum, and is thrown away with it",
                hint="call `start_over` wherever a step is given up, before the next one is accumulated",
            )
        receipt.redeem(step, self._keys.lane, self._plan_fingerprint)
        self._keys.claim(step)
        self._next = step + 1

    def _taken(self) -> tuple[list[Tensor], float]:
        """What was gathered, once."""
        gathered, self._gathered = self._gathered, None
        assert gathered is not None
        return gathered

    def _shared(self, released: list[Tensor]) -> list[Tensor]:
        """What the first process released, and the clip norm that follows from it, in this one too."""
        if self._together.several:
            self._gathered = None
            public = torch.tensor([self._std, self._sum.clip_norm], dtype=torch.float64)
            self._together.copy_from_first([public, *released])
            self._std, self._sum.clip_norm = public.tolist()
        set_grads(self._source.parameters, released, self._expected_units)
        return released

    def finish(self) -> None:
        """Clips the owners whose rows may still have gone on, so that `release` needs memory for noise alone.

        Optional, after the last pass of a step: whatever runs out of memory here has not been paid for.
        """
        self._sum.finish()

    def start_over(self) -> None:
        """Throws away, unseen, what was accumulated since the last release: nothing was paid or released.

        The step may then be accumulated again from its beginning.
        """
        self._source.forget()
        self._sum.start_over()
        self._gathered, self._next = None, None

    def forget(self) -> None:
        """Drops what a forward pass has left behind that will not be accumulated."""
        self._source.forget()

    @property
    def mean_noise_std(self) -> float:
        """Standard deviation of the noise in each entry of `p.grad` after the last release; public."""
        return self._std / self._expected_units

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs, released and public: the clip norm where it adapts, else nothing."""
        return {} if self._quantile is None else {"clip_norm": self._sum.clip_norm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with a saved clip norm. Raises `ParameterError` for the state of another clipping."""
        if set(state) != set(self.state_dict()):
            raise ParameterError(
                "the saved clip norm does not belong to this clipping", hint="resume with the same recipe"
            )
        if state:
            self._sum.clip_norm = float(state["clip_norm"])

    def __repr__(self) -> str:
        return f"PrivateGradient(parameters={len(self._source.parameters)}, {self._keys!r})"


def _source(parameters: nn.Module | Iterable[nn.Parameter]) -> UnitGradientSource:
    given = trainable_of(parameters)
    return (
        HookedUnitGradients(parameters)
        if isinstance(parameters, nn.Module)
        else ReferenceUnitGradients(given)
    )


def _check_quantile(clipping: str, quantile: Quantile | None) -> None:
    if (clipping == "adaptive") != (quantile is not None):
        raise ParameterError(
            f"clipping {clipping!r} {'needs' if quantile is None else 'takes no'} quantile",
            hint="a quantile and clipping 'adaptive' go together",
        )


def _groups(parameters: nn.Module | Iterable[nn.Parameter], clipping: str) -> list[int] | None:
    """The group of each trainable parameter; None where all of them are clipped together."""
    if not rule_named(clipping).per_layer:
        return None
    if not isinstance(parameters, nn.Module):
        raise ParameterError(
            f"clipping {clipping!r} needs the layers, which parameters alone do not show",
            hint="pass the nn.Module instead of its parameters",
        )
    return layer_groups(parameters)
