"""The front door of `evaluate`: on a held-out reference, or by one charged question to the training images.

Guarantees that exactly one of the two reads real images, and that neither is chosen by a default. May import
numpy and torch, through what it leads to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from dp_diffusers.errors import ParameterError
from dp_diffusers.evaluation.classifiers import DEFAULT as DEFAULT_CLASSIFIER
from dp_diffusers.evaluation.embedding import silent
from dp_diffusers.evaluation.features import DEFAULT as DEFAULT_FEATURES

if TYPE_CHECKING:
    from dp_diffusers.data.private_images import PrivateImages
    from dp_diffusers.evaluation.charged import ChargedScores
    from dp_diffusers.evaluation.features import Features
    from dp_diffusers.evaluation.scores import Scores
    from dp_diffusers.evaluation.sets import Images

Progress = Callable[..., None]


@overload
def evaluate(
    images: Images,
    reference: Images,
    *,
    charge: None = None,
    public: Images | Sequence[Images] = (),
    public_model: Images | None = None,
    with_public: bool = False,
    real: Images | None = None,
    label: str | None = None,
    fidelity: bool = False,
    features: str | Features | None = DEFAULT_FEATURES,
    classifier: str = DEFAULT_CLASSIFIER,
    device: str = "auto",
    seeds: int = 3,
    passes: int | None = None,
    progress: Progress = silent,
) -> Scores: ...


@overload
def evaluate(
    images: str | Path,
    reference: None = None,
    *,
    charge: float,
    private: PrivateImages | None = None,
    ledger: str | Path | None = None,
    classifier: str = DEFAULT_CLASSIFIER,
    device: str = "auto",
    seeds: int = 3,
    passes: int | None = None,
    progress: Progress = silent,
) -> ChargedScores: ...


def evaluate(
    images: Images,
    reference: Images | None = None,
    *,
    charge: float | None = None,
    private: PrivateImages | None = None,
    ledger: str | Path | None = None,
    public: Images | Sequence[Images] = (),
    public_model: Images | None = None,
    with_public: bool = False,
    real: Images | None = None,
    label: str | None = None,
    fidelity: bool = False,
    features: str | Features | None = DEFAULT_FEATURES,
    classifier: str = DEFAULT_CLASSIFIER,
    device: str = "auto",
    seeds: int = 3,
    passes: int | None = None,
    progress: Progress = silent,
) -> Scores | ChargedScores:
    """Scores synthetic images against real ones: held-out ones, or those that the run was trained on.

    Args:
        images: synthetic images: parquet, folder, or arrays (uint8 [N, H, W, C], int64 [N]); with `charge`
            the folder RUN/release/images of a finished run.
        reference: real held-out images, which no budget covers; refused where the run was trained on them.
        charge: epsilon of one question to the run's own training images, charged to its ledger: the noisy
            accuracy of classifiers that learnt from `images`, which epsilon covers.
        private, ledger: the training images and their ledger, of a run that `finetune` made.
        public, public_model, with_public, real, label, fidelity, features: further rows and figures of a
            held-out evaluation, see `evaluation.evaluating.evaluate`; refused beside a charge.
        classifier: by name, see `evaluation.classifiers`. device: of those that can use a GPU.
        seeds, passes: classifiers, and images seen in training each; None takes the default for the size.

    Returns `Scores`, or `ChargedScores` for a charge. Raises `ParameterError` unless exactly one of
    `reference` and `charge` is given, `BudgetError` where the cap does not allow the charge, `DataError`,
    `ModelError`, `RunFolderError`, `LedgerError`.
    """
    if (reference is None) == (charge is None):
        raise ParameterError(
            "expected exactly one of reference and charge",
            hint="--reference PATH: held-out real images; --charge EPSILON: the training images, by one "
            "question that the ledger pays for",
        )
    common: dict[str, Any] = {"classifier": classifier, "device": device, "seeds": seeds, "passes": passes}
    common["progress"] = progress
    further: dict[str, Any] = {"public": public, "public_model": public_model, "with_public": with_public}
    further |= {"real": real, "label": label, "fidelity": fidelity}
    if reference is not None:
        if private is not None or ledger is not None:
            raise ParameterError("private and ledger have an effect with a charge only", hint="give charge=")
        from dp_diffusers.evaluation import evaluating

        return evaluating.evaluate(images, reference, features=features, **common, **further)
    from dp_diffusers.evaluation.charged import charged_accuracy, refuse_settings

    assert charge is not None
    if features != DEFAULT_FEATURES:
        further["features"] = features
    refuse_settings(further)
    if not isinstance(images, str | Path):
        raise ParameterError(
            "a charge needs the images of a run, and these are arrays",
            hint="give the folder RUN/release/images",
        )
    return charged_accuracy(images, charge, private=private, ledger=ledger, **common)
