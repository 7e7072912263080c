"""The loop of private fine-tuning, to be read beside the algorithm in the docs.

Guarantees:
- each step is paid for in the ledger before its noise is drawn, and not before its gradient is there;
- nothing but the released, noisy gradient reaches the optimiser, and no private scalar reaches the screen;
- a run that was stopped at any instant resumes, and pays for what it does again;
- several processes are one training: each unit has one of them, and the first alone pays and adds noise.
May import torch; DP-SGD is that of Abadi et al. (2016), with several rows per owner and one clip per owner.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from dp_diffusers import checkpoint
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.engine.precision import exact_convolutions
from dp_diffusers.errors import BudgetExhausted, GuaranteeError, ParameterError, counted
from dp_diffusers.loop.ahead import Ahead, Inputs
from dp_diffusers.loop.augmentation import variants
from dp_diffusers.loop.averaging import Average
from dp_diffusers.loop.encodings import encodings_of
from dp_diffusers.loop.public_batches import PublicBatches
from dp_diffusers.loop.rows import Rows, RowTable
from dp_diffusers.loop.steps import optimizer_of, rate_factor
from dp_diffusers.processes import ALONE, Team
from dp_diffusers.processes.same_weights import sums_of_bits
from dp_diffusers.processes.shares import share_of
from dp_diffusers.queries.warming import Warmup
from dp_diffusers.recipe import RuntimeSettings, TrainingSettings
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.runtime.arrangement import in_precision
from dp_diffusers.runtime.compiled_parts import as_compiled
from dp_diffusers.runtime.out_of_memory import fits, halved
from dp_diffusers.runtime.pass_curve import rows_of_each_pass

Progress = Callable[..., None]
AUTO_ROWS = 256


@dataclass(kw_only=True)
class Loop:
    """One start of one training: what it trains, on what, and where it pays.

    `account` is the ledger's reservation; None for a run without privacy, and in every process of the `team`
    but the first. `warmup` is None once there is a checkpoint.
    """

    family: Family
    data: PrivateImages
    plan: Any
    account: Any
    keys: Any
    training: TrainingSettings
    runtime: RuntimeSettings
    folder: RunFolder
    progress: Progress
    public: PublicBatches | None = None
    warmup: Warmup | None = None
    team: Team = ALONE

    def __post_init__(self) -> None:
        network = self.family.network
        self.trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = optimizer_of(
            self.training.optimizer,
            self.trainable,
            self.training.learning_rate,
            noise_std=self.plan.mechanism.mean_noise_std(self.plan.noise_multiplier) if self.plan else 0.0,
        )
        self.average = Average(self.trainable, self.training.ema)
        shown = variants(self.training.augment or (), self.data.images.shape[1])
        self.table = RowTable(
            self.data.owner,
            noise_draws=self.training.noise_draws,
            max_images=self.training.max_images_per_unit,
            augmentations=self.training.augmentations,
            variants=len(shown),
        )
        self.encodings = encodings_of(self.family, self.data, shown, self.folder.cache)
        self.device = next(network.parameters()).device
        self.ahead = Ahead(self.made_ready, self.device)
        self.step = 0
        self.complete = False
        self.clipping: dict[str, Any] = {}  # what a box that adapts has released so far

    def run(self) -> None:
        """Trains to the plan's last step or the limit of the budget; leaves the average in the network."""
        self.resume()
        if not self.complete:
            self.team.in_turn(lambda: self.encodings.prepare(self.progress))
            with as_compiled(self.runtime.compile), self.team.within(self.runtime.process_timeout):
                self.train()
        self.average.copy_to()

    def train(self) -> None:
        """The algorithm: sample, clip, pay, add noise, step."""
        steps = self.plan.mechanism.steps
        saver = checkpoint.Saver(path=self.folder.checkpoint, state=self.state)
        self.warm_up(saver)
        sampler = self.plan.sampler(self.table.unit_count, self.keys)
        box = self.plan.private_gradient(self.family.network, self.keys)
        box.join(self.team)
        box.load_state_dict(self.clipping or box.state_dict())
        before: list[torch.Tensor] | None = [parameter.detach().clone() for parameter in self.trainable]
        for step in range(self.step, steps):
            began = time.monotonic()
            try:
                self.team.first_does(self.require_affordable)
                mine = self.share(sampler.units(step))
                idle = self.idle_passes(step, mine)
                self.team.all_do(partial(self.collect, box, step, mine, idle), same=self.same)
                box.gather()
                # pay, then noise; everything below is post-processing
                box.release(step, self.team.first_does(partial(self.pay, step)))
            except BudgetExhausted:
                self.progress(message=f"the budget is spent: the last {steps - step} steps are given up")
                break
            self.add_public(box, step)
            self.optimizer.param_groups[0].update(
                lr=self.learning_rate(step),
                noise_std=box.mean_noise_std,  # public; adam_bc alone looks at it
            )
            self.optimizer.step()
            self.average.update()
            self.clipping = box.state_dict()
            if before is not None:
                before = self.team.all_do(partial(self.check_all_changed, before))
            self.step = step + 1
            self.team.first_does(saver.maybe_save)
            self.report(step + 1, steps, time.monotonic() - began)
        self.complete = True
        self.team.first_does(partial(saver.maybe_save, force=True))

    def warm_up(self, saver: checkpoint.Saver) -> None:
        """Before the first step of a run that asks for it and has no checkpoint yet; kept by `saver`."""
        if self.warmup is None:
            return
        batches = self.warmup.batches

        def gradients(step: int) -> list[torch.Tensor | None]:
            found: list[torch.Tensor | None] = []
            work = partial(batches.gradients, self.trainable, self.losses, step)
            with self.team.gathering():
                self.until_it_fits(lambda: found.extend(work(most_rows=self.most_rows)), found.clear)
            return found

        self.warmup.train(self.trainable, gradients, self.team, self.progress)
        self.average = Average(self.trainable, self.training.ema)
        self.team.first_does(partial(saver.maybe_save, force=True))

    def require_affordable(self) -> None:
        """Before the work of a step; see the ledger's reservation."""
        if self.account:
            self.account.require_affordable()

    def share(self, units: np.ndarray) -> np.ndarray:
        """Those of the units of a step that are this process's."""
        ranks = self.team.ranks
        return units[share_of(self.table.sizes(units), ranks.rank, ranks.count)] if ranks.several else units

    def idle_passes(self, step: int, mine: np.ndarray) -> int:
        """How many passes this process idles through: each gathers a base that is in pieces from all."""
        if not self.runtime.shard_base:
            return 0
        count = sum(1 for _ in self.table.passes(self.keys, step, mine, self.pass_rows))
        return self.team.largest(count) - count

    def idle(self, box: Any) -> None:
        """A pass that belongs to nobody."""
        clean = torch.zeros(1, *self.family.shape, device=self.device)
        numbers = torch.zeros(1, dtype=torch.int64, device=self.device)
        draws = Draws(timesteps=numbers, noise=clean, drop_label=numbers.bool())
        box.discard(self.losses(clean, None if self.data.labels is None else numbers, draws))

    def pay(self, step: int) -> Any:
        """The receipt of a step; None for a run without privacy."""
        return self.account.charge(step) if self.account else None

    def same(self) -> list[int]:
        """What does not differ between processes: where they are, and the bits of what they train."""
        return [self.step, sums_of_bits(self.trainable)]

    def collect(self, box: Any, step: int, units: np.ndarray, idle: int = 0) -> None:
        """All passes of a step into the box; out of memory, all of them again in smaller ones.

        The rows and their draws are functions of (key, step, unit): the sum is the same however it is cut.
        """

        def collected() -> None:
            for rows in self.passes(step, units):
                self.accumulate(box, rows, step)
            for _ in range(idle):
                self.idle(box)
            box.finish()

        with self.team.gathering(), exact_convolutions():
            self.until_it_fits(collected, box.start_over, rows=lambda: self.pass_rows)

    def until_it_fits(
        self, work: Callable[[], None], undo: Callable[[], None], *, rows: Callable[[], int] | None = None
    ) -> None:
        """Work that takes so many rows at a time; out of memory, again with half of them from there on.

        rows: of the work, as long as nothing is halved; `most_rows` where it is not said.
        Raises `DeviceMemoryError` where one row at a time is too much.
        """
        if self.runtime.shard_base:  # the other processes make the same passes: none alone makes smaller ones
            work()
            return
        while not fits(work, undo):
            self.most_rows = halved(self.most_rows if rows is None else rows())
            self.progress(message=f"out of memory: {counted(self.most_rows, 'row')} at a time from here on")

    def accumulate(self, box: Any, rows: Rows, step: int) -> None:
        """One pass: the rows' losses, whose they are, and their weights."""
        owner, weight = _tensor(rows.owner, self.device), _tensor(rows.weight, self.device)
        losses = self.row_losses(rows, step)
        box.accumulate(losses, owner, weight, complete=rows.complete, filling=rows.filling)

    def passes(self, step: int, units: np.ndarray) -> Any:
        """The rows of a step, cut to fit in memory: all passes of one size, which decides on the rounding."""
        cut = self.table.passes(self.keys, step, units, self.pass_rows)
        if self.plan is not None:
            cut = (rows.filled(self.pass_rows) for rows in cut)
        return self.ahead.passes(cut, step)

    @property
    def pass_rows(self) -> int:
        """Rows of a pass: public, so that what fills a pass up tells nothing of how many units came."""
        if self.plan is None:
            return self.most_rows
        return rows_of_each_pass(self.plan, self.training, self.most_rows, self.team.ranks.count)

    @property
    def most_rows(self) -> int:
        """Rows in memory at once; `auto` is for those who have not asked `pass_size` for a number."""
        return AUTO_ROWS if self.runtime.rows_per_pass == "auto" else self.runtime.rows_per_pass

    @most_rows.setter
    def most_rows(self, rows: int) -> None:
        self.runtime = self.runtime.model_copy(update={"rows_per_pass": rows})

    def add_public(self, box: Any, step: int) -> None:
        """Adds the gradient of a public batch, as it is, to what was released."""
        if self.public is None:
            return
        public = self.public

        def added() -> None:
            public.add_gradient(
                self.trainable, self.losses, step, most_rows=self.most_rows, forget=box.forget
            )

        self.team.all_do(partial(self.until_it_fits, added, box.forget))
        # those of one process for all: on other machines they may differ in their last bits
        gradients = [parameter.grad for parameter in self.trainable]
        self.team.copy_from_first([gradient for gradient in gradients if gradient is not None])

    def row_losses(self, rows: Rows, step: int) -> torch.Tensor:
        """`[R]`: the losses of one pass, each row's draws a function of (key, step, unit)."""
        inputs = self.ahead.inputs(rows, step)
        return self.losses(inputs.clean, inputs.labels, inputs.draws)

    def made_ready(self, rows: Rows, step: int) -> Inputs:
        """What the network sees of one pass, on the CPU."""
        draws = self.family.objective.draw(
            self.keys,
            step,
            units=rows.units,
            position=rows.position,
            slot=rows.slot,
            slots=rows.slots,
            counts=rows.counts,
            shape=self.family.shape,
        )
        labels = None if self.data.labels is None else torch.from_numpy(self.data.labels[rows.image])
        return Inputs(clean=self.encodings.take(rows), labels=labels, draws=draws)

    def losses(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> torch.Tensor:
        """`[R]`, in the precision of the run."""
        with in_precision(self.runtime, self.device):
            return self.family.row_losses(clean, labels, draws)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step: a public schedule."""
        options = self.training
        return options.learning_rate * rate_factor(
            step, self.plan.mechanism.steps, schedule=options.schedule, warmup=options.warmup_steps
        )

    def check_all_changed(self, before: list[torch.Tensor] | None) -> list[torch.Tensor] | None:
        """After the first step of a start every trainable tensor differs.

        Raises `ParameterError` where the settings move a tensor by less than its float32 values can show,
        `GuaranteeError` where no gradient reached it.
        """
        if before is None or self.learning_rate(self.step) == 0:
            return None
        pairs = zip(before, self.trainable, strict=True)
        stuck = [new for old, new in pairs if torch.equal(old, new.detach())]
        if not stuck or self.plan.not_private:
            return None
        count = f"{len(stuck)} of {len(before)} trainable tensors"
        if any(tensor.grad is None or not tensor.grad.any() for tensor in stuck):
            raise GuaranteeError(f"{count} did not change in a step")
        raise ParameterError(
            f"{count} did not change in a step: the update is below the resolution of float32",
            hint="raise training.learning_rate, or mechanism.clip_norm with the optimizer sgd",
        )

    def report(self, step: int, steps: int, seconds: float) -> None:
        """One line of progress; it holds public numbers only."""
        if not self.team.first:
            return
        self.progress(
            step=step,
            steps=steps,
            epsilon=None if self.plan.not_private else self.account.epsilon(),
            budget=None if self.plan.not_private else self.plan.budget.epsilon,
            seconds=seconds,
        )

    def state(self) -> dict[str, Any]:
        """What a resume needs: released quantities, counters, the ledger's head (an older ledger shows)."""
        return {
            "head": self.account.newest if self.account else None,
            "plan": self.plan.fingerprint,
            "step": self.step,
            "complete": self.complete,
            "trainable": [parameter.detach() for parameter in self.trainable],
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "clipping": self.clipping,
        }

    def resume(self) -> None:
        """Continues from the checkpoint, if there is one."""
        state = self.team.state_of_first(lambda: checkpoint.load(self.folder.checkpoint))
        if state is None:
            return
        checkpoint.require_plan(state, self.plan.fingerprint, self.folder.private)
        with torch.no_grad():
            for parameter, saved in zip(self.trainable, state["trainable"], strict=True):
                parameter.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.clipping = state.get("clipping", {})
        self.step, self.complete = int(state["step"]), bool(state["complete"])
        self.progress(message=f"resuming at step {self.step}")


def _tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
