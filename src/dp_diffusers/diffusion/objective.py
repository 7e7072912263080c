"""The denoising objective: every random number comes in as an argument, one loss per row goes out.

Guarantees:
- the draws of a unit are a pure function of (stream, step, unit): no other unit's presence can change them;
- a row's loss depends on that row alone.
May import torch, numpy and diffusers, never the engine: the stream is handed in. Prediction types are those
of the scheduler's configuration: epsilon and sample (Ho et al. 2020), v (Salimans & Ho 2022), flow (Lipman et
al. 2023; Liu et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import expit, ndtri

from dp_diffusers.diffusion.schedules import beta_schedule, flow_schedule, is_flow
from dp_diffusers.errors import ModelError, unknown_name
from dp_diffusers.loop.streams import UnitStream, by_width

TIMESTEPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uniform": lambda u: u,
    "logit_normal": lambda u: expit(ndtri(np.clip(u, 1e-12, 1 - 1e-12))),
    "high_noise": lambda u: np.sqrt(u),
    "low_noise": lambda u: 1 - np.sqrt(1 - u),
}

FLOW = "flow_prediction"
NO_SIGNAL = 1e-6
# prediction type → target, from the scales of signal and noise, the clean image and the noise image
TARGETS: dict[str, Callable[..., torch.Tensor]] = {
    "epsilon": lambda signal, noise, clean, drawn: drawn,
    "sample": lambda signal, noise, clean, drawn: clean,
    "v_prediction": lambda signal, noise, clean, drawn: signal * drawn - noise * clean,
    FLOW: lambda signal, noise, clean, drawn: drawn - clean,
}


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random numbers of R rows."""

    timesteps: torch.Tensor  # [R] int64
    noise: torch.Tensor  # [R, c, h, w] float32
    drop_label: torch.Tensor  # [R] bool

    def to(self, device: torch.device) -> Draws:
        """The same draws on another device."""
        return Draws(
            timesteps=self.timesteps.to(device),
            noise=self.noise.to(device),
            drop_label=self.drop_label.to(device),
        )

    def of(self, rows: slice) -> Draws:
        """Those of some rows."""
        return Draws(timesteps=self.timesteps[rows], noise=self.noise[rows], drop_label=self.drop_label[rows])


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Which noise levels are trained, how often the label is dropped, and what the network predicts.

    A noisy image is `signal[t] * clean + noise[t] * noise image` at level t of T; `times[t]` is what the
    network is told. Levels grow noisier with t.
    """

    signal: torch.Tensor  # [T] float32
    noise: torch.Tensor  # [T] float32
    times: torch.Tensor  # [T], whole numbers or float32
    prediction_type: str
    timesteps: str = "uniform"
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.timesteps not in TIMESTEPS:
            raise unknown_name("timestep distribution", self.timesteps, TIMESTEPS)
        if self.prediction_type not in TARGETS:
            raise ModelError(
                f"prediction type {self.prediction_type!r} is not supported",
                hint=f"a scheduler with one of {', '.join(TARGETS)}",
            )
        if self.prediction_type == "epsilon" and float(self.signal.min()) < NO_SIGNAL:
            raise ModelError(
                "a schedule that ends without any signal cannot be learned by predicting the noise",
                hint="a model of prediction type v_prediction or sample, or rescale_betas_zero_snr: false",
            )

    @classmethod
    def of(cls, scheduler: Any, *, timesteps: str = "uniform", label_dropout: float = 0.0) -> Objective:
        """The objective that a diffusers scheduler's configuration describes, whichever sampler it is.

        Raises `ModelError` for a scheduler that is neither of betas nor of flow matching.
        """
        options: dict[str, Any] = {"timesteps": timesteps, "label_dropout": label_dropout}
        if is_flow(scheduler):
            fresh = flow_schedule(scheduler)
            sigmas = fresh.sigmas[: fresh.config.num_train_timesteps].float().flip(0)
            times = sigmas * fresh.config.num_train_timesteps
            return cls(signal=1 - sigmas, noise=sigmas, times=times, prediction_type=FLOW, **options)
        betas = beta_schedule(scheduler)
        kept = betas.alphas_cumprod.float()
        return cls(
            signal=kept.sqrt(),
            noise=(1 - kept).sqrt(),
            times=torch.arange(len(kept)),
            prediction_type=betas.config.prediction_type,
            **options,
        )

    @property
    def level_count(self) -> int:
        """T, the number of noise levels."""
        return len(self.signal)

    def draw(
        self,
        stream: UnitStream,
        step: int,
        *,
        units: np.ndarray,
        position: np.ndarray,
        slot: np.ndarray,
        slots: int,
        shape: tuple[int, ...],
        counts: np.ndarray | None = None,
    ) -> Draws:
        """The draws of R rows: row r belongs to unit `units[position[r]]` and is that unit's row `slot[r]`.

        Args:
            units: `[U]`, the distinct units of the pass; `position`, `slot`: `[R]`.
            slots: rows of the unit with most rows. Each unit's timesteps are spread over its own rows
                (stratified), which lowers their variance and stays a function of the unit alone.
            shape: of one encoded image, `(c, h, w)`.
            counts: `[U]`, rows of each unit in the whole step; None where this pass holds all of them.
        """
        counts = np.bincount(position, minlength=len(units)) if counts is None else counts
        shift = stream.uniform("timestep", step, units, 1)[position, 0]
        noise = _noise_of_rows(stream, step, units=units, position=position, slot=slot, shape=shape)
        dropped = stream.uniform("label-dropout", step, units, slots)[position, slot]
        return Draws(
            # Never `slots`: that is the doing of other units.
            timesteps=torch.from_numpy(self.levels((shift + slot / counts[position]) % 1.0)),
            noise=torch.from_numpy(noise),
            drop_label=torch.from_numpy(dropped < self.label_dropout),
        )

    def times_of(self, draws: Draws) -> torch.Tensor:
        """`[R]`: the drawn noise levels, as the network counts them."""
        return self.times.to(draws.timesteps.device)[draws.timesteps]

    def noisy(self, clean: torch.Tensor, draws: Draws) -> torch.Tensor:
        """`[R, c, h, w]`: the images at the drawn noise levels."""
        signal, noise = self._scales(draws.timesteps, clean)
        return signal * clean + noise * draws.noise

    def target(self, clean: torch.Tensor, draws: Draws) -> torch.Tensor:
        """`[R, c, h, w]`: what the network should predict."""
        signal, noise = self._scales(draws.timesteps, clean)
        return TARGETS[self.prediction_type](signal, noise, clean, draws.noise)

    def losses(self, prediction: torch.Tensor, clean: torch.Tensor, draws: Draws) -> torch.Tensor:
        """`[R]`: the mean squared error of each row, in float32."""
        error = prediction.float() - self.target(clean, draws)
        return error.square().flatten(1).mean(1)

    def levels(self, u: np.ndarray) -> np.ndarray:
        """int64 timesteps from uniform numbers, by the chosen distribution."""
        count = self.level_count
        levels: np.ndarray = np.floor(TIMESTEPS[self.timesteps](u) * count).astype(np.int64)
        return levels.clip(0, count - 1)

    def _scales(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (-1, 1, 1, 1)
        return tuple(table.to(like.device)[timesteps].view(shape) for table in (self.signal, self.noise))  # type: ignore[return-value]


def _noise_of_rows(
    stream: UnitStream,
    step: int,
    *,
    units: np.ndarray,
    position: np.ndarray,
    slot: np.ndarray,
    shape: tuple[int, ...],
) -> np.ndarray:
    """float32 `[R, c, h, w]`: row r has the `slot[r]`-th image of noise of its unit."""
    noise = np.empty((len(position), *shape), np.float32)
    needed = np.zeros(len(units), np.int64)
    np.maximum.at(needed, position, slot + 1)
    for members, width in by_width(needed):
        drawn = stream.normal("diffusion-noise", step, units[members], width * int(np.prod(shape)))
        place = np.full(len(units), -1)
        place[members] = np.arange(len(members))
        rows = np.flatnonzero(place[position] >= 0)
        noise[rows] = drawn.reshape(-1, width, *shape)[place[position[rows]], slot[rows]]
    return noise
