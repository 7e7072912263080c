"""Verbs that compute: `pretrain`, `train`, `generate`, `evaluate`, `demo`.

Guarantees that each is one call of the Python API and that its answer is the design's JSON contract.
May import typer and pathlib at the top; the libraries are loaded when a verb runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dp_diffusers.cli.options import Json, Overrides, Quiet, RecipeFile
from dp_diffusers.cli.output import answer, configure, tell
from dp_diffusers.cli.progress import Terminal
from dp_diffusers.errors import ParameterError
from dp_diffusers.processes import team

if TYPE_CHECKING:
    from dp_diffusers.privacy.certificate import Certificate
    from dp_diffusers.recipe import Recipe


class ImageFormat(str, Enum):
    """How images are written: the names in `images_out.FORMATS`, known without loading it."""

    parquet = "parquet"
    imagefolder = "imagefolder"


def pretrain(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the public model.")],
    overrides: Overrides = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a public model on public images; resumes."""
    configure(json=json, quiet=quiet, out=out)
    from dp_diffusers.recipe import PretrainRecipe

    settings = PretrainRecipe.load(recipe, overrides or ())
    from dp_diffusers.pretraining import pretrain as run_pretraining

    folder = run_pretraining(settings, out, Terminal(public=True))
    answer(str(folder), {"model": str(folder)})


