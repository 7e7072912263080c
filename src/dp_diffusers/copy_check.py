"""Does a release show its training images: a look for near copies, as its owner runs it inside the safe.

Guarantees:
- what is computed from training images is written below `RUN/private/` alone, readable by its owner; nothing
  of it is returned, printed or logged;
- what leaves, if it is asked for, is one yes or no that the run's ledger has paid for;
- threshold and limit of that answer follow from held-out and synthetic images and public numbers.
May import numpy and torch. The argument is written out in docs/design/0015.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.drawing.kept_images import digest_of
from dp_diffusers.errors import ParameterError
from dp_diffusers.evaluation.copy_report import closest, copy_report
from dp_diffusers.evaluation.copy_test import FALSE_ALARM, CopyTest, threshold_of
from dp_diffusers.evaluation.embedding import silent
from dp_diffusers.evaluation.features import DEFAULT, Features, features_named
from dp_diffusers.evaluation.held_apart import as_its_own, refuse_training_images, shown_to
from dp_diffusers.evaluation.nearest import Nearest, Reached
from dp_diffusers.evaluation.plain_images import plain_images
from dp_diffusers.mechanisms.count import count_std
from dp_diffusers.pictures import grid
from dp_diffusers.plan import Plan
from dp_diffusers.queries.charged_count import ask, keep, plan_of_count, price_line
from dp_diffusers.run.asked_run import UNCOMPARED, AskedRun
from dp_diffusers.whole_files import replacing, write_text

FILE: Final = "near-copies.json"
SHEET: Final = "near-copies.png"
QUESTION: Final = "are more training units near to synthetic images than held-out images explain?"
NOT_FOR_RELEASE: Final = "computed from private images, not covered by ε: not for release"
CONDITIONS: Final = (
    "the held-out images are of the same kind as the training images, and no two of the same unit: several "
    "of one unit are alike, and make a yes by chance likelier than one in a hundred",
    "no more units than the declared population were trained on: further ones add to the count, and make a "
    "yes by chance likelier",
)
_APART: Final = "the baseline is images that the run never saw; take out those that it did"
_PER_ROW: Final = 8


@dataclass(frozen=True, kw_only=True)
class NearCopies:
    """Where a near-copy check is kept; `answer` is what may leave, None where nothing was charged.

    No figure is in it: whoever works inside the safe reads `file`.
    """

    file: Path
    sheet: Path
    answer: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_copied(self) -> bool | None:
        """Whether the charged answer is yes; None without one."""
        return None if self.answer is None else self.answer["answer"] == "yes"

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `near-copies`."""
        places = {"file": str(self.file), "sheet": str(self.sheet), "for_release": False}
        return {**places, "answer": self.answer, "notes": list(self.notes)}

    def explain(self) -> str:
        """The places, and the answer with its price, as text for a terminal."""
        lines = [f"{self.file}", f"{self.sheet}", f"  {NOT_FOR_RELEASE}", *self.notes]
        if self.answer is not None:
            lines += [
                f"{QUESTION} {self.answer['answer']}",
                f"  below {self.answer['could_miss']} copied units it may say no, and yes by chance in one "
                "case of a hundred; ε covers the training images, not the held-out ones",
                *(f"  provided that {condition}" for condition in CONDITIONS),
                price_line(self.answer),
            ]
        return "\n".join(lines)


def near_copies(
    run: str | Path,
    held_out: str | Path | np.ndarray,
    *,
    features: str | Features = DEFAULT,
    charge: float | None = None,
    private: PrivateImages | None = None,
    ledger: str | Path | None = None,
    progress: Callable[..., None] = silent,
) -> NearCopies:
    """Compares how near training images and held-out images come to the synthetic ones of a finished run.

    Args:
        run: run folder with images in its release.
        held_out: real images of the same kind that the run never saw: a path, or uint8 [N, H, W, C].
        features: what sees the images, by name or an extractor of your own (see `evaluate`).
        charge: epsilon of one yes or no that may leave: are more training units near than the held-out images
            explain? Charged to the run's ledger; None asks nothing.
        private, ledger: the training images and their ledger, of a run that `finetune` made.

    Returns where the findings are kept, and the answer. Raises `BudgetError` where the cap does not allow the
    charge, `ParameterError` for held-out images that are training images, or for a charge too small to see
    anything, and `DataError`, `RunFolderError`, `LedgerError`, `ModelError`; then nothing is spent.
    """
    asked = AskedRun.open(run, private=private, ledger=ledger)
    extractor = features_named(features) if isinstance(features, str) else features
    plan = None
    if charge is not None:
        _require_digest(extractor)
        plan = plan_of_count(asked, charge)
    asked.require_certified_images()
    check = _Check(asked, held_out, extractor, progress)
    check.refuse_together()
    answer = None if plan is None else _answer(check, plan)
    found = check.report()
    document = {"not_for_release": NOT_FOR_RELEASE, **check.facts, **found, "answer": answer}
    document["notes"] = list(check.notes)
    file, sheet = asked.folder.private / FILE, asked.folder.private / SHEET
    write_text(file, json.dumps(document, indent=2) + "\n")
    with replacing(sheet) as stream:
        Image.fromarray(check.sheet()).save(stream, format="PNG")
    for path in (file, sheet):
        path.chmod(0o600)
    return NearCopies(file=file, sheet=sheet, answer=answer, notes=check.notes)


