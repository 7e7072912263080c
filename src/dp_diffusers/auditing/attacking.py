"""The audit: one training on public images and canaries, two attacks on it, and what they prove.

Guarantees: the private images are never opened and no ledger on disk is touched; keys are fresh; which attack
and how many guesses decide the verdict is fixed here, before any score exists. May import torch; joins the
loop with the bounds. Sources: those of `bounds`.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dp_diffusers.auditing import chart, pictures
from dp_diffusers.auditing.canaries import GradientCanaries
from dp_diffusers.auditing.loop import AuditedLoop
from dp_diffusers.auditing.loss_attack import mean_losses
from dp_diffusers.auditing.results import AuditResult
from dp_diffusers.auditing.scores import Scores, centred
from dp_diffusers.auditing.verdict import concluded
from dp_diffusers.classes.released_classes import names_for_base
from dp_diffusers.data.apart import require_apart
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.diffusion.loading import base_of_pipeline, load_base
from dp_diffusers.errors import ParameterError, RunFolderError, of_kind, positive
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.recipe import RuntimeSettings, TrainingSettings
from dp_diffusers.rounding import rounded_up_text
from dp_diffusers.run.call_checks import settings_of
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.runtime.arrangement import arrange, rehearse_arranged
from dp_diffusers.runtime.devices import device_of
from dp_diffusers.runtime.pass_size import sized
from dp_diffusers.strategies import name_of, strategy_of

if TYPE_CHECKING:
    from dp_diffusers.recipe import Recipe

Progress = Callable[..., None]
PICTURE: Final = "audit.svg"
PUBLIC_ONLY: Final = "an audit reads public images only; null takes procedural ones"

PUBLIC_IMAGES: Final = 32
IMAGE_CANARIES: Final = 64
LOSS_DRAWS: Final = 16


def _silent(**_: Any) -> None:
    """Progress that nobody sees."""


def audit_recipe(recipe: Recipe, *, out: Path | None = None, progress: Progress = _silent) -> AuditResult:
    """Audits the training that a recipe describes; see `audit`. Neither `data.path` nor the ledger is opened.

    Raises `ParameterError` where `audit.public` lies where `data.path` does, or leads there: see
    `data.apart.require_apart`.
    """
    public = recipe.audit.public
    if public is not None:
        require_apart("audit.public", public, recipe.data.path, hint=PUBLIC_ONLY)
    return audit(
        load_base(recipe.base).with_classes(names_for_base(recipe.model_dump())),
        recipe.plan(),
        strategy=recipe.strategy.model_dump(),
        training=recipe.training,
        runtime=recipe.runtime,
        public=public,
        canaries=recipe.audit.canaries,
        out=out,
        progress=progress,
    )


def audit(
    base: Any,
    plan: Plan,
    *,
    strategy: Any = None,
    training: TrainingSettings | Mapping[str, Any] | None = None,
    runtime: RuntimeSettings | Mapping[str, Any] | None = None,
    public: str | Path | None = None,
    canaries: int = 1000,
    out: str | Path | None = None,
    progress: Progress = _silent,
) -> AuditResult:
    """Trains on public images and canaries, attacks that training, and bounds epsilon from below.

    Args:
        base, strategy, training, runtime: as in `finetune`; the base itself stays as it is.
        plan: from `Plan.calibrate`, used unchanged: its sampler, clip, noise and steps.
        public: public images, a folder or a parquet file; None: procedural ones of the base's size.
        canaries: gradient canaries, each in or out by a fair coin; fewer where the model has fewer entries.
        out: a folder for the picture; None draws none.
        progress: called with `step, steps, seconds` or `message`.

    Returns: the claim, the lower bound at 95 % confidence, and each attack; it costs no budget.
    Raises `ParameterError` for a plan without privacy, `InputError` for what cannot be used.
    """
    of_kind(Plan, plan=plan, hint="Plan.calibrate(budget, mechanism) makes one")
    training = settings_of(TrainingSettings, training={} if training is None else training)
    runtime = settings_of(RuntimeSettings, runtime={} if runtime is None else runtime)
    positive(canaries=canaries)
    mechanism = _private(plan)
    folder = _folder(out)
    random = np.random.default_rng()  # seeded by the operating system: coins that no attack knows
    family = family_of(_copied(base), timesteps=training.timesteps, label_dropout=training.label_dropout)
    shown = _images(family, None if public is None else str(public), random)
    before = mean_losses(family, shown.canaries, shown.canary_labels, draws=LOSS_DRAWS)
    strategy_of(strategy or {"name": "lora"}).apply(family.network, seed=training.seed)
    arrange(family.network.to(device_of(runtime.device)).train(), runtime)
    rehearse_arranged(family, runtime)
    runtime = sized(runtime, family, plan, training, progress)
    held = GradientCanaries(
        family.network,
        _at_most(canaries, mechanism, shown),
        clip_norm=mechanism.clip_norm,
        noise_draws=training.noise_draws,
        random=random,
    )
    values = _trained(family, plan, shown, held, training, runtime, progress)
    after = mean_losses(family, shown.canaries, shown.canary_labels, draws=LOSS_DRAWS)
    gradient = Scores(
        name="gradient",
        meaning="log-likelihood ratio, in against out",
        values=values,
        included=held.included,
    )
    loss = Scores(
        name="loss",
        meaning="fall of the loss, about its median",
        values=centred(before - after),
        included=shown.included,
    )
    result = concluded(plan, gradient, loss, _notes(canaries, held.count))
    result = replace(result, strategy=name_of(strategy))
    return result if folder is None else _with_picture(result, gradient, loss, folder)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Images:
    """What the audited training sees: public images and image canaries, of which some are included."""

    public: np.ndarray
    canaries: np.ndarray
    included: np.ndarray  # [canaries] bool
    public_labels: np.ndarray | None
    canary_labels: np.ndarray | None

    @property
    def data(self) -> PrivateImages:
        """The units of images, under the type that the loop takes; all of them are public."""
        images = np.concatenate([self.public, self.canaries[self.included]])
        labels = None
        if self.public_labels is not None and self.canary_labels is not None:
            labels = np.concatenate([self.public_labels, self.canary_labels[self.included]])
        count = len(images)
        return PrivateImages(
            images=images, labels=labels, class_names=None, owner=np.arange(count), unit_count=count
        )


def _images(family: Family, public: str | None, random: np.random.Generator) -> _Images:
    size, channels, classes = family.size, family.channels, family.classes
    given = pictures.public_images(public, PUBLIC_IMAGES, size, channels, random)
    return _Images(
        public=given,
        canaries=pictures.canary_images(IMAGE_CANARIES, size, channels, random),
        included=random.random(IMAGE_CANARIES) < 0.5,
        public_labels=random.integers(0, classes, len(given)) if classes else None,
        canary_labels=random.integers(0, classes, IMAGE_CANARIES) if classes else None,
    )


def _trained(
    family: Family,
    plan: Plan,
    shown: _Images,
    held: GradientCanaries,
    training: TrainingSettings,
    runtime: RuntimeSettings,
    progress: Progress,
) -> np.ndarray:
    """Runs the loop of `finetune` on an account in memory. Returns: the score of every gradient canary."""
    from dp_diffusers.privacy.ledger import Ledger

    with tempfile.TemporaryDirectory() as temporary, Ledger.open(":memory:") as ledger:
        folder = RunFolder(Path(temporary))
        folder.create()
        account, keys = ledger.reserve(plan), plan.fresh_keys()
        account.open_lane(keys)
        loop = AuditedLoop(
            family=family,
            data=shown.data,
            plan=plan,
            account=account,
            keys=keys,
            training=training,
            runtime=runtime,
            folder=folder,
            progress=progress,
            canaries=held,
        )
        loop.run()
    return loop.evidence.scores


def _private(plan: Plan) -> DPSGD:
    """The plan's mechanism. Raises `ParameterError` for a plan without privacy."""
    if isinstance(plan.mechanism, DPSGD):
        return plan.mechanism
    if not plan.not_private:
        raise ParameterError(
            f"an audit attacks gradients, and the mechanism {plan.mechanism.name} has none",
            hint="audit a recipe of mechanism dpsgd",
        )
    raise ParameterError(
        "a plan without privacy claims nothing that an audit could test", hint="set mechanism.name to dpsgd"
    )


