"""The part of a run that pays, in the one process that does: its folder, its plan, its account.

Guarantees: the recipe is written and the base checked before the ledger is touched; the whole cost is in the
ledger when `open` is done; what charged nothing leaves nothing. May import the ledger and the run's files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dp_diffusers.plan import Plan
from dp_diffusers.recipe.yaml_lines import dump
from dp_diffusers.run.accounts import account_of, forget_unspent
from dp_diffusers.run.base_of_run import require_base_of_run
from dp_diffusers.run.earlier_recipe import require_same_recipe
from dp_diffusers.run.folder import RUN, RunFolder
from dp_diffusers.run.jobs import Job
from dp_diffusers.run.plan_of_run import plan_of_run
from dp_diffusers.undisturbed import undisturbed
from dp_diffusers.whole_files import write_text


@dataclass(kw_only=True)
class Paying:
    """account: the run's reservation; None before `open`, without privacy, and in processes that do not pay.

    fresh: whether the run began with this start.
    """

    folder: RunFolder
    account: Any = None
    fresh: bool = field(default=False, init=False)

    def begin(self, job: Job) -> Plan:
        """The plan that the run began with. Raises `RunFolderError` for another plan, base or recipe.

        The recipe is looked at once more: another process may have begun here since the first look.
        """
        folder = self.folder
        require_same_recipe(folder, job.settings)
        if not folder.recipe.exists():
            write_text(folder.recipe, dump(job.settings))
        self.fresh = folder.read(RUN) is None
        plan = plan_of_run(job.plan, folder)
        require_base_of_run(job, folder)
        return plan

    def open(self, job: Job, keys: Any) -> None:
        """Reserves the cost of the run, or finds it reserved, and opens a lane for the keys."""
        if not job.plan.not_private:
            self.account = account_of(job, self.folder)
            self.account.open_lane(keys, folder=str(self.folder.root.resolve()))

    def forget(self) -> None:
        """Gives the reservation back where nothing was spent; a launcher's SIGTERM waits for it."""
        with undisturbed():
            forget_unspent(self.account, self.folder, self.fresh)
