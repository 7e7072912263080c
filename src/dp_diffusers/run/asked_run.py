"""A finished run as its owner asks it something: its plan, its ledger, and the images that it was trained on.

Guarantees that unit, adjacency, delta, cap and population of a question are those of the run, and that images
which the run would have refused, given no slot, or never saw are refused or left out of an answer as well.
May import the plan and the recipe; the libraries of a training inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.drawing.kept_images import FOLDER
from dp_diffusers.errors import DataError, ParameterError, RunFolderError
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import SAME_AS_BUDGET, Budget
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.files import hashes
from dp_diffusers.queries.class_histogram import takes_part
from dp_diffusers.run.folder import RUN, RunFolder
from dp_diffusers.run.run_secrets import last_traces

UNCOMPARED = (
    "whether these are the images that the run was trained on cannot be told: its private folder knows none"
)
OPENED = "give private= and ledger=: this run was made by a call in Python, whose images have no path"


@dataclass(frozen=True, kw_only=True)
class AskedRun:
    """plan: of the run's training; None without privacy. open_images: its private images, of a size and a
    number of channels.

    source: what names them, `data.path` or `private=`, for a message.
    """

    folder: RunFolder
    plan: Plan | None
    ledger: str | None
    source: str
    open_images: Callable[[int, int], PrivateImages]

    @classmethod
    def open(
        cls, run: str | Path, *, private: PrivateImages | None = None, ledger: str | Path | None = None
    ) -> AskedRun:
        """The finished run in `run`; opens no private image.

        private, ledger: for a run that `finetune` made, whose images and ledger no recipe names. Raises
        `RunFolderError` for a run that has not finished, or whose private folder is gone.
        """
        folder = RunFolder(Path(run))
        folder.require_finished()
        plan = _plan_of(folder)
        recipe = folder.settings() if folder.recipe.exists() else {}
        known = (recipe.get("budget") or {}).get("ledger")
        path = (recipe.get("data") or {}).get("path")
        return cls(
            folder=folder,
            plan=plan,
            ledger=str(ledger) if ledger is not None else known,
            source="data.path" if private is None else "private=",
            open_images=_opener(folder, path, private),
        )

    @property
    def images(self) -> Path:
        """Where the released images lie."""
        return self.folder.release / FOLDER

    def budget_of_question(self, epsilon: float) -> Budget:
        """What a question of this epsilon may spend, under the terms of the run.

        Raises `ParameterError` for a run without privacy, or an epsilon out of range.
        """
        if self.plan is None or (budget := self.plan.budget) is None:
            raise ParameterError(
                f"{self.folder.root} is not private, so there is no ledger to charge",
                hint="leave --charge out; what such a run makes may show its images",
            )
        cap = SAME_AS_BUDGET if budget.asks_for_no_cap else budget.cap
        return Budget(epsilon, budget.delta, budget.unit, budget.adjacency, cap)

    @property
    def population(self) -> int:
        """How many units the run declared. Raises `ParameterError` for a run without privacy."""
        if self.plan is None:
            raise ParameterError(f"{self.folder.root} is not private, and protects nobody")
        return self.plan.mechanism.population

    def require_certified_images(self) -> None:
        """Raises `RunFolderError` unless the released images are those that the certificate lists.

        The cost of an answer is that of a question fixed beforehand: images that others than the run put
        there could hold anything.
        """
        if not self.images.is_dir():
            raise RunFolderError(f"{self.images} holds no images", hint="`dp-diffusers generate` makes them")
        listed = Certificate.read(self.folder.release).files
        found = {f"{FOLDER}/{name}": digest for name, digest in hashes(self.images).items()}
        if not found or any(listed.get(name) != digest for name, digest in found.items()):
            raise RunFolderError(
                f"{self.images} holds other images than the certificate lists",
                hint="move the folder away and generate again, or restore it",
            )

    def require_as_trained(self, data: PrivateImages) -> bool:
        """Raises what the training would have raised for these images, before anything was charged.

        And `ParameterError` where the safe knows that the run learnt from others: of these, nothing that it
        shows could be a copy. Returns whether the safe knows.
        """
        if self.plan is not None:
            from dp_diffusers.run.running import require_unit

            require_unit(self.plan, data)
            self.plan.sampler(data.unit_count, self.plan.fresh_keys())  # refuses units without a slot
        same = last_traces(self.folder).are_of(data.images, data.unit_count)
        if same is False:
            raise ParameterError(
                f"the images at {self.source} are not those that the run was trained on",
                hint="put back the very images of the training, none more or fewer; nothing was charged",
            )
        return same is True

    def takes_part(self, data: PrivateImages) -> np.ndarray:
        """bool `[N]`: images that the training could use; others are nobody's here either."""
        if self.plan is None:
            return np.ones(len(data.owner), bool)
        return takes_part(self.plan, data)


def _plan_of(folder: RunFolder) -> Plan | None:
    record = folder.read(RUN)
    if record is None:
        raise RunFolderError(
            f"{folder.private} does not know this run any more",
            hint="ask where the run was made: its private folder says what it was charged",
        )
    return Plan.from_json(record["plan"]) if "plan" in record else None  # without privacy none is noted


def _opener(
    folder: RunFolder, path: str | None, private: PrivateImages | None
) -> Callable[[int, int], PrivateImages]:
    if private is not None:
        plan = _plan_of(folder)
        known = private if plan is None or plan.budget is None else private.of_unit(plan.budget.unit)
        return lambda size, channels: _fitting(known, size, channels)
    if path is None:
        raise ParameterError(f"the private images of {folder.root} are not known", hint=OPENED)

    def open_images(size: int, channels: int) -> PrivateImages:
        from dp_diffusers.recipe import Recipe
        from dp_diffusers.run.jobs import opened

        return opened(Recipe.load(folder.recipe), size, channels)

    return open_images


def _fitting(private: PrivateImages, size: int, channels: int) -> PrivateImages:
    """Images that a caller holds. Raises `DataError` unless they have the shape that is asked for."""
    if private.images.shape[1:] != (size, size, channels):
        raise DataError(
            f"expected private images of shape {(size, size, channels)}, got {private.images.shape[1:]}",
            hint="open them with size= and channels= of the model",
        )
    return private
