"""Bad images, labels, units, bases and run folders: refused by `train` with nothing spent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from bad_rows import Row, Spoil, both, check
from faults import animated, bad_bytes, cut, encoded, pictures, table, write_base

from loop_support import cheap_trainings

RECIPE = """\
base: base
data: {path: images.parquet, label: label}
budget: {epsilon: 1, delta: 1.0e-3, ledger: data.ledger}
mechanism: {steps: 3, expected_units: 10, population: 30, clip_norm: 0.1}
strategy: {rank: 2, targets: attention}
training: {noise_draws: 2, learning_rate: 1.0e-2}
generation: {images: 9, steps: 3}
"""


def row(name: str, spoil: Spoil, says: str, hint: str | None, sets: str = "", code: int = 2) -> Row:
    """`train` after `spoil`, with `--set` for each word of `sets`."""
    overrides = [word for item in sets.split() for word in ("--set", item)]
    command = ("train", "{folder}/recipe.yaml", "--out", "{folder}/run", "--quiet", *overrides)
    return Row(name=name, spoil=spoil, command=command, says=says, hint=hint, code=code)


def of_folder(
    name: str, files: dict[str, bytes], says: str, hint: str | None, sets: str = "", metadata: Any = None
) -> Row:
    """`train` on a folder of images."""
    return row(
        name, pictures(files, metadata), says, hint, f"data.path=pictures {sets or 'data.label=folder'}"
    )


def of_metadata(name: str, lines: list[list[str]] | bytes, says: str, hint: str | None) -> Row:
    """`train` on two images whose owners stand in a metadata.csv."""
    files = {"a.png": encoded(), "b.png": encoded()}
    return of_folder(name, files, says, hint, "data.label=finding budget.unit=patient", lines)


def of_units(name: str, units: list[Any], says: str, hint: str | None, sets: str = "") -> Row:
    """`train` on images with a column `patient`."""
    return row(name, table(patient=units), says, hint, f"budget.unit=patient {sets}")


def base_without(part: str) -> Spoil:
    return lambda folder: (folder / "base" / part).unlink()


def base_with(part: str, content: str) -> Spoil:
    return lambda folder: (folder / "base" / part).write_text(content)


NO_IMAGES = pa.array([], pa.binary())
HEAD = ["file_name", "patient", "finding"]
A, B = ["a.png", "p1", "0"], ["b.png", "p2", "1"]
WEIGHTS = "base/unet/diffusion_pytorch_model.safetensors"
FILES = [
    row("no images", table(), "images not found: .*nowhere", "recipe's folder", "data.path=nowhere"),
    row(
        "another kind of file",
        table(),
        r"expected a folder or a \.parquet file",
        "parquet",
        "data.path=recipe.yaml",
    ),
    row(
        "a cut parquet file",
        both(table(), cut("images.parquet")),
        "not a parquet file, or a damaged",
        "again",
    ),
    row("an empty file", bad_bytes(b""), "not a parquet file, or a damaged one", "again"),
    row("text called parquet", bad_bytes(b"image,label\n"), "not a parquet file, or a damaged one", "again"),
    row(
        "no rows",
        table(images=pa.array([], pa.binary()), label=pa.array([], pa.int64())),
        "no images in",
        "rows",
    ),
    row("no image column", table(images=["a", "b"]), "no image column among image, label", "of bytes"),
    row(
        "two image columns",
        table(image=None, x=[encoded()], y=[encoded()]),
        "no image column among",
        "of bytes",
    ),
    row(
        "no such label", table(), "no label column 'lable' among image, label", "'label'", "data.label=lable"
    ),
    row(
        "a null label",
        table(label=[0, 1, None]),
        r"label column 'label' is null in row 2 \(counted from 0\)",
        "label",
    ),
    row(
        "labels with fractions",
        table(label=[0.5, 1.0]),
        "to hold whole numbers or text, got float",
        "data.label",
    ),
    row("mixed labels", table(label=[[0], [1]]), "to hold whole numbers or text, got list", "data.label"),
    row(
        "a label too many",
        table(),
        r"the label in row 2 \(counted from 0\) is outside",
        "0 to 1",
        "data.classes=[a,b]",
    ),
    row("a label below zero", table(label=[0, -1, 2]), r"labels >= 0, that in row 1 .* is less", "from 0"),
    row(
        "a label of a million", table(label=[0, 10**6, 2]), "from 0, that in row 1 .* is too large", "from 0"
    ),
    row("text without classes", table(label=["a", "b"]), "the labels are text, and the base", "data.classes"),
    row(
        "an unknown class",
        table(label=["a", "bb"]),
        r"the label in row 1 \(counted from 0\) is not in data.classes",
        "that row's label; the classes are a, b",
        "data.classes=[a,b]",
    ),
    row(
        "labels missing",
        table(),
        "class-conditional but the images have no labels",
        "data.label",
        "data.label=null",
    ),
    row(
        "a class too many",
        table(label=[0, 1, 2, 3]),
        "the base model has 3 classes, the images have",
        "data.classes",
    ),
]
IMAGES = [
    row(
        "an image that is null", table(images=[encoded(), None]), "image cannot be read: .*row 1", "remove it"
    ),
    row("an empty image", table(images=[encoded(), b""]), "image cannot be read: .*row 1", "remove it"),
    row("a broken image", table(images=[encoded()[:40]]), "image cannot be read: .*row 0", "remove it"),
    row(
        "an image that is text", table(images=[b"not an image"]), "image cannot be read: .*row 0", "remove it"
    ),
    row("mixed sizes", table(images=[encoded(), encoded((9, 9))]), "images of mixed sizes: 8x8", "fit"),
    row("oblong images", table(images=[encoded((9, 8))]), "expected square images, got 9x8", "crop"),
    row("an animation", table(images=[animated()]), "image has 3 frames: .*row 0", "one picture"),
    row(
        "a decompression bomb",
        table(images=[encoded((30000, 30000), mode="1")]),
        "image cannot be read: .*row 0",
        "remove it",
    ),
    of_folder("an empty folder", {}, "no images in", r"\.png"),
    of_folder("no class folders", {"a.png": encoded()}, "an image lies outside the class folders", "null"),
    of_folder("not an image", {"x/a.png": b"?"}, r"image cannot be read: .*a\.png", "remove it"),
    of_folder("only text", {"x/notes.txt": b"?"}, "no images in", r"\.png"),
]
UNITS = [
    row(
        "no such unit",
        table(patient=["a"]),
        "no unit column 'patent' among",
        "'patient'",
        "budget.unit=patent",
    ),
    of_units("a unit that is null", ["p1", None], "'patient' is missing in row 1 ", "unknown owner"),
    of_units("units that are null", [None, "n/a"], "'patient' is missing in row 0 ", "unknown owner"),
    of_units(
        "a unit that is not a number",
        [1.0, float("nan")],
        "is missing in row 1",
        "unknown owner",
    ),
    of_units(
        "several in one text",
        ["p1", "p1;p2"],
        "several ids in one text, first in row 1",
        "list column",
    ),
    of_units("a list as text", ["p1", "['p1']"], "several ids in one text, first in row 1", "list column"),
    of_units("an empty list", [["p1"], []], "is missing in row 1", "unknown owner"),
    of_units("a list with a gap", [["p1"], ["p2", None]], "is missing in row 1", "unknown owner"),
    of_units(
        "lists in lists", [[["p1"]], [["p2"]]], "to hold numbers or text, or lists of them", "one level"
    ),
    of_units("a struct", [{"id": 1}, {"id": 2}], "to hold numbers or text, or lists of them", "one level"),
    of_units(
        "shared images", [["p1", "p2"], ["p2"]], "images may belong to several of 'patient'", "zero_out"
    ),
    row(
        "ids of two types",
        both(table("set/a.parquet", patient=[1]), table("set/b.parquet", patient=["1"])),
        "is of int and str in different files",
        "one type",
        "data.path=set budget.unit=patient",
    ),
    row(
        "more units than slots",
        table(patient=[f"p{i}" for i in range(12)]),
        "more units than mechanism.population = 11",
        "raise mechanism.population",
        "budget.unit=patient mechanism.population=11 mechanism.expected_units=5 mechanism.max_units=9",
    ),
]
METADATA = [
    of_folder(
        "no table", {"a.png": encoded()}, "holds no metadata.csv", "columns file_name and", "data.label=x"
    ),
    of_metadata(
        "no file names", [["name", "patient"], A[:2]], "no image column 'file_name' among", "file_name"
    ),
    of_metadata("an empty table", b"", "no image column 'file_name' among none", "file_name"),
    of_metadata("a column twice", [[*HEAD, "patient"]], "a column is there twice among file_name", "rename"),
    of_metadata(
        "a column missing", [HEAD[:2], A[:2], B[:2]], "no label column 'finding' among patient", "add it"
    ),
    of_metadata(
        "a value too many", [HEAD, [*A, "x"]], r"metadata\.csv:2: expected 3 values, got 4", "quotes"
    ),
    of_metadata("an image without a row", [HEAD, A], r"no row names the image b\.png", "relative"),
    of_metadata(
        "a row without an image", [HEAD, A, B, ["c.png", "p", "0"]], "a row names no image of", "remove"
    ),
    of_metadata("two rows of an image", [HEAD, A, A, B], r"a\.png has two rows", "one owner"),
    of_metadata("an owner missing", [HEAD, A, ["b.png", "n/a", "1"]], r"is empty for b\.png", "fill"),
    of_metadata(
        "two owners", [HEAD, A, ["b.png", "p1;p2", "1"]], r"several ids in one text, first for b\.png", "list"
    ),
    of_metadata(
        "another encoding", "file_name,für\n".encode("latin-1"), r"metadata\.csv cannot be read", "UTF-8"
    ),
    of_metadata("an open quote", b'file_name,patient\n"a.png,p1\n', r"metadata\.csv cannot be read", "comma"),
    of_metadata("a path outside", [HEAD, A, B, ["../x.png", "p", "0"]], "a row names no image of", "remove"),
]
BASES = [
    row("no base", lambda f: shutil.rmtree(f / "base"), "base model base is not there", "pretrain"),
    row("a base that is no model", base_without("model_index.json"), "not a diffusers folder", "pretrain"),
    row(
        "a base that is half made",
        both(base_without("model_index.json"), base_with("pretraining.pt", "x")),
        "base holds no model yet: its pre-training has not finished",
        "run the same `dp-diffusers pretrain` again",
    ),
    row("cut weights", cut(WEIGHTS, 100), "base is damaged", "again"),
    row(
        "config that is no JSON",
        base_with("unet/config.json", "{"),
        "unet/config.json cannot be read",
        "again",
    ),
    row(
        "another model",
        base_with("unet/config.json", '{"_class_name": "X"}'),
        "knows no network X",
        "pi",
    ),
    row(
        "classes that are no list",
        base_with("classes.json", '{"a": 1}'),
        r"classes\.json is no list",
        "again",
    ),
    row("classes that are no JSON", base_with("classes.json", "["), r"classes\.json is no list", "again"),
    row("patch that is no JSON", base_with("patch.json", "["), "patch.json", "again"),
    row("patch of nought", base_with("patch.json", '{"size": 0}'), "patch.json", "again"),
    row("no such layers", table(), "nowhere", "attention", "strategy.targets=[nowhere]"),
]


def with_run(name: str, content: str) -> Spoil:
    """A run folder of which one file holds `content`."""

    def write(folder: Path) -> None:
        table()(folder)
        path = folder / "run" / name
        path.parent.mkdir(parents=True)
        path.write_text(content)

    return write


RUNS = [
    row("out is a file", lambda f: (f / "run").write_text("x"), "cannot write .*run", "another --out"),
    row("out below a file", bad_bytes(b"x", "run"), "cannot write .*run", "another --out"),
    row(
        "another recipe there",
        with_run("recipe.yaml", "base: x\n"),
        "belongs to another recipe: base, ",
        "--out",
    ),
    row(
        "recipe there is no YAML",
        with_run("recipe.yaml", "a: ["),
        r"recipe\.yaml is damaged",
        "another --out",
    ),
    row(
        "recipe there is a list", with_run("recipe.yaml", "[1]"), r"recipe\.yaml is damaged", "another --out"
    ),
    row("run.json is no JSON", with_run("private/run.json", "{"), r"run\.json is damaged", "another --out"),
    row("run.json is a list", with_run("private/run.json", "[]"), r"run\.json is damaged", "another --out"),
]
LEDGERS = [
    row(
        "ledger is no ledger",
        bad_bytes(b"# notes\n", "data.ledger"),
        "data.ledger is not a ledger",
        "restore its newest copy",
    ),
    row(
        "ledger is empty",
        bad_bytes(b"", "data.ledger"),
        "damaged or was altered: the file is empty",
        "newest copy",
    ),
    row(
        "ledger is a folder",
        lambda f: (f / "data.ledger").mkdir(),
        "expected a ledger file, got the folder",
        "file",
    ),
    row(
        "ledger in no folder",
        table(),
        "no folder .*nowhere for the ledger",
        "make the folder",
        "budget.ledger=nowhere/x",
    ),
]
OF_ANOTHER_MODEL = [
    row(
        "a caption for classes",
        table(),
        "takes no text, but data.caption is given",
        "labels",
        "data.caption=x",
    ),
    row(
        "captions for classes",
        table(),
        "takes no text, but data.caption_column is given",
        "labels",
        "data.caption_column=x",
    ),
    row(
        "prompts for classes",
        table(),
        "takes no text, but generation.prompts is given",
        "labels",
        "generation.prompts=[x]",
    ),
    row(
        "a size that is not the model's",
        table(),
        "takes no images of 99 x 99 pixels",
        "leave data.size out",
        "data.size=99",
    ),
]
ROWS = [*FILES, *IMAGES, *UNITS, *METADATA, *BASES, *RUNS, *LEDGERS, *OF_ANOTHER_MODEL]


_BASES: list[Path] = []


def world(folder: Path) -> None:
    """What a row spoils: a recipe and a base; images are the row's own."""
    import tempfile

    if not _BASES:
        _BASES.append(Path(tempfile.mkdtemp()) / "base")
        write_base(_BASES[0])
    shutil.copytree(_BASES[0], folder / "base")
    (folder / "recipe.yaml").write_text(RECIPE)
    table()(folder)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_data(row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    cheap_trainings(monkeypatch.setattr)
    # the dry run and the search for redone steps come before the images, and know nothing of them
    monkeypatch.setattr("dp_diffusers.run.running.rehearse_arranged", lambda family, runtime: None)
    monkeypatch.setattr(
        "dp_diffusers.privacy.ledger.first_limit", lambda curve, cost, steps, room: (steps, cost)
    )
    world(tmp_path)
    check(row, tmp_path, capsys)
