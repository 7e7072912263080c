"""Runs a study: every cell and seed is trained, generated from and scored, and nothing is done twice.

Guarantees:
- each run has a folder and a ledger of its own below the study's, and its result is on disk before it counts;
- a study that was stopped at any instant goes on; a finished run is neither trained nor scored again;
- a run whose recipe, base, scoring or reference was changed since is refused by name.
May import everything. Source: the contract of `study` in the design.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dp_diffusers.errors import RunFolderError
from dp_diffusers.evaluation import evaluate
from dp_diffusers.evaluation.reading import LabelledImages, read_images
from dp_diffusers.recipe import Recipe
from dp_diffusers.recipe.file import differing_keys
from dp_diffusers.recipe.study import PUBLIC, LoadedStudy, ScoreSettings, folder_name
from dp_diffusers.run_folder import make_folder
from dp_diffusers.studying import chart
from dp_diffusers.studying.contents import sha256_of_base, sha256_of_images
from dp_diffusers.studying.public_row import public_images
from dp_diffusers.studying.results import CLAIM, RunRecord, StudyResult
from dp_diffusers.studying.row_count import expected_rows_at_most, layer_queries
from dp_diffusers.whole_files import write_text

Progress = Callable[..., None]
CELLS: Final = "cells"


def _silent(**_: Any) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One cell with one seed; `public` for the base as it is."""

    cell: str
    seed: int
    recipe: Recipe
    public: bool = False

    def folder(self, out: Path) -> Path:
        """Its run folder."""
        return out / CELLS / folder_name(self.cell) / f"seed-{self.seed}"

    def settings(self, out: Path) -> Recipe:
        """Its recipe, with the ledger that is its own."""
        ledger = str(self.folder(out).resolve()) + ".ledger"
        budget = self.recipe.budget.model_copy(update={"ledger": ledger})
        return self.recipe.model_copy(update={"budget": budget})


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """What a run came to before it is scored. base: sha256 of the model that it was made from."""

    facts: dict[str, Any]
    images: LabelledImages
    base: str


def runs_of(study: LoadedStudy) -> list[Run]:
    """The public model first, then cell by cell, all seeds of each."""
    seeds = study.settings.seeds
    cells = [
        Run(cell=cell.name, seed=seed, recipe=recipe)
        for cell in study.cells
        for seed, recipe in zip(seeds, cell.recipes, strict=True)
    ]
    return [*_public_runs(study), *cells] if study.settings.public_model else cells


def _public_runs(study: LoadedStudy) -> Iterator[Run]:
    """Once for each base and way of making images that a cell has."""
    known: list[dict[str, Any]] = []
    for cell in study.cells:
        decides = _decides_public_images(cell.recipes[0])
        if decides in known:
            continue
        known.append(decides)
        name = PUBLIC if len(known) == 1 else f"{PUBLIC} {len(known)}"
        for seed, recipe in zip(study.settings.seeds, cell.recipes, strict=True):
            yield Run(cell=name, seed=seed, recipe=recipe, public=True)


