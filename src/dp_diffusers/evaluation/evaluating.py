"""Are synthetic images useful: a classifier learns from them alone; and like real ones: distances say so.

Guarantees a fixed schedule for every row, no selection by test accuracy, the ε = 0 rows beside the synthetic
one wherever the public model or public images are at hand, and that real images are read through their gate
alone. May import numpy and torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dp_diffusers.errors import DataError, ModelError, RunFolderError, counted
from dp_diffusers.evaluation import distances
from dp_diffusers.evaluation.classifiers import DEFAULT as DEFAULT_CLASSIFIER
from dp_diffusers.evaluation.classifiers import classifier_named
from dp_diffusers.evaluation.distances import Distances
from dp_diffusers.evaluation.diversity import Diversity, diversities
from dp_diffusers.evaluation.embedding import Embedded, embed
from dp_diffusers.evaluation.features import DEFAULT, Features, extractor_of
from dp_diffusers.evaluation.fidelity import Fidelity, fidelity_of
from dp_diffusers.evaluation.held_apart import (
    IN_NO_RUN,
    as_its_own,
    has_training_images,
    refuse_training_images,
    run_around,
)
from dp_diffusers.evaluation.held_out import HeldOut
from dp_diffusers.evaluation.places import images_of, require_there
from dp_diffusers.evaluation.public_model import public_model_images, run_of
from dp_diffusers.evaluation.reading import LabelledImages
from dp_diffusers.evaluation.scores import REAL, Scores
from dp_diffusers.evaluation.sets import (
    Images,
    digest_of,
    each_of,
    opened,
    public_images,
    real_images,
    repeated,
    require_common,
    unlearnable,
    with_public_sets,
)
from dp_diffusers.evaluation.trials import Schedule, require_schedule
from dp_diffusers.run.kept_scores import keep_scores

Progress = Callable[..., None]
SYNTHETIC, PUBLIC_MODEL = "synthetic", "public model, ε = 0"
PUBLIC, UNION = "public images, ε = 0", "synthetic and public"
OF_ANYONE: Final = "give images that anyone may see; real ones to train on are `real`"
OF_REAL: Final = ("real", "label_fidelity")
TESTED: Final = ("accuracy", "calibration_error", "brier_score", "log_loss")


def _silent(**_: Any) -> None:
    """Progress that nobody sees."""


def evaluate(
    images: Images,
    reference: Images,
    *,
    public: Images | Sequence[Images] = (),
    public_model: Images | None = None,
    with_public: bool = False,
    real: Images | None = None,
    label: str | None = None,
    fidelity: bool = False,
    features: str | Features | None = DEFAULT,
    classifier: str = DEFAULT_CLASSIFIER,
    device: str = "auto",
    seeds: int = 3,
    passes: int | None = None,
    progress: Progress = _silent,
) -> Scores:
    """Trains a small classifier on `images`, tests it on the held-out `reference`, once per seed; distances.

    Args:
        images: synthetic images: parquet, folder, or arrays (uint8 [N, H, W, C], int64 [N]); a run folder or
            its release stands for its images. Where they lie in a release, its base model without adapter
            gives the ε = 0 row.
        reference: real held-out images; those in files are brought to the synthetic size in the way that the
            run brought its own (`data.resize`, `data.window`), elsewhere cut to squares; this is noted.
        public: public images for a row of their own. public_model: images of the public model, elsewhere.
        with_public: also trains on synthetic and public images together. Without `public`, the public data
            recorded beside the release's base are taken, if they have the synthetic classes; where they are
            not on this machine, a note says so, and only `with_public` is refused.
        real: real images to train on, for the row that is the ceiling; its classifiers also judge the labels
            of the synthetic images. No budget covers that they are read.
        label: the column of their labels where reference and real images are tables; None takes the one that
            the run was trained with, if it is there, else `label`.
        fidelity: judges the labels without `real` too, by one classifier more, trained on the reference.
        features: what distances and diversity compare, by name (a table in `evaluation.features`), an
            extractor of your own, or None for neither. For `images` and those of the public model.
        classifier: by name, see `evaluation.classifiers`. device: of those that can use a GPU.
        passes: images seen in one training; None takes the default for classifier and size.

    Returns accuracies in per cent, and distances; those of a run's own images are also kept in its private
    folder. Raises `DataError`, `ParameterError`; `ModelError` where an extractor's package or weights are
    missing.
    """
    require_schedule(seeds, passes)
    learner = classifier_named(classifier, device)
    extractor = extractor_of(features)
    images = images_of(images)
    require_there(images, reference, real, public_model, public)
    synthetic = opened(images, None, progress=progress)
    shape, names = synthetic.images.shape[1:], synthetic.class_names
    run = run_of(Path(images)) if isinstance(images, str | Path) else None
    around = run_around(images)
    as_real: dict[str, Any] = {"on_disk": False, "progress": progress, "label": label, **as_its_own(around)}
    real_ones = opened(reference, shape, called="reference", **as_real)
    apart = _apart(around, "reference", reference, real_ones.images)
    numbered = real_images(real_ones, names, "reference")
    require_common(synthetic, numbered)
    held_out = HeldOut(numbered)
    ceiling: HeldOut | None = None
    trained_on: bool | None = False
    if real is not None:
        to_learn = opened(real, shape, called="real", **as_real)
        trained_on = has_training_images(around, _place(real), to_learn.images)
        ceiling = HeldOut(real_images(to_learn, names, "real"))
    of_anyone, unopened = _of_anyone(public, run, synthetic, with_public)
    _refuse_private(around, "public", each_of(public), of_anyone)
    of_the_base, missing = _of_the_public_model(public_model, run, synthetic, progress)
    given = () if public_model is None else each_of(public_model)
    _refuse_private(around, "public_model", given, of_the_base.get(PUBLIC_MODEL))
    made = {SYNTHETIC: synthetic, **of_the_base}
    compared, diversity, too_few = _by_features(made, held_out, extractor, progress)
    further = with_public_sets(synthetic, of_anyone, with_public)
    sets = {**made, **dict(zip((PUBLIC, UNION), further))}
    if ceiling is not None:
        sets[REAL] = ceiling.read(*OF_REAL)
    passes = learner.default_passes(shape[0]) if passes is None else passes
    schedule = Schedule(learner=learner, seeds=seeds, passes=passes, progress=progress)
    test = held_out.read(*TESTED)
    trials = {name: schedule.trial(name, part, test) for name, part in sets.items()}
    notes = [
        *(note for part in (*sets.values(), test) for note in part.notes),
        *apart,
        *missing,
        *unopened,
        *too_few,
    ]
    notes += unlearnable(synthetic, test)
    judged: tuple[Fidelity, ...] = ()
    if ceiling is not None:
        judged = _judged(made, trials[REAL].classifiers, REAL)
        notes += repeated(sets[REAL], test)
    elif fidelity:
        judged = _judged(made, [schedule.teacher(held_out.read("label_fidelity"))], "the reference")
    found = {name: trial.row.accuracy for name, trial in trials.items()}
    scores = Scores(
        synthetic=trials[SYNTHETIC].row,
        public_model=found.get(PUBLIC_MODEL),
        public=found.get(PUBLIC),
        with_public=found.get(UNION),
        real=found.get(REAL),
        real_is_training_data=trained_on,
        rows=tuple(trial.row for trial in trials.values()),
        class_names=names,
        reference_images=held_out.count,
        classifier=learner.name,
        seeds=seeds,
        passes=passes,
        distances=compared,
        diversity=diversity,
        fidelity=judged,
        read_by=tuple(dict.fromkeys([*held_out.readers, *(ceiling.readers if ceiling else ())])),
        notes=tuple(dict.fromkeys(notes)),
    )
    if isinstance(images, str | Path):
        keep_scores(Path(images), scores.to_dict(), reference=digest_of(real_ones.numbered_as(names)))
    return scores


def _place(images: Images) -> str | Path | None:
    """Where they lie; None for arrays."""
    return images if isinstance(images, str | Path) else None


def _apart(run: Path | None, key: str, given: Images, images: NDArray[np.uint8]) -> tuple[str, ...]:
    """Refuses images that the run was trained on. Returns what to say where that cannot be told."""
    if run is None:
        return (IN_NO_RUN,)
    return refuse_training_images(run, key, _place(given), images)


def _refuse_private(
    run: Path | None, key: str, given: Sequence[Images], found: LabelledImages | None
) -> None:
    """Refuses training images of the run under the name of public ones, which stay in what it publishes."""
    if run is None or found is None:
        return
    for each in given:
        refuse_training_images(run, key, _place(each), found.images, hint=OF_ANYONE)


def _judged(
    sets: dict[str, LabelledImages], teachers: Sequence[nn.Module], taught_by: str
) -> tuple[Fidelity, ...]:
    return tuple(fidelity_of(name, part, teachers, taught_by) for name, part in sets.items())


def _by_features(
    sets: dict[str, LabelledImages], held_out: HeldOut, features: Features | None, progress: Progress
) -> tuple[tuple[Distances, ...], tuple[Diversity, ...], list[str]]:
    """Of each set of made images; and what to say where there are too few, of them or of real ones."""
    if features is None:
        return (), (), []
    found, notes = [], []
    seen: dict[str, tuple[LabelledImages, Embedded]] = {}
    for name, part in sets.items():
        fewest = min(len(part.images), held_out.count)
        if fewest < distances.FEWEST:
            notes.append(f"{name}: no distances by {counted(fewest, 'image')}, {distances.FEWEST} are needed")
            continue
        progress(message=f"{name}: features {features.name}")
        seen[name] = part, embed(features, part.images, progress)
        found.append(distances.measured(name, seen[name][1], held_out, progress))
        if fewest <= features.dim:
            notes.append(
                f"{name}: {features.frechet_name} of {fewest} images in {features.dim} dimensions is biased "
                "upwards; compare it with that of as many images only"
            )
    return tuple(found), diversities(seen, held_out), notes


def _of_anyone(
    given: Images | Sequence[Images], run: Path | None, synthetic: LabelledImages, wanted: bool
) -> tuple[LabelledImages | None, list[str]]:
    """The public images, if any; and what to say where those that the base records are not on this machine.

    Raises `DataError` for those that were named, or are `wanted` to train on.
    """
    try:
        return public_images(given, run, synthetic.images.shape[1:], synthetic.class_names), []
    except DataError as error:
        if wanted or each_of(given):
            raise
        return None, [f"no row of public images: {error.message}"]


def _of_the_public_model(
    given: Images | None, run: Path | None, synthetic: LabelledImages, progress: Progress
) -> tuple[dict[str, LabelledImages], list[str]]:
    """Images of the public model: those given, else made by the run's base without its adapter, else none.

    Also what to say where the base of the run cannot be opened: the other rows are worth having without it.
    """
    names = synthetic.class_names
    if given is not None:
        return {
            PUBLIC_MODEL: opened(given, synthetic.images.shape[1:], called="public model").numbered_as(
                names, "public model"
            )
        }, []
    if run is None:
        return {}, []
    progress(message="images of the public model, without the adapter")
    try:
        return {PUBLIC_MODEL: public_model_images(run, synthetic).numbered_as(names)}, []
    except (ModelError, RunFolderError) as error:
        return {}, [f"no row of the public model (ε = 0): {error.message}"]
