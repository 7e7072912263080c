"""When the teacher of a run looks at images: at public ones before anything is adapted, at private ones once.

Guarantees: of several processes the first alone has a teacher; it is asked before the first step, or after
the last one by what the steps released. May import torch and the two parts of a teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dp_diffusers.diffusion.family import Family
from dp_diffusers.errors import ParameterError
from dp_diffusers.processes import Team
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.run.jobs import Job
from dp_diffusers.runtime.compiled_parts import uncompiled
from dp_diffusers.teaching.asked_teacher import kept_network, released_teacher
from dp_diffusers.teaching.prepared_teacher import (
    PreparedTeacher,
    drawn_scaling,
    prepared_teacher,
    require_teacher,
)
from dp_diffusers.teaching.teacher import Teacher


def teacher_of(
    job: Job, family: Family, device: Any, together: Team, folder: RunFolder
) -> PreparedTeacher | None:
    """Looks at the base before anything is adapted; None in all processes but the first, which asks."""
    classes = require_teacher(job.plan, job.teacher, family, job.settings)
    if job.teacher is None or classes is None:
        return None
    if job.runtime.shard_base and job.teacher.public is None:
        raise ParameterError(
            "with runtime.shard_base no process holds the model, which is to draw images for the teacher",
            hint="set teacher.public, and leave teacher.drawn_by out",
        )
    if not together.first:
        return None
    home = next(family.network.parameters()).device  # adapters begin alike in every process and start
    try:
        if job.teacher.public is None and job.teacher.drawn_by == "base":
            family.network.to(device)
        return prepared_teacher(
            job.teacher,
            classes,
            family,
            job.settings,
            private=job.place,
            folder=folder,
            progress=job.progress,
        )
    finally:
        family.network.to(home)


@dataclass(frozen=True, kw_only=True, eq=False)
class Asking:
    """What the private images teach about their classes: asked once, before the steps or after them.

    shared: data, account, keys and folder of the run.
    """

    job: Job
    family: Family
    prepared: PreparedTeacher | None
    shared: dict[str, Any]

    def before_the_steps(self) -> Teacher | None:
        """The teacher of a run whose base draws; of another one a copy of its network, for later."""
        if self.prepared is None:
            return None
        if self.prepared.after_the_steps:
            kept_network(self.shared["folder"], self.prepared)
            return None
        return self._released(self.prepared)

    def after_the_steps(self) -> Teacher | None:
        """The teacher of a run whose trained model draws: `family` holds what the steps released."""
        if self.prepared is None or not self.prepared.after_the_steps:
            return None
        with uncompiled(self.job.runtime.compile):
            return self._released(self.prepared)

    def _released(self, prepared: PreparedTeacher) -> Teacher | None:
        job, scaling = self.job, prepared.scaling
        draw = partial(drawn_scaling, prepared, self.family, job.settings, job.progress)
        scale: Callable[[], Any] = draw if scaling is None else lambda: scaling
        return released_teacher(job.plan, prepared, scale, progress=job.progress, **self.shared)
