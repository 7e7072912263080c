"""Accuracy on the private training images themselves, as one charged number.

Guarantees that a unit's part depends on its own images and on the released ones alone, as if each image were
looked at by itself, and that the noisy number is all that leaves. May import numpy and torch; what is charged
goes through `charged_count`. The figure is the mean over units of each unit's share of images guessed right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.drawing.kept_images import digest_of
from dp_diffusers.errors import DataError, ParameterError, counted
from dp_diffusers.evaluation.classifier import pixels_of
from dp_diffusers.evaluation.classifiers import classifier_named
from dp_diffusers.evaluation.intervals import Interval
from dp_diffusers.evaluation.places import images_of
from dp_diffusers.evaluation.public_model import run_of
from dp_diffusers.evaluation.reading import read_images
from dp_diffusers.evaluation.trials import require_schedule
from dp_diffusers.queries.charged_count import CountAnswer, ask, keep, plan_of_count, price_line
from dp_diffusers.run.asked_run import UNCOMPARED, AskedRun

# of the largest logit: far above what an image's neighbours in a batch change by rounding
CLOSE: Final = 1e-3
NORMAL_95: Final = 1.96
BLOCK: Final = 500


@dataclass(frozen=True, kw_only=True)
class ChargedScores:
    """Noisy accuracy on the private training images, in per cent; its interval is that of the noise.

    images: synthetic ones that the classifiers learnt from. price: what every charged answer says of itself.
    """

    accuracy: Interval
    images: int
    classifier: str
    seeds: int
    passes: int
    price: dict[str, Any]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `evaluate --charge`."""
        return {
            "accuracy": self.accuracy.to_dict(),
            **self.price,
            "images": self.images,
            "classifier": self.classifier,
            "seeds": self.seeds,
            "passes": self.passes,
            "reads_private": True,
            "read_by": ["accuracy"],
            "covered_by_epsilon": not self.price["not_private"],
            "notes": list(self.notes),
        }

    def explain(self) -> str:
        """The figure and its price as text, for a terminal."""
        lines = [
            f"accuracy of {self.classifier} on the private training images, 95 % interval of the noise:",
            f"  synthetic  {self.accuracy}  {self.images} images, mean of {self.seeds} seeds",
            *self.notes,
            price_line(self.price),
        ]
        return "\n".join(lines)


def charged_accuracy(
    images: str | Path,
    epsilon: float,
    *,
    private: PrivateImages | None,
    ledger: str | Path | None,
    classifier: str,
    device: str,
    seeds: int,
    passes: int | None,
    progress: Callable[..., None],
) -> ChargedScores:
    """Classifiers learn from the released `images`; how often they are right about the private ones is asked.

    Raises `ParameterError` for images outside a run, `BudgetError` where the cap does not allow it, and
    `DataError`, `RunFolderError`, `LedgerError`; then nothing is spent.
    """
    learner = classifier_named(classifier, device)
    require_schedule(seeds, passes)
    images = images_of(images)
    place = run_of(Path(images))
    run = None if place is None else AskedRun.open(place, private=private, ledger=ledger)
    if run is None or run.images.resolve() != Path(images).resolve():
        raise ParameterError(
            f"{images} is not the image folder of a run, so there is no ledger to charge",
            hint="give RUN/release/images",
        )
    plan = plan_of_count(run, epsilon)
    run.require_certified_images()
    synthetic = read_images(images)
    height, _, channels = synthetic.images.shape[1:]
    passes = learner.default_passes(height) if passes is None else passes
    names = synthetic.class_names

    def values() -> tuple[PrivateImages, NDArray[np.float64]]:
        train = synthetic.images, synthetic.labels
        models = []
        for seed in range(seeds):
            models.append(learner.trained(train, seed=seed, passes=passes, classes=len(names), progress=None))
            progress(message=f"synthetic: seed {seed + 1}/{seeds} has learnt")
        data = run.open_images(height, channels)
        return data, correctness(models, data.images, numbered(data, names))

    question = {
        "question": "share of the private training images that classifiers trained on the release get right",
        "images": digest_of(run.images),
        "class_names": list(names),
        "classifier": learner.name,
        "seeds": seeds,
        "passes": passes,
    }
    answer = ask(run, plan, question, values, progress)
    scores = ChargedScores(
        accuracy=_accuracy(answer),
        images=len(synthetic.images),
        classifier=learner.name,
        seeds=seeds,
        passes=passes,
        price=answer.document,
        notes=(
            f"the count is divided by the {answer.population:,} units declared: too low where fewer exist, "
            "too high where more exist; the model was trained on these images, so it is no figure of others",
            *(() if answer.document["compared_with_training"] else (UNCOMPARED,)),
            *synthetic.notes,
        ),
    )
    keep(answer, scores.to_dict())
    return scores


