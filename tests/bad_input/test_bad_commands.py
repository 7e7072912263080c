"""Bad command lines: unknown verbs, options and places."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_rows import Row, Spoil, both, check, leave, writes
from faults import encoded, pictures, table
from test_bad_recipes import GOOD, PUBLIC

from dp_diffusers.errors import nearest

F = "{folder}"


def row(name: str, words: str, says: str, hint: str | None, spoil: Spoil = leave, code: int = 2) -> Row:
    """A command, where F/ stands for the folder."""
    command = tuple(word.replace("F/", "{folder}/") for word in words.split())
    return Row(name=name, command=command, says=says, hint=hint, spoil=spoil, code=code)


def run_of_others(folder: Path) -> None:
    """A run folder that another recipe began."""
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text("base: x\n")


def pretrained(record: str) -> Spoil:
    """A folder that says that it was pre-trained."""

    def make(folder: Path) -> None:
        (folder / "run").mkdir()
        (folder / "run" / "pretraining.json").write_text(record)
        (folder / "public.yaml").write_text(PUBLIC)

    return make


IMAGES = pictures({"a/1.png": encoded()})
ROWS = [
    row("unknown verb", "trian F/recipe.yaml", "no such command 'trian'", "did you mean 'train'"),
    row("a verb unlike all", "xyzzy", "no such command 'xyzzy'", "--help"),
    row("two verbs alike", "pretrian F/recipe.yaml", "no such command 'pretrian'", "did you mean 'pretrain'"),
    row("unknown option", "plan F/recipe.yaml --sett a=1", "no such option: --sett", "'--set'"),
    row(
        "option of another verb", "plan F/recipe.yaml --picture x", "no such option: --picture", "plan --help"
    ),
    row("no recipe named", "plan", "missing argument 'RECIPE'", "plan --help"),
    row("two recipes", "plan F/recipe.yaml x", r"unexpected extra argument \(x\)", "plan --help"),
    row("no out", "train F/recipe.yaml", "missing option '--out'", "train --help"),
    row(
        "a set without a value",
        "plan F/recipe.yaml --set",
        "option '--set' requires an argument",
        "plan --help",
    ),
    row("no such recipe", "plan F/recpie.yaml", r"recipe not found: .*recpie\.yaml", r"recipe\.yaml"),
    row(
        "recipe in no folder", "plan F/none/recipe.yaml", "recipe not found: ", "folder .*none does not exist"
    ),
    row("recipe a folder", "plan F/", "expected a recipe file, got a folder", "recipe.yaml"),
    row("recipe misspelt in train", "train F/recpie.yaml --out F/run", "recipe not found", r"recipe\.yaml"),
    row("init nothing", "init F/none --population 10", "images not found", "a folder, a parquet file"),
    row(
        "init of no name on the Hub",
        "init hf://clinic --population 9 --out F/new.yaml",
        r"expected hf://owner/name\[:split\], got hf://clinic",
        "hf://owner/name",
    ),
    row(
        "init classes twice",
        "init F/recipes --population 9 --label folder --classes a,b,a --out F/new.yaml",
        "expected data.classes to be distinct names",
        "null",
        lambda folder: (folder / "recipes").mkdir(),
    ),
    row(
        "init classes of no labels",
        "init hf://clinic/xrays --population 9 --label null --classes a,b --out F/new.yaml",
        "expected data.label to name the labels",
        "leave data.classes out",
    ),
    row(
        "init population a word",
        "init F/ --population many",
        "expected --population to be a whole number, got many",
        "init --help",
    ),
    row(
        "init population nought",
        "init F/ --population 0 --out F/new.yaml",
        "population >= 1, got 0",
        "declared",
    ),
    row(
        "init epsilon nan",
        "init F/ --population 9 --epsilon nan --out F/new.yaml",
        "epsilon to be finite",
        "safer",
    ),
    row(
        "init over a recipe",
        "init F/recipe.yaml --population 9",
        "recipe.yaml exists already",
        "another --out",
    ),
    row(
        "init into no folder",
        "init F/recipe.yaml --population 9 --out F/x/y.yaml",
        "folder not found",
        "make it",
    ),
    row("generate from nothing", "generate F/none", "holds no finished run", "dp-diffusers train"),
    row("generate from a recipe", "generate F/recipe.yaml", "recipe.yaml is a file", "--out RUN"),
    row("generate none", "generate F/none --images 0", "expected --images >= 1, got 0", "generate --help"),
    row(
        "generate a fraction",
        "generate F/none --images 1.5",
        "expected --images to be a whole number, got 1.5",
        "generate --help",
    ),
    row(
        "generate in a format",
        "generate F/none --format jpeg",
        "expected --format to be .*parquet.*, got jpeg",
        "generate --help",
    ),
    row(
        "evaluate nothing",
        "evaluate F/none --reference F/recipe.yaml",
        "images not found: .*none",
        "a folder, a parq",
    ),
    row(
        "evaluate against nothing",
        "evaluate F/images.parquet --reference F/none",
        "images not found: .*none",
        "folder",
        table(),
    ),
    row("merge nothing", "merge F/none --out F/new", "holds no finished run", "dp-diffusers train"),
    row("merge to nowhere", "merge F/none", "missing option '--out'", "merge --help"),
    row("merge a file", "merge F/recipe.yaml --out F/new", "holds no finished run", "dp-diffusers train"),
    row("evaluate without", "evaluate F/none", "exactly one of reference and charge", "--charge EPSILON"),
    row(
        "one seed", "evaluate F/none --reference F/none --seeds 1", "expected --seeds .*1", "evaluate --help"
    ),
    row(
        "no passes",
        "evaluate F/none --reference F/none --passes 0",
        "expected --passes >= 1",
        "evaluate --help",
    ),
    row(
        "evaluate with both",
        "evaluate F/none --reference F/none --charge 1",
        "exactly one of reference and charge",
        "--reference PATH",
    ),
    row(
        "a charge without a run",
        "evaluate F/pictures --charge 1",
        "pictures is not the image folder of a run",
        "RUN/release/images",
    ),
    row("near copies of nothing", "near-copies F/none --held-out F/none", "no finished run", "train"),
    row("near copies without", "near-copies F/none", "missing option '--held-out'", "near-copies --help"),
    row(
        "evaluate other classes",
        "evaluate F/pictures --reference F/images.parquet",
        "1 reference image has a class that the synthetic",
        "synthetic classes: a",
        both(IMAGES, table(label=["a", "b"])),
    ),
    row(
        "evaluate a text",
        "evaluate F/recipe.yaml --reference F/recipe.yaml",
        "expected a folder or a .parquet",
        "par",
    ),
    row(
        "pretrain over another",
        "pretrain F/public.yaml --out F/run",
        "holds the model of another recipe",
        "--out",
        pretrained('{"recipe": 1}'),
    ),
    row(
        "pretrain over damage",
        "pretrain F/public.yaml --out F/run",
        r"pretraining\.json is damaged",
        "--out",
        pretrained("{"),
    ),
    row(
        "pretrain into a file",
        "pretrain F/public.yaml --out F/recipe.yaml",
        "cannot write .*recipe.yaml",
        "--out",
        writes("public.yaml", PUBLIC),
    ),
    row(
        "audit into a file",
        "audit F/recipe.yaml --out F/recipe.yaml",
        "base model public is not there|cannot write",
        "--out|pretrain",
    ),
    row(
        "audit without privacy",
        "audit F/recipe.yaml --out F/run --set mechanism.name=none",
        "privacy|base",
        "mech|pre",
    ),
    row(
        "train over another",
        "train F/recipe.yaml --out F/run",
        "belongs to another recipe: base, data, budget",
        "--out",
        run_of_others,
    ),
    row(
        "train without a base",
        "train F/recipe.yaml --out F/run --quiet",
        "base model public is not there",
        "pretrain",
    ),
    row("ledger alone", "ledger", "missing command", "ledger --help"),
    row("certificate alone", "certificate", "missing command", "certificate --help"),
    row("verify nothing", "certificate verify", "missing argument 'RELEASE'", "verify --help"),
    row("demo into a file", "demo --out F/recipe.yaml --quiet", "cannot write .*recipe.yaml", "--out"),
    row(
        "bench of no family",
        "bench --out F/b --only family=ditt",
        "unknown family 'ditt'",
        "did you mean 'dit'",
    ),
    row(
        "bench of a lone word",
        "bench --out F/b --only dit",
        "expected KEY=VALUE, got 'dit'",
        "--only family=dit",
    ),
    row("bench of one round", "bench --out F/b --rounds 1", r"expected rounds in \[2, 1000\], got 1", None),
    row("bench by no clock", "bench --out F/b --clock wal", "unknown clock 'wal'", "did you mean 'wall'"),
    row("bench on nothing", "bench --out F/b --device tpu9", "unknown device 'tpu9'", "cpu"),
]


def world(folder: Path) -> None:
    """A recipe that plans."""
    (folder / "recipe.yaml").write_text(GOOD)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_commands(
    row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    world(tmp_path)
    check(row, tmp_path, capsys)


def test_the_nearest_verb_is_one_of_ours() -> None:
    assert nearest("trian", ["train", "pretrain"]) == "train"