def _decides_public_images(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe, but for the seed, that changes the images of its base as it is."""
    asked = {"classes", "caption", "caption_column", "size"}
    return {
        "base": recipe.base,
        "generation": recipe.generation.model_dump(exclude={"seed"}),
        "data": recipe.data.model_dump(include=asked),
    }


def study(loaded: LoadedStudy, out: str | Path, *, progress: Progress = _silent) -> StudyResult:
    """Runs what is missing of a study in the folder `out`; writes table, CSV, JSON and picture there.

    progress: called with `message`, a line for each run. Raises what training, generation and evaluation
    raise; `RunFolderError` for a run that was made with other settings.
    """
    folder, runs = Path(out), runs_of(loaded)
    make_folder(folder / CELLS)
    progress(message=CLAIM)
    sha256_of_base.cache_clear()  # a base may have changed since the last call
    records: list[RunRecord] = []
    scoring = loaded.settings.evaluate
    for index, run in enumerate(runs):
        known = _known(run, folder, scoring)
        record = _done(run, folder, scoring) if known is None else known
        records.append(record)
        result = StudyResult(records=tuple(records), planned=len(runs), features=_classifier())
        _write(result, folder)
        progress(message=f"cell {index + 1}/{len(runs)}  {_said(record, again=known is not None)}")
    return result


def _said(record: RunRecord, *, again: bool) -> str:
    epsilon = "∞" if record.epsilon is None else f"{record.epsilon:.2f}"
    when = "done before" if again else f"{record.seconds:.0f} s"
    return f"{record.cell} seed {record.seed}  ε {epsilon}  accuracy {record.accuracy:.2f} %  {when}"


def _classifier() -> str:
    from dp_diffusers.evaluation.classifier import NAME

    return NAME


def _write(result: StudyResult, folder: Path) -> None:
    write_text(folder / "results.csv", result.to_csv())
    write_text(folder / "results.json", result.to_json())
    write_text(folder / "table.md", result.to_markdown())
    chart.draw(result.rows, folder / "accuracy.svg")


def _asked(run: Run, out: Path, scoring: ScoreSettings) -> dict[str, Any]:
    """What decides a result, as a plain document; where it ran does not."""
    recipe = run.settings(out).model_dump(mode="json", exclude={"runtime", "audit"})
    return {"recipe": recipe, "evaluate": scoring.model_dump(mode="json"), "public": run.public}


def _result_file(run: Run, out: Path) -> Path:
    return run.folder(out).with_name(f"seed-{run.seed}.json")


def _known(run: Run, out: Path, scoring: ScoreSettings) -> RunRecord | None:
    """The result of an earlier start. Raises `RunFolderError` where it is of other settings, or damaged."""
    path = _result_file(run, out)
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        record, asked = _record(document["result"], run), document["asked"]
        contents = dict(document.get("contents", {}))  # a result from before these were noted has none
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} is damaged", hint="delete it: the run is scored again") from error
    different = differing_keys(asked, json.loads(json.dumps(_asked(run, out, scoring))), "")
    if different:
        raise RunFolderError(
            f"cell {run.cell} in {out} was run with another {', '.join(different)}",
            hint="give another --out, or call the cell otherwise",
        )
    _refuse_other_contents(run, out, scoring, contents)
    return record


def _record(result: dict[str, Any], run: Run) -> RunRecord:
    """A result from its file. Earlier ones counted one image for each unit; rows follow from the recipe."""
    if "images_processed" in result:
        queries = int(run.recipe.strategy.name == "sapf")
        rows = 0 if run.public else expected_rows_at_most(run.recipe, int(result["steps"]), queries)
        result = {name: value for name, value in result.items() if name != "images_processed"}
        result["expected_rows_at_most"] = rows
    return RunRecord(**result)


def _refuse_other_contents(run: Run, out: Path, scoring: ScoreSettings, contents: dict[str, Any]) -> None:
    """Raises `RunFolderError` where a path of the recipe holds something else than when the run was made."""
    places = (
        ("base", sha256_of_base, run.recipe.base),
        ("evaluate.reference", sha256_of_images, scoring.reference),
    )
    for key, sha256_of, place in places:
        if key in contents and contents[key] != sha256_of(place):
            raise RunFolderError(
                f"{key} {place} has changed since cell {run.cell} in {out} was run",
                hint="restore it, give another --out, or call the cell otherwise",
            )


def _done(run: Run, out: Path, scoring: ScoreSettings) -> RunRecord:
    """Trains, generates and scores one run, from wherever an earlier start left it."""
    began = time.monotonic()
    make_folder(run.folder(out).parent)
    made = _public(run, out) if run.public else _trained(run, out)
    contents = {"base": made.base, "evaluate.reference": sha256_of_images(scoring.reference)}
    scores = evaluate(
        made.images, scoring.reference, features=None, seeds=scoring.seeds, passes=scoring.passes
    )
    record = RunRecord(
        cell=run.cell,
        seed=run.seed,
        images=len(made.images.images),
        accuracy=scores.accuracy.mean,
        seconds=round(time.monotonic() - began, 1),
        **made.facts,
    )
    document = {"asked": _asked(run, out, scoring), "contents": contents, "result": record.to_dict()}
    write_text(_result_file(run, out), json.dumps(document, indent=2, sort_keys=True) + "\n")
    return record


def _trained(run: Run, out: Path) -> Made:
    from dp_diffusers.finetuning import train
    from dp_diffusers.release import generate

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
