"""Runs a study: every cell and seed is trained, generated from and scored, and nothing is done twice.

Guarantees:
- each run has a folder and a ledger of its own below the study's, and its result is on disk before it counts;
- a study that was stopped at any instant goes on; a finished run is neither trained nor scored again;
- a run whose recipe, base, scoring or reference was changed since is refused by name; before anything is made
  so are a reference that cannot be opened or has no labels, and a cell that no noise can be calibrated for;
- the reference is read as the run reads its own images: its column of labels, its squares, its window;
- without a reference the study is about public images alone, see `stand_in`.
May import everything. Source: the contract of `study` in the design.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dp_diffusers.evaluation import Features, evaluate
from dp_diffusers.evaluation.features import features_named
from dp_diffusers.evaluation.reading import LabelledImages, read_images
from dp_diffusers.evaluation.sets import opened
from dp_diffusers.recipe.study import LoadedStudy
from dp_diffusers.run.folder import make_folder
from dp_diffusers.run.out_apart import require_out_apart
from dp_diffusers.studying import pictures
from dp_diffusers.studying.contents import sha256_of_base
from dp_diffusers.studying.kept import Schedule, Scoring, keep, known, reading_of, sha256_of_reference
from dp_diffusers.studying.planned import CELLS, Run, require_no_account, require_plans, runs_of
from dp_diffusers.studying.public_row import public_images
from dp_diffusers.studying.results import BENCHMARK, CLAIM, RunRecord, StudyResult
from dp_diffusers.studying.row_count import expected_rows_at_most, layer_queries
from dp_diffusers.studying.settings import settings_of
from dp_diffusers.studying.stand_in import on_stand_in
from dp_diffusers.whole_files import replacing, write_text

Progress = Callable[..., None]


def _silent(**_: Any) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """What a run came to before it is scored. base: sha256 of the model that it was made from."""

    facts: dict[str, Any]
    images: LabelledImages
    base: str


def study(loaded: LoadedStudy, out: str | Path, *, progress: Progress = _silent) -> StudyResult:
    """Runs what is missing of a study in the folder `out`; writes tables (CSV, parquet, JSON) and pictures.

    progress: called with `message`, a line for each run. Raises what training, generation and evaluation
    raise, at the run that they meet; before any run `DataError` for a reference without labels,
    `ParameterError` for images that have a ledger, `BudgetError` for a cell without a plan. Raises
    `RunFolderError` for a run that was made with other settings or of other contents.
    """
    folder = Path(out)
    extractor = None if loaded.settings.evaluate.features is None else _extractor(loaded)
    for cell in loaded.cells:
        for recipe in cell.recipes:
            require_out_apart(folder, recipe.model_dump(mode="json"))
    if loaded.settings.evaluate.reference is not None:
        require_no_account(loaded)
        _require_references(loaded)
    make_folder(folder / CELLS)
    progress(message=CLAIM)
    if loaded.settings.evaluate.reference is None:
        loaded, images = on_stand_in(loaded, folder, progress)
    else:
        images = BENCHMARK
    progress(message=images.note)
    sha256_of_base.cache_clear()  # a base may have changed since the last call
    scoring, runs = Scoring(settings=loaded.settings.evaluate, extractor=extractor), runs_of(loaded)
    settings = settings_of([(run.recipe, run.public) for run in runs])
    # a cell that no noise can be calibrated for is refused before the first run is paid for
    require_plans([run for run in runs if known(run, folder, scoring) is None])
    records: list[RunRecord] = []
    drawn = Drawn(folder=folder)
    for index, run in enumerate(runs):
        earlier = known(run, folder, scoring)
        records.append(_done(run, folder, scoring) if earlier is None else earlier)
        result = StudyResult(
            records=tuple(records),
            planned=len(runs),
            features=_classifier(),
            settings=tuple(settings[: len(records)]),
            grid=tuple(loaded.settings.grid),
            images=images,
            distances=None if extractor is None else extractor.frechet_name,
        )
        if earlier is None or result.complete:
            result = drawn.written(result)
        progress(message=f"cell {index + 1}/{len(runs)}  {_said(records[-1], again=earlier is not None)}")
    return result


def _extractor(loaded: LoadedStudy) -> Features:
    """Opened before the first run is paid for. Raises `ParameterError`, `ModelError`."""
    return features_named(str(loaded.settings.evaluate.features))


def _require_references(loaded: LoadedStudy) -> None:
    """Raises `DataError` where the reference has no labels that a cell's images can be scored by."""
    scoring = Scoring(settings=loaded.settings.evaluate)
    for run in runs_of(loaded):
        sha256_of_reference(run, scoring)


