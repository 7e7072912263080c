"""Results of earlier starts of a study: read where they are of the same settings and contents, else refused.

Guarantees that a result is on disk whole, with what decided it, or absent: a default is written down as what
it came to, so that results of two defaults are never in one table. May import the recipe, and torch and
diffusers through the base.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from dp_diffusers.errors import RunFolderError
from dp_diffusers.evaluation import Features
from dp_diffusers.evaluation.classifiers import DEFAULT, classifier_named
from dp_diffusers.evaluation.reading import AsTheRun, as_the_run
from dp_diffusers.recipe.file import differing_keys
from dp_diffusers.recipe.new_keys import with_new_keys
from dp_diffusers.recipe.study import ScoreSettings
from dp_diffusers.studying.contents import sha256_of_base, sha256_of_images
from dp_diffusers.studying.planned import Run
from dp_diffusers.studying.results import RunRecord
from dp_diffusers.whole_files import write_text

SCORED: Final = "scored"
USUAL: Final = {"resize": "crop", "window": None}  # how a reference becomes pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class Scoring:
    """How runs are scored; `settings` name a reference, extractor is that of the distances or None."""

    settings: ScoreSettings
    extractor: Features | None = None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What the classifiers of a result were: their name, the images each saw, the size of these in pixels."""

    classifier: str
    passes: int
    size: int


def keep(run: Run, out: Path, scoring: Scoring, base: str, record: RunRecord, schedule: Schedule) -> None:
    """Writes a result; `base`: sha256 of the model that it was made from."""
    document = {
        "asked": asked(run, out, scoring),
        "contents": contents_of(base, run, scoring),
        SCORED: {**asdict(schedule), **_unusual_reading(run)},
        "result": record.to_dict(),
    }
    write_text(result_file(run, out), json.dumps(document, indent=2, sort_keys=True) + "\n")


def asked(run: Run, out: Path, scoring: Scoring) -> dict[str, Any]:
    """What decides a result, as a plain document; where it ran does not.

    A setting that came later is there where it is not the default alone: results from before it stay valid.
    """
    recipe = run.settings(out).model_dump(mode="json", exclude={"runtime", "audit"})
    evaluated = scoring.settings.model_dump(mode="json")
    if evaluated["features"] is None:
        del evaluated["features"]
    return {"recipe": recipe, "evaluate": evaluated, "public": run.public}


def result_file(run: Run, out: Path) -> Path:
    """Where the result of a run lies."""
    return run.folder(out).with_name(f"seed-{run.seed}.json")


def known(run: Run, out: Path, scoring: Scoring) -> RunRecord | None:
    """The result of an earlier start. Raises `RunFolderError` where it is of other settings, or damaged."""
    path = result_file(run, out)
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        record, before = RunRecord(**document["result"]), _whole(document["asked"])
        contents, schedule = dict(document["contents"]), _schedule(document.get(SCORED))
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} is damaged", hint="delete it: the run is scored again") from error
    now = json.loads(json.dumps(asked(run, out, scoring)))
    different = differing_keys(before, _whole(now), "")
    if different:
        raise RunFolderError(
            f"cell {run.cell} in {out} was run with another {', '.join(different)}",
            hint="give another --out, or call the cell otherwise",
        )
    _refuse_another_schedule(run, out, scoring, schedule)
    _refuse_another_reading(run, out, dict(document.get(SCORED) or {}))
    _refuse_other_contents(run, out, scoring, contents)
    return record


def _whole(asked_for: dict[str, Any]) -> dict[str, Any]:
    """With the keys of a recipe that came after it."""
    return {**asked_for, "recipe": with_new_keys(asked_for.get("recipe"))}


def _schedule(document: dict[str, Any] | None) -> Schedule | None:
    """None for a result from before it was written down. Raises `KeyError`, `TypeError` for a damaged one."""
    if document is None:
        return None
    return Schedule(
        classifier=str(document["classifier"]), passes=int(document["passes"]), size=int(document["size"])
    )


def _refuse_another_schedule(run: Run, out: Path, scoring: Scoring, before: Schedule | None) -> None:
    """Raises `RunFolderError` where the defaults of today would score the run in another way."""
    path, passes = result_file(run, out), scoring.settings.passes
    again = f"give another --out, or delete {path}: the run is scored again, not trained again"
    if before is None:
        if passes is None:  # the default of its time, whatever that was
            raise RunFolderError(f"{path} does not say how many images its classifiers saw", hint=again)
        return
    learner = classifier_named(DEFAULT)
    now = Schedule(
        classifier=learner.name,
        passes=learner.default_passes(before.size) if passes is None else passes,
        size=before.size,
    )
    for name in ("classifier", "passes"):
        then, today = getattr(before, name), getattr(now, name)
        if then != today:
            raise RunFolderError(
                f"cell {run.cell} in {out} was scored with evaluate.{name} {then}, which is {today} now",
                hint=again,
            )


def reading_of(run: Run) -> AsTheRun:
    """How the reference is read for a run: as its training reads its own images."""
    return as_the_run(run.recipe.data.model_dump(mode="json"))


def _unusual_reading(run: Run) -> dict[str, Any]:
    """What of it changes pixels and is not the default, in which all results from before it were read."""
    how: dict[str, Any] = {**reading_of(run)}
    return {key: how[key] for key, usual in USUAL.items() if how[key] != usual}


def _refuse_another_reading(run: Run, out: Path, before: dict[str, Any]) -> None:
    """Raises `RunFolderError` where the reference was brought to the images' size in another way."""
    now = _unusual_reading(run)
    for key, usual in USUAL.items():
        then, today = before.get(key, usual), now.get(key, usual)
        if then != today:
            raise RunFolderError(
                f"cell {run.cell} in {out} was scored on a reference read by data.{key} {then}, which is "
                f"{today} now",
                hint=f"give another --out, or delete {result_file(run, out)}: the run is scored again, not "
                "trained again",
            )


def _refuse_other_contents(run: Run, out: Path, scoring: Scoring, contents: dict[str, Any]) -> None:
    """Raises `RunFolderError` where what the recipe names is something else than when the run was made."""
    places = {
        "base": run.recipe.base,
        "evaluate.reference": scoring.settings.reference,
        "evaluate.features": scoring.settings.features,
    }
    for key, sha256 in contents_of(sha256_of_base(run.recipe.base), run, scoring).items():
        if contents[key] != sha256:
            raise RunFolderError(
                f"{key} {places[key]} has changed since cell {run.cell} in {out} was run",
                hint="restore it, give another --out, or call the cell otherwise",
            )


def contents_of(base: str, run: Run, scoring: Scoring) -> dict[str, str | None]:
    """sha256 of what a result was made from, beside its recipe; `base`: that of the model."""
    found = {"base": base, "evaluate.reference": sha256_of_reference(run, scoring)}
    features = {} if scoring.extractor is None else {"evaluate.features": scoring.extractor.sha256}
    return {**found, **features}


def sha256_of_reference(run: Run, scoring: Scoring) -> str:
    """Of the reference, with the labels that a run is scored by. Raises `DataError` where it has none."""
    return sha256_of_images(str(scoring.settings.reference), reading_of(run)["own"])
