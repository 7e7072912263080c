"""What a run trains, prepared before any private image is opened.

Guarantees nothing by itself: `running` makes it. May import torch through the families.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dp_diffusers.diffusion.family import Family
from dp_diffusers.loop.public_batches import PublicBatches
from dp_diffusers.queries.asked_moments import Moments
from dp_diffusers.queries.saliency_choice import with_network
from dp_diffusers.recipe import RuntimeSettings
from dp_diffusers.teaching.prepared_teacher import PreparedTeacher


@dataclass(kw_only=True)
class Model:
    """What is trained: the family, peft's configuration of its adapter, and public images mixed in.

    config: None where nothing is trained. candidates: where private images choose the layers, a copy of the
    network with all that may be chosen; nothing is adapted until they have. runtime: the job's, with the rows
    of a pass in numbers. teacher: all of it that is public, in the process that asks. moments: what a
    warm-up asks about.
    """

    family: Family
    runtime: RuntimeSettings
    config: Any = None
    public: PublicBatches | None = None
    candidates: Any = None
    teacher: PreparedTeacher | None = None
    moments: Moments | None = None

    @property
    def largest(self) -> Family:
        """With all that a pass may have to take the gradient of."""
        return self.family if self.candidates is None else with_network(self.family, self.candidates)