def _accuracy(answer: CountAnswer) -> Interval:
    """The noisy count over the public population, in per cent, cut to [0, 100]."""

    def share(count: float) -> float:
        return min(max(100 * count / answer.population, 0.0), 100.0)

    reach = NORMAL_95 * answer.std
    low, high = share(answer.noisy - reach), share(answer.noisy + reach)
    return Interval(mean=share(answer.noisy), low=low, high=high)


def numbered(data: PrivateImages, names: tuple[str, ...]) -> NDArray[np.int64]:
    """int64 `[N]`: each image's class in the order of `names`, -1 for none of them.

    What decides is public, or of that image alone: names that come from the data are matched one by one, so
    that no unit changes the class of another. Raises `DataError` for images without labels.
    """
    if data.labels is None:
        raise DataError("the private images have no labels, so no guess can be right", hint="set data.label")
    own = data.class_names
    if own is not None and (data.class_names_from_data or set(own) & set(names)):
        place = {name: number for number, name in enumerate(names)}
        by_name: NDArray[np.int64] = np.array([place.get(name, -1) for name in own], np.int64)[data.labels]
        return by_name
    by_number: NDArray[np.int64] = np.where(data.labels < len(names), data.labels, -1)
    return by_number


def correctness(
    models: Sequence[nn.Module], images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """float64 `[N]` in [0, 1]: the share of `models` that give each image its class, as if it were alone."""
    right = [guesses(model, images) == labels for model in models]
    found: NDArray[np.float64] = np.mean(right, axis=0, dtype=np.float64)
    return found


def guesses(model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """int64 `[N]`: the class that `model` gives each image; a close call is made without its neighbours.

    Always by float32 on the CPU, wherever and however the model was trained: a GPU's rounding is far coarser
    than `CLOSE`, and chooses its way of computing by what lies beside an image. Moves the model.
    """
    model = model.to("cpu", torch.float32)
    found = np.empty(len(images), np.int64)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for start in range(0, len(images), BLOCK):
            block = torch.from_numpy(images[start : start + BLOCK])
            scores = _scores(model, block)
            for row in _close_calls(scores):
                scores[row] = _scores(model, block[row : row + 1])[0]
            found[start : start + BLOCK] = scores.argmax(1).numpy()
    return found


def _close_calls(scores: Tensor) -> list[int]:
    """Rows of `scores [B, classes]` whose two best lie no further apart than rounding may move them."""
    if scores.shape[1] < 2:
        return []
    best = scores.topk(2, dim=1).values
    largest = scores.abs().nan_to_num(posinf=0.0).amax(1).clamp(min=1.0)
    found: list[int] = torch.nonzero(best[:, 0] - best[:, 1] < CLOSE * largest).flatten().tolist()
    return found


def _scores(model: nn.Module, images: Tensor) -> Tensor:
    """float `[B, classes]`; a score that is not finite makes its class the last choice."""
    scores: Tensor = model(pixels_of(images))
    return torch.nan_to_num(scores, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def refuse_settings(settings: dict[str, Any]) -> None:
    """Raises `ParameterError` for a setting of `evaluate` that a charged question has no use for."""
    given = [name for name, value in settings.items() if value not in (None, (), [], False)]
    if given:
        raise ParameterError(
            f"{counted(len(given), 'setting has', 'settings have')} no effect with a charge: "
            f"{', '.join(given)}",
            hint="one number is charged for, the accuracy; with --reference there are more",
        )