def _require_digest(features: Features) -> None:
    """Raises `ParameterError` where an answer could not be told from that of another extractor."""
    if features.sha256 is None:
        raise ParameterError(
            f"features {features.name} have no sha256, by which a charged answer is told from another's",
            hint="Features(sha256=…) of its weights, or of its code",
        )


def _answer(check: _Check, plan: Plan) -> dict[str, Any]:
    """The charged yes or no, with its price and what it could have missed."""
    population = plan.mechanism.population
    test = CopyTest(
        population=population,
        held_out=len(check.held_out),
        rank=check.rank,
        std=count_std(plan.noise_multiplier),
    )
    test.require_power()
    question = {"question": QUESTION, **check.facts}
    found = ask(check.run, plan, question, lambda: (check.data, check.nearer()), check.progress)
    document = {
        **found.document,
        "answer": "yes" if test.is_copied(found.noisy) else "no",
        "could_miss": test.could_miss,
        "false_alarm": FALSE_ALARM,
        "held_out_images": test.held_out,
        "features": check.facts["features"],
        "conditions": list(CONDITIONS),
        "covered_by_epsilon": not found.document["not_private"],
        "not_covered": "the held-out images, from which the threshold is taken",
    }
    keep(found, document)
    return document


class _Check:
    """Public images first; the training images are opened when they are first needed, and once."""

    def __init__(
        self,
        run: AskedRun,
        held_out: str | Path | np.ndarray,
        extractor: Features,
        progress: Callable[..., None],
    ) -> None:
        self.run, self.progress = run, progress
        self.synthetic = plain_images(run.images)
        self._size, _, self._channels = self.synthetic.shape[1:]
        self._path = None if isinstance(held_out, np.ndarray) else held_out
        self.held_out = self._opened(held_out)
        self.notes: tuple[str, ...] = ()
        progress(message=f"synthetic and held-out images: features {extractor.name}")
        self._space = Nearest(extractor, self.synthetic)
        vectors: list[np.ndarray] = []
        self._baseline, _ = self._space.of(self.held_out, seen=vectors.append)
        self._reached = Reached(np.concatenate(vectors))
        self.threshold, self.rank = threshold_of(self._baseline, self._space.resolution)
        self.facts: dict[str, Any] = {
            "images": digest_of(run.images),
            "held_out": hashlib.sha256(np.ascontiguousarray(self.held_out).tobytes()).hexdigest(),
            "features": extractor.name,
            "features_sha256": extractor.sha256,
        }

    def _opened(self, held_out: str | Path | np.ndarray) -> np.ndarray:
        if not isinstance(held_out, np.ndarray):
            how = as_its_own(
                self.run.folder.root
            )  # else fresh images would lie farther off than trained ones
            return plain_images(
                held_out,
                size=self._size,
                channels=self._channels,
                resize=how["resize"],
                window=how["window"],
            )
        if held_out.dtype != np.uint8 or held_out.shape[1:] != self.synthetic.shape[1:]:
            raise ParameterError(
                f"expected held-out images uint8 of shape {self.synthetic.shape[1:]}, got {held_out.dtype} "
                f"{held_out.shape[1:]}"
            )
        return held_out

    def refuse_together(self) -> None:
        """Raises `ParameterError` where the safe knows that held-out images are training images."""
        root = self.run.folder.root
        self.notes = refuse_training_images(root, "held-out", self._path, self.held_out, hint=_APART)

    @cached_property
    def data(self) -> PrivateImages:
        """The training images. Raises `ParameterError` where a held-out image is one of them."""
        data = self.run.open_images(self._size, self._channels)
        if not self.run.require_as_trained(data):
            self.notes += (UNCOMPARED,)
        shown = shown_to(self.run.folder, self._path, self.held_out)
        if any(part.meets(data) for part in shown):
            raise ParameterError("held-out holds images that the run was trained on", hint=_APART)
        return data

    @cached_property
    def _found(self) -> tuple[np.ndarray, np.ndarray]:
        """Distance of each training image and its nearest synthetic one."""
        self.progress(message="training images, inside the safe")
        return self._space.of(self.data.images, private=True, seen=self._reached.add)

    def nearer(self) -> np.ndarray:
        """float64 `[N]`: which training images are nearer than the threshold."""
        return self._space.decided(self.data.images, self._found[0], self.threshold)

    def report(self) -> dict[str, Any]:
        """The figures, for the safe."""
        distance, place = self._found
        return copy_report(
            self.data,
            self.synthetic,
            distance,
            place,
            self._baseline,
            self.threshold,
            to_training=self._reached.distance,
            resolution=self._space.resolution,
        )

    def sheet(self) -> np.ndarray:
        """The closest pairs, a training image and its synthetic neighbour each, as a picture for the safe."""
        distance, place = self._found
        first = closest(distance)
        pairs = np.stack([self.data.images[first], self.synthetic[place[first]]], axis=1)
        drawn = grid(pairs.reshape(-1, *pairs.shape[2:]), columns=_PER_ROW)
        drawn = drawn.repeat(3, axis=0).repeat(3, axis=1)
        return drawn[..., 0] if drawn.shape[2] == 1 else drawn
