"""Are synthetic images useful: a classifier learns from them alone; and like real ones: distances say so.

Guarantees a fixed schedule for every row, no selection by test accuracy, the ε = 0 rows beside the synthetic
one wherever the public model or public images are at hand, and that real images are read through their gate
alone. May import numpy and torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dp_diffusers.data.public_images import PublicImages
from dp_diffusers.errors import DataError, ModelError, ParameterError, RunFolderError, counted, within
from dp_diffusers.evaluation import classifier, distances
from dp_diffusers.evaluation.distances import Distances
from dp_diffusers.evaluation.features import DEFAULT, Features, features_named
from dp_diffusers.evaluation.held_out import HeldOut
from dp_diffusers.evaluation.public_model import public_images_of, public_model_images, run_of
from dp_diffusers.evaluation.reading import LabelledImages, read_images
from dp_diffusers.evaluation.scores import Row, Scores
from dp_diffusers.kept_scores import keep_scores

Images = str | Path | classifier.Labelled | PublicImages | LabelledImages
Progress = Callable[..., None]
SYNTHETIC, PUBLIC_MODEL = "synthetic", "public model, ε = 0"
PUBLIC, UNION = "public images, ε = 0", "synthetic and public"


def _silent(**_: Any) -> None:
    """Progress that nobody sees."""


def evaluate(
    images: Images,
    reference: Images,
    *,
    public: Images | Sequence[Images] = (),
    public_model: Images | None = None,
    with_public: bool = False,
    features: str | Features | None = DEFAULT,
    seeds: int = 3,
    passes: int | None = None,
    progress: Progress = _silent,
) -> Scores:
    """Trains a small classifier on `images`, tests it on the held-out `reference`, once per seed; distances.

    Args:
        images: synthetic images: parquet, folder, or arrays (uint8 [N, H, W, C], int64 [N]). Where they lie
            in a release, its base model without adapter gives the ε = 0 row.
        reference: real held-out images; resized to the synthetic size where they differ, which is noted.
        public: public images for a row of their own. public_model: images of the public model, elsewhere.
        with_public: also trains on synthetic and public images together. Without `public`, the public data
            recorded beside the release's base are taken, if they have the synthetic classes.
        features: what the distances compare, by name (a table in `evaluation.features`), an extractor of your
            own, or None for no distances. They are computed for `images` and for those of the public model.
        passes: images seen in one training; None takes the default for the size.

    Returns accuracies in per cent, and distances; those of a run's own images are also kept in its private
    folder. Raises `DataError`, `ParameterError`; `ModelError` where an extractor's package or weights are
    missing.
    """
    within(2, 100, seeds=seeds, hint="an interval needs two seeds")
    extractor = features_named(features) if isinstance(features, str) else features
    synthetic = _opened(images, None)
    shape = synthetic.images.shape[1:]
    names = synthetic.class_names
    held_out = HeldOut(_reference(_opened(reference, shape), names))
    run = run_of(Path(images)) if isinstance(images, str | Path) else None
    of_the_base, missing = _of_the_public_model(public_model, run, synthetic, progress)
    sets = {SYNTHETIC: synthetic, **of_the_base}
    compared, too_few = _distances(sets, held_out, extractor, progress)
    sets |= _public_sets(synthetic, _public(public, run, shape, names), with_public)
    passes = classifier.default_passes(shape[0]) if passes is None else passes
    test = held_out.read("accuracy")
    rows = [_row(name, part, test, seeds, passes, progress) for name, part in sets.items()]
    found = {row.trained_on: row.accuracy for row in rows}
    scores = Scores(
        synthetic=rows[0],
        public_model=found.get(PUBLIC_MODEL),
        public=found.get(PUBLIC),
        with_public=found.get(UNION),
        rows=tuple(rows),
        class_names=names,
        reference_images=held_out.count,
        classifier=classifier.NAME,
        seeds=seeds,
        passes=passes,
        distances=compared,
        read_by=held_out.readers,
        notes=tuple(
            dict.fromkeys(
                [*(note for part in (*sets.values(), test) for note in part.notes), *missing, *too_few]
            )
        ),
    )
    if isinstance(images, str | Path):
        keep_scores(Path(images), scores.to_dict())
    return scores


def _distances(
    sets: dict[str, LabelledImages], held_out: HeldOut, features: Features | None, progress: Progress
) -> tuple[tuple[Distances, ...], list[str]]:
    """Of each set of made images; and what to say where there are too few, of them or of real ones."""
    if features is None:
        return (), []
    found, notes = [], []
    for name, part in sets.items():
        fewest = min(len(part.images), held_out.count)
        if fewest < distances.FEWEST:
            notes.append(f"{name}: no distances by {counted(fewest, 'image')}, {distances.FEWEST} are needed")
            continue
        found.append(distances.measure(name, part, held_out, features, progress))
        if fewest <= features.dim:
            notes.append(
                f"{name}: {features.frechet_name} of {fewest} images in {features.dim} dimensions is biased "
                "upwards; compare it with that of as many images only"
            )
    return tuple(found), notes


def _of_the_public_model(
    given: Images | None, run: Path | None, synthetic: LabelledImages, progress: Progress
) -> tuple[dict[str, LabelledImages], list[str]]:
    """Images of the public model: those given, else made by the run's base without its adapter, else none.

    Also what to say where the base of the run cannot be opened: the other rows are worth having without it.
    """
    names = synthetic.class_names
    if given is not None:
        return {PUBLIC_MODEL: _opened(given, synthetic.images.shape[1:]).numbered_as(names)}, []
    if run is None:
        return {}, []
    progress(message="images of the public model, without the adapter")
    try:
        return {PUBLIC_MODEL: public_model_images(run, synthetic).numbered_as(names)}, []
    except (ModelError, RunFolderError) as error:
        return {}, [f"no row of the public model (ε = 0): {error.message}"]


def _row(
    name: str, train: LabelledImages, test: LabelledImages, seeds: int, passes: int, progress: Progress
) -> Row:
    results = []
    for seed in range(seeds):
        result = classifier.train_and_test(
            (train.images, train.labels),
            (test.images, test.labels),
            seed=seed,
            passes=passes,
            classes=len(train.class_names),
        )
        progress(message=f"{name}: seed {seed + 1}/{seeds}, accuracy {result.accuracy:.2f} %")
        results.append(result)
    return Row.of(name, len(train.images), results)


def _reference(reference: LabelledImages, names: tuple[str, ...]) -> LabelledImages:
    """The reference, numbered as the synthetic images are; a class that they lack must not be left out."""
    test = reference.numbered_as(names)
    if len(test.images) < len(reference.images):
        missing = len(reference.images) - len(test.images)
        raise DataError(
            f"{counted(missing, 'reference image has', 'reference images have')} a class that the synthetic "
            "images lack",
            hint=f"synthetic classes: {', '.join(names[:10])}",
        )
    return test


def _public_sets(
    synthetic: LabelledImages, public: LabelledImages | None, together: bool
) -> dict[str, LabelledImages]:
    if public is None:
        if together:
            raise ParameterError("no public images to train with", hint="name them: --public PATH")
        return {}
    return {PUBLIC: public, UNION: _together([synthetic, public])} if together else {PUBLIC: public}


def _opened(images: Images, shape: tuple[int, ...] | None) -> LabelledImages:
    """Images of any kind; files are brought to `shape` (H, W, C), arrays must have it."""
    if isinstance(images, str | Path):
        size, channels = (None, None) if shape is None else (shape[0], shape[2])
        return read_images(images, size=size, channels=channels)
    if isinstance(images, tuple):
        pixels, labels = images
        names = tuple(map(str, range(int(np.max(labels)) + 1)))
        images = LabelledImages(images=pixels, labels=np.asarray(labels, np.int64), class_names=names)
    if shape is not None and images.images.shape[1:] != shape:
        raise DataError(f"expected images of shape {shape}, got {images.images.shape[1:]}")
    if isinstance(images, LabelledImages):
        return images
    return LabelledImages(
        images=images.images, labels=images.labels, class_names=images.class_names, notes=images.notes
    )


def _public(
    public: Images | Sequence[Images], run: Path | None, shape: tuple[int, ...], names: tuple[str, ...]
) -> LabelledImages | None:
    """All public images of the synthetic classes; those of the run's base where none are given."""
    single = isinstance(public, str | Path | PublicImages | LabelledImages) or _is_arrays(public)
    chosen: list[Any] = [public] if single else list(public)  # type: ignore[arg-type]
    if not chosen:
        recorded = None if run is None else public_images_of(run, shape[0], shape[2])
        # other classes are another task: a row for them would compare nothing
        alike = recorded is not None and set(names) <= set(recorded.class_names)
        return recorded.numbered_as(names) if recorded is not None and alike else None
    return _together([_opened(part, shape).numbered_as(names) for part in chosen])


def _is_arrays(value: object) -> bool:
    return (
        isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, np.ndarray) for part in value)
    )


def _together(parts: Sequence[LabelledImages]) -> LabelledImages:
    return LabelledImages(
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        class_names=parts[0].class_names,
        notes=tuple(note for part in parts for note in part.notes),
    )