def _said(record: RunRecord, *, again: bool) -> str:
    epsilon = "∞" if record.epsilon is None else f"{record.epsilon:.2f}"
    when = "done before" if again else f"{record.seconds:.0f} s"
    return f"{record.cell} seed {record.seed}  ε {epsilon}  accuracy {record.accuracy:.2f} %  {when}"


def _classifier() -> str:
    from dp_diffusers.evaluation.classifier import NAME

    return NAME


@dataclass(kw_only=True)
class Drawn:
    """The files of a study, written after each run; its trade-offs are drawn in a twentieth of the time."""

    folder: Path
    pictures: tuple[str, ...] = ()
    due: float = 0.0

    def written(self, result: StudyResult) -> StudyResult:
        """The result with the pictures that there are of it, which are of an earlier run where not due."""
        write_text(self.folder / "results.csv", result.to_csv())
        write_text(self.folder / "results.json", result.to_json())
        with replacing(self.folder / "results.parquet") as stream:
            stream.write(result.to_parquet())
        began = time.monotonic()
        if result.complete or began >= self.due:
            self.pictures = tuple(pictures.draw(result, self.folder))
            self.due = time.monotonic() + 20 * (time.monotonic() - began)
        result = replace(result, pictures=self.pictures)
        write_text(self.folder / "table.md", result.to_markdown())
        return result


def _done(run: Run, out: Path, scoring: Scoring) -> RunRecord:
    """Trains, generates and scores one run, from wherever an earlier start left it."""
    began = time.monotonic()
    make_folder(run.folder(out).parent)
    made = _public(run, out) if run.public else _trained(run, out)
    settings = scoring.settings
    scores = evaluate(
        made.images,
        _reference(run, scoring, made.images.images.shape[1:]),
        features=scoring.extractor,
        seeds=settings.seeds,
        passes=settings.passes,
    )
    figures: dict[str, Any] = scores.distances[0].figures if scores.distances else {}
    record = RunRecord(
        cell=run.cell,
        seed=run.seed,
        images=len(made.images.images),
        accuracy=scores.accuracy.mean,
        seconds=round(time.monotonic() - began, 1),
        **made.facts,
        **figures,
    )
    schedule = Schedule(
        classifier=scores.classifier, passes=scores.passes, size=int(made.images.images.shape[1])
    )
    keep(run, out, scoring, made.base, record, schedule)
    return record


def _reference(run: Run, scoring: Scoring, shape: tuple[int, ...]) -> LabelledImages:
    """The held-out images at the size of the made ones, read as the run reads its own."""
    place = str(scoring.settings.reference)
    return opened(place, shape, called="reference", on_disk=False, **reading_of(run))


def _trained(run: Run, out: Path) -> Made:
    from dp_diffusers.finetuning import train
    from dp_diffusers.generating import generate

    recipe = run.settings(out)
    release = train(recipe, run.folder(out))
    images = generate(release)
    certificate = release.certificate
    steps = int(certificate.mechanisms[0]["steps_charged"])
    queries = layer_queries(certificate.mechanisms)
    facts = {
        "epsilon": certificate.epsilon,
        "delta": certificate.delta,
        "steps": steps,
        "expected_rows_at_most": expected_rows_at_most(recipe, steps, queries),
        "trainable_parameters": int(certificate.adapter["trainable_parameters"]),
    }
    base = str(certificate.base_model["sha256"])
    return Made(facts=facts, images=read_images(images), base=base)


def _public(run: Run, out: Path) -> Made:
    images, base = public_images(run.recipe, run.folder(out))
    nothing = {"delta": None, "steps": 0, "expected_rows_at_most": 0, "trainable_parameters": 0}
    return Made(facts={"epsilon": 0.0, **nothing}, images=images, base=base)
