"""The training loop itself, with canaries among its units.

Guarantees: everything but the rows of canaries is the loop of `training`: sampler, passes, clip, charge,
noise, optimiser; nothing that it releases is kept but the scores of canaries. May import torch, never the
engine or privacy/. Source: the one-run audit of Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch

from dp_diffusers.auditing.canaries import CanaryRows, Evidence, GradientCanaries
from dp_diffusers.loop.rows import Rows, RowTable
from dp_diffusers.loop.streams import UnitStream
from dp_diffusers.training import Loop


class JointTable(RowTable):
    """Units of images first, included canaries after them."""

    def __init__(self, owner: np.ndarray, canaries: GradientCanaries, **options: int) -> None:
        super().__init__(owner, noise_draws=canaries.noise_draws, **options)
        self._canaries = canaries

    @property
    def unit_count(self) -> int:
        """Units of images and included canaries."""
        return super().unit_count + self._canaries.unit_count

    def passes(self, stream: UnitStream, step: int, units: np.ndarray, rows_per_pass: int) -> Iterator[Rows]:
        """The rows of a step: those of images, then those of canaries, under the units' own numbers."""
        first = super().unit_count
        return chain(
            super().passes(stream, step, units[units < first], rows_per_pass),
            self._numbered(units[units >= first] - first, rows_per_pass, first),
        )

    def _numbered(self, members: np.ndarray, rows_per_pass: int, first: int) -> Iterator[Rows]:
        for rows in self._canaries.passes(members, rows_per_pass):
            yield replace(rows, units=rows.units + first)


@dataclass(kw_only=True)
class AuditedLoop(Loop):
    """A training whose released sums are read at the canaries' entries; its progress shows steps only."""

    canaries: GradientCanaries

    def __post_init__(self) -> None:
        super().__post_init__()
        mechanism = self.plan.mechanism
        self.table = JointTable(
            self.data.owner,
            self.canaries,
            max_images=self.table.max_images,
            augmentations=self.table.augmentations,
            variants=self.table.variants,
        )
        self.evidence = Evidence(
            self.canaries.count,
            sampling_probability=mechanism.sampling_probability,
            noise_multiplier=self.plan.noise_multiplier,
        )
        # after the release, before the optimiser can change what it left
        self.optimizer.register_step_pre_hook(self._observe)

    def _observe(self, *_: Any) -> None:
        mechanism = self.plan.mechanism
        self.evidence.add(self.canaries.read() * (mechanism.expected_units / mechanism.clip_norm))

    def row_losses(self, rows: Rows, step: int) -> torch.Tensor:
        """`[R]`: the losses of one pass, of images as ever, of canaries by their layer."""
        if isinstance(rows, CanaryRows):
            return self.canaries.row_losses(rows)
        return super().row_losses(rows, step)

    def report(self, step: int, steps: int, seconds: float) -> None:
        """One line of progress; nothing is spent, so there is no epsilon in it."""
        self.progress(step=step, steps=steps, seconds=seconds)