def train(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Run folder.")],
    overrides: Overrides = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune on private images under a privacy budget; resumes."""
    configure(json=json, quiet=quiet, out=out)
    together = team()
    settings = together.all_do(lambda: _recipe_for(out, recipe, overrides or ()))
    if together.first:
        from dp_diffusers.cli.first_facts import first_facts

        for fact in first_facts(settings, out, quiet=quiet):
            tell(fact)
    from dp_diffusers.finetuning import train as run_training

    release = run_training(settings, out, Terminal())
    if together.first:
        answer(str(release.path), {"release": str(release.path), **_cost(release.certificate)})


def _recipe_for(out: Path, recipe: Path, overrides: Sequence[str]) -> Recipe:
    """The recipe, if the folder is not another one's; it says so before a heavy library is loaded."""
    from dp_diffusers.recipe import Recipe
    from dp_diffusers.run.earlier_recipe import require_same_recipe
    from dp_diffusers.run.folder import RunFolder

    settings = Recipe.load(recipe, overrides)
    require_same_recipe(RunFolder(out), settings.model_dump(mode="json"))
    return settings


def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of a finished training.")],
    images: Annotated[
        int | None,
        typer.Option("--images", metavar="N", min=1, help="Number of images (default: the recipe's)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to write (default: RUN/release/images)."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override generation.* or runtime.*; may be repeated."
        ),
    ] = None,
    format: Annotated[
        ImageFormat,
        typer.Option(
            "--format", metavar="parquet|imagefolder", help="parquet: one file; imagefolder: folders of PNG."
        ),
    ] = ImageFormat.parquet,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="float32|bfloat16",
            help="Number type of the model; short for --set generation.dtype.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="relabel|off",
            help="Whose labels, where the run has a teacher; short for --set generation.teacher.",
        ),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the network first: for many images.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make labelled synthetic images from a release; resumes.

    Under torchrun the processes share the work.
    """
    configure(json=json, quiet=quiet, out=run)
    from dp_diffusers.processes.ranks import ranks_of_environment
    from dp_diffusers.recipe.after import after_training
    from dp_diffusers.run.folder import RunFolder

    RunFolder(run).require_finished()
    first = ranks_of_environment().first
    from dp_diffusers.generating import generate as run_generation
    from dp_diffusers.release import Release

    release = Release.open(run)
    short = {"dtype": dtype, "teacher": teacher}
    asked = [*(overrides or ()), *(f"generation.{key}={value}" for key, value in short.items() if value)]
    chosen = after_training(release.settings(), asked, release.folder.recipe)
    named = any(item.partition("=")[0].strip() == "generation.teacher" for item in asked)
    if named and chosen.generation.teacher == "relabel" and release.teacher is None:
        raise ParameterError(f"{run} has no teacher to label its images", hint="leave --teacher out")
    folder = run_generation(
        release,
        images=images,
        out=out,
        format=format.value,
        settings=chosen.generation,
        device=chosen.runtime.device,
        compiled=compile or chosen.runtime.compile,
        progress=Terminal(),
    )
    if first:
        answer(str(folder), {"images": str(folder)})


def evaluate(
    images: Annotated[
        Path, typer.Argument(metavar="IMAGES", help="Synthetic images: a folder, a parquet file, or a run.")
    ],
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="PATH", help="Held-out real images to test on.")
    ] = None,
    charge: Annotated[
        float | None,
        typer.Option(
            "--charge",
            metavar="EPSILON",
            help="Instead, the run's own training images: one noisy accuracy, paid from its ledger.",
        ),
    ] = None,
    with_public: Annotated[
        bool, typer.Option("--with-public", help="Also train on synthetic and public images.")
    ] = False,
    public: Annotated[
        list[Path] | None,
        typer.Option("--public", metavar="PATH", help="Public images, labelled alike; may be repeated."),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(
            "--real", metavar="PATH", help="Real images to train on: the ceiling; not covered by ε."
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            metavar="NAME",
            help="Column of labels of --reference and --real (default: the run's, else `label`).",
        ),
    ] = None,
    fidelity: Annotated[
        bool, typer.Option("--fidelity", help="Judge the labels without --real: one training more.")
    ] = False,
    classifier: Annotated[
        str,
        typer.Option("--classifier", metavar="NAME", help="cnn-32-64-128, or wrn-40-4 (for a GPU)."),
    ] = "cnn-32-64-128",
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="Where wrn-40-4 is trained: auto, cpu or cuda.")
    ] = "auto",
    features: Annotated[
        str,
        typer.Option(
            "--features",
            metavar="NAME",
            help="What FID, KID … compare: efficientnet-lite0-64 or -128, inception-v3[:WEIGHTS], the "
            "folder of a network of your own, or none.",
        ),
    ] = "efficientnet-lite0-64",
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            metavar="N",
            min=2,
            max=100,
            help="Classifiers of each row, two or more: its interval, which does not hold how test images "
            "differ.",
        ),
    ] = 3,
    passes: Annotated[
        int | None,
        typer.Option(
            "--passes",
            metavar="N",
            min=1,
            help="Images seen in one training (default: by classifier and image size).",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score synthetic images: accuracy, and distances to real ones."""
    configure(json=json, quiet=quiet)
    from dp_diffusers.evaluation import evaluate as run_evaluation

    settings: dict[str, Any] = {"with_public": with_public, "public": public or [], "real": real}
    settings |= {"label": label, "fidelity": fidelity, "classifier": classifier, "device": device}
    settings |= {"seeds": seeds, "passes": passes}
    settings["features"] = None if features == "none" else features
    asked: dict[str, Any] = {"reference": reference, "charge": charge, **settings}
    result = run_evaluation(images, progress=Terminal(), **asked)
    answer(result.explain(), result.to_dict())


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the demonstration.")] = Path(
        "runs/demo"
    ),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Everything once, in minutes, from digits to a certificate."""
    configure(json=json, quiet=quiet, out=out)
    from dp_diffusers.demo import demo as run_demo

    result = run_demo(out, Terminal())
    document = {
        key: str(value) if isinstance(value, Path) else value for key, value in asdict(result).items()
    }
    answer(result.explain(), document)


def _cost(certificate: Certificate) -> dict[str, Any]:
    """What a training spent and trained, as its certificate says."""
    issued = certificate.to_dict()
    return {
        "epsilon": issued["epsilon"],
        "delta": issued["delta"],
        "steps_charged": issued["mechanisms"][0]["steps_charged"],  # side queries come after it
        "trainable_parameters": issued["adapter"]["trainable_parameters"],
        "not_private": issued["not_private"],
    }
