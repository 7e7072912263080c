"""One stage of a public pre-training: steps on public images, resumable at any of them.

Guarantee: a step is a function of the recipe and its number, so that a resumed stage ends with the weights of
one that never stopped. May import torch, never the engine or the accountant. AdamW (Loshchilov & Hutter
2019), cosine rate, an average of the weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dp_diffusers import checkpoint
from dp_diffusers.errors import RunFolderError
from dp_diffusers.loop.averaging import Average
from dp_diffusers.recipe.new_keys import pretraining_with_new_keys

Progress = Callable[..., None]
LARGEST_GRADIENT = 1.0


@dataclass(kw_only=True)
class Stage:
    """What is trained, by which loss, for how long, and where its state is kept.

    loss: the mean loss of a step, given its number. before: called before a step's loss, to change the module
    at steps of its choice. settings: the whole recipe as a plain document: a state of another is refused.
    """

    module: nn.Module
    loss: Callable[[int], torch.Tensor]
    steps: int
    learning_rate: float
    warmup_steps: int
    ema: float
    path: Path
    settings: Mapping[str, Any]
    save_every_seconds: float
    progress: Progress
    before: Callable[[int], None] = lambda step: None
    done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=self.learning_rate, weight_decay=0.01, fused=True
        )
        self.average = Average(self.module.parameters(), self.ema)

    def run(self) -> None:
        """Trains to the last step, and leaves the average of the weights in the module.

        Raises `RunFolderError` where the state at `path` belongs to another recipe.
        """
        self._resume()
        saver = checkpoint.Saver(
            path=self.path, state=self._state, seconds=self.save_every_seconds, every_step_below=0
        )
        self.module.train()
        while self.done < self.steps:
            began = time.monotonic()
            loss = self._step(self.done)
            self.done += 1
            saver.maybe_save(force=self.done == self.steps)
            self.progress(step=self.done, steps=self.steps, seconds=time.monotonic() - began, loss=loss)
        self.average.copy_to()
        self.module.eval()

    def _step(self, step: int) -> torch.Tensor:
        self.before(step)
        loss = self.loss(step)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate * self.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self.average.update()
        return loss.detach()

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step: a linear rise, then a cosine to zero."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        part = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * part))

    def _state(self) -> dict[str, Any]:
        return {
            "settings": json.dumps(self.settings, sort_keys=True),
            "step": self.done,
            "network": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
        }

    def _resume(self) -> None:
        state = checkpoint.load(self.path)
        if state is None:
            return
        if pretraining_with_new_keys(json.loads(state["settings"])) != self.settings:
            raise RunFolderError(
                f"{self.path.parent} holds the work of another recipe",
                hint="give another --out, or delete it",
            )
        self.module.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.done = int(state["step"])