def _at_most(canaries: int, mechanism: DPSGD, shown: _Images) -> int:
    """Under a hard limit of a sample the units must fit into the population's slots."""
    if mechanism.max_units is None:
        return canaries
    return max(1, min(canaries, mechanism.population - len(shown.data.images)))


def _notes(asked: int, used: int) -> tuple[str, ...]:
    if used == asked:
        return ()
    return (f"{used} canaries instead of {asked}: there is no room for more in what is trained",)


def _copied(base: Any) -> Base:
    """The base with a network of its own, so that the caller's stays as it is."""
    if isinstance(base, str | Path):
        return load_base(base)
    opened = base if isinstance(base, Base) else base_of_pipeline(base)
    return replace(opened, network=copy.deepcopy(opened.network))


def _folder(out: str | Path | None) -> Path | None:
    """Makes the folder before the work, not after it. Raises `RunFolderError` where that fails."""
    if out is None:
        return None
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot write {out}: {error.strerror}", hint="choose another --out") from error
    return Path(out)


def _with_picture(result: AuditResult, gradient: Scores, loss: Scores, folder: Path) -> AuditResult:
    title = (
        f"audit: epsilon ≥ {result.epsilon_lower_bound:.3g} ({100 * result.confidence:g} %), "
        f"claimed ≤ {rounded_up_text(result.epsilon_claimed)}"
    )
    shares = {attack.name: attack.guesses / attack.canaries for attack in reversed(result.attacks)}
    panels = [(scores, shares[scores.name]) for scores in (gradient, loss)]
    return replace(result, picture=chart.draw(panels, title, folder / PICTURE))
