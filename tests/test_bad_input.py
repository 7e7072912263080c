"""Bad input: one clear line, the right exit code, no traceback, nothing spent and nothing left behind."""

from __future__ import annotations

import functools
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_diffusers.cli.main import main
from dp_diffusers.privacy import accountant
from dp_diffusers.recipe import Recipe, planning

_EPSILONS: dict[Any, float] = {}
_PLANS: dict[str, Any] = {}
_known_curve = functools.lru_cache(accountant.LossCurve)


def _curve(record: Any, adjacency: str, *, fixed: Sequence[Any] = (), **options: Any) -> Any:
    return _known_curve(record, adjacency, fixed=tuple(fixed), **options)


@pytest.fixture(autouse=True)
def _remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans and answers of the accountant, kept between tests: the same few are asked for again and again."""
    epsilon, plan_of = accountant.epsilon, planning.plan_of

    def known_epsilon(records: Any, delta: float, adjacency: str = "add_remove", **options: Any) -> float:
        key = (tuple(records), delta, adjacency, tuple(options.items()))
        if key not in _EPSILONS:
            _EPSILONS[key] = epsilon(records, delta, adjacency, **options)
        return _EPSILONS[key]

    def known_plan(recipe: Recipe) -> Any:
        key = recipe.budget.model_dump_json(exclude={"ledger"}) + recipe.mechanism.model_dump_json()
        if key not in _PLANS:
            _PLANS[key] = plan_of(recipe)
        return _PLANS[key]

    monkeypatch.setattr(accountant, "epsilon", known_epsilon)
    monkeypatch.setattr(accountant, "LossCurve", _curve)
    monkeypatch.setattr(planning, "plan_of", known_plan)


GOOD = """\
base: public
data: {path: images}
budget: {epsilon: 1}
mechanism: {population: 1000, steps: 10}
"""
PUBLIC = "data: [{source: drawn_digits, count: 100}]\n"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A command on a recipe text, and what must be said. `{recipe}` and `{folder}` stand for paths."""

    name: str
    says: str
    recipe: str | bytes = GOOD
    command: tuple[str, ...] = ("plan", "{recipe}")
    code: int = 2
    sets: tuple[str, ...] = field(default=())


def with_set(name: str, override: str, says: str) -> Row:
    return Row(name=name, says=says, sets=(override,))


ROWS = [
    Row(name="no recipe", command=("plan", "{folder}/recpie.yaml"), says=r"recipe not found: .*recpie\.yaml"),
    Row(name="a folder", command=("plan", "{folder}"), says="expected a recipe file, got a folder"),
    Row(name="empty", recipe="", says="the recipe is empty"),
    Row(name="comments only", recipe="# nothing\n", says="the recipe is empty"),
    Row(name="a list", recipe="- base\n", says="expected a mapping of keys, got a list"),
    Row(name="a word", recipe="base\n", says="expected a mapping of keys, got a str"),
    Row(name="not text", recipe=b"\xff\xfe\x00\x80", says="not a text file"),
    Row(name="bad yaml", recipe="base: [a\ndata: b\n", says=r"recipe\.yaml:\d+: not valid YAML"),
    Row(name="a tab", recipe="base: a\n\tdata: b\n", says=r"recipe\.yaml:\d+: not valid YAML"),
    Row(name="two documents", recipe="base: a\n---\nbase: b\n", says="not valid YAML"),
    Row(name="an object", recipe="base: !!python/object:os.x {}\n", says="not valid YAML"),
    Row(name="unhashable key", recipe="? [a]\n: b\n", says="not valid YAML"),
    Row(name="number as key", recipe=GOOD + "7: x\n", says="unknown key '7'"),
    Row(
        name="misspelt key",
        recipe=GOOD + "training: {nosie_draws: 4}\n",
        says=r":5: unknown key 'nosie_draws'",
    ),
    Row(name="misspelt section", recipe=GOOD + "trainig: {}\n", says=r":5: unknown key 'trainig'"),
    Row(
        name="duplicated key",
        recipe=GOOD + "base: other\n",
        says=r":1: duplicated key 'base', again on line 5",
    ),
    Row(name="deep nesting", recipe="a: " + "[" * 5000, says=r"YAML"),
    Row(name="no base", recipe=GOOD.replace("base: public\n", ""), says="missing key 'base'"),
    Row(
        name="no population",
        recipe=GOOD.replace("population: 1000, ", ""),
        says=r":4: missing key 'mechanism.pop",
    ),
    with_set("epsilon zero", "budget.epsilon=0", r"expected budget\.epsilon >= 0\.01, got 0"),
    with_set("epsilon negative", "budget.epsilon=-1", r"expected budget\.epsilon >= 0\.01, got -1"),
    with_set("epsilon huge", "budget.epsilon=101", r"expected budget\.epsilon <= 100, got 101"),
    with_set("epsilon a word", "budget.epsilon=low", r"expected budget\.epsilon to be a number, got 'low'"),
    with_set("epsilon infinite", "budget.epsilon=.inf", r"expected budget\.epsilon"),
    with_set(
        "delta at 1/population", "budget.delta=1e-3", r"expected budget\.delta < 1/population = 0\.001, got"
    ),
    with_set("delta zero", "budget.delta=0", r"expected budget\.delta > 1e-15, got 0"),
    with_set("delta one", "budget.delta=1", r"expected budget\.delta < 1, got 1"),
    with_set(
        "population too small", "mechanism.expected_units=1001", r"expected_units <= population = 1000, got"
    ),
    with_set(
        "population negative", "mechanism.population=-5", r"expected mechanism\.population >= 1, got -5"
    ),
    with_set("population a fraction", "mechanism.population=1.5", "to be a whole number, got 1.5"),
    with_set("steps zero", "mechanism.steps=0", r"expected mechanism\.steps >= 1, got 0"),
    with_set("clip norm zero", "mechanism.clip_norm=0", r"expected mechanism\.clip_norm > 0, got 0"),
    with_set("unknown mechanism", "mechanism.name=dpsdg", "to be one of dpsgd, none, got 'dpsdg'"),
    with_set("adjacency swap", "budget.adjacency=swap", "to be one of add_remove, zero_out, replace"),
    with_set("noise draws zero", "training.noise_draws=0", r"expected training\.noise_draws >= 1, got 0"),
    with_set("ema one", "training.ema=1", r"expected training\.ema < 1, got 1"),
    with_set("unknown optimizer", "training.optimizer=adm", "to be one of sgd, adam, adamw, got 'adm'"),
    with_set("unknown sampler", "generation.sampler=dimm", "to be one of ddim"),
    with_set("unknown strategy", "strategy.name=lroa", "to be one of lora, got 'lroa'"),
    with_set("no equals sign", "training", "expected key=value"),
    with_set("override into a word", "base.x=1", "does not lead to a key"),
    Row(
        name="hopeless budget",
        sets=("budget.epsilon=100", "mechanism.steps=1", "mechanism.expected_units=1"),
        says="noise multiplier below",
        code=3,
    ),
    Row(name="unknown verb", command=("trian", "{recipe}"), says="no such command 'trian'"),
    Row(name="no out", command=("train", "{recipe}"), says="missing option '--out'"),
    Row(
        name="train misspelt",
        recipe=GOOD + "x: 1\n",
        command=("train", "{recipe}", "--out", "{folder}/run"),
        says="'x'",
    ),
    Row(
        name="pretrain wrong recipe",
        command=("pretrain", "{recipe}", "--out", "{folder}/m"),
        says="unknown key 'base'",
    ),
    Row(
        name="pretrain odd size",
        recipe=PUBLIC + "model: {size: 27}\n",
        command=("pretrain", "{recipe}", "--out", "{folder}/m"),
        says=r"expected model\.size to be a multiple of 4, got 27",
    ),
    Row(
        name="init nothing", command=("init", "{folder}/none", "--population", "10"), says="images not found"
    ),
    Row(
        name="init bad population",
        command=("init", "{folder}", "--population", "0", "--out", "{folder}/new.yaml"),
        says=r"expected mechanism\.population >= 1, got 0",
    ),
    Row(name="no ledger", command=("ledger", "show", "{folder}/x.ledger"), says="ledger not found"),
    Row(name="no release", command=("certificate", "verify", "{folder}/x"), says="release folder not found"),
    Row(name="not a ledger", command=("ledger", "show", "{recipe}"), says=r"recipe\.yaml"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_clear_line(row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(row.recipe if isinstance(row.recipe, bytes) else row.recipe.encode())
    command = [word.format(recipe=recipe, folder=tmp_path) for word in row.command]
    for override in row.sets:
        command += ["--set", override]
    code = main(command)
    captured = capsys.readouterr()
    assert code == row.code, captured.err
    assert captured.out == ""
    assert re.search(row.says, captured.err), captured.err
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    assert "crash.log" not in captured.err
    assert [item.name for item in tmp_path.iterdir()] == ["recipe.yaml"]


def called(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main([str(word) for word in words])
    return code, capsys.readouterr().err


def spent(folder: Path) -> float:
    """What the ledger of the tiny recipe says was spent."""
    from dp_diffusers.privacy.ledger import Ledger

    path = folder / "tiny.ledger"
    if not path.exists():
        return 0.0
    with Ledger.open(path) as ledger:
        return ledger.spent().epsilon


def no_base(folder: Path, recipe: Path) -> None:
    shutil.rmtree(folder / "base")


def damaged_base(folder: Path, recipe: Path) -> None:
    weights = next((folder / "base" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])


def damaged_config(folder: Path, recipe: Path) -> None:
    (folder / "base" / "unet" / "config.json").write_text("{")


def no_images(folder: Path, recipe: Path) -> None:
    shutil.rmtree(folder / "images")


def damaged_images(folder: Path, recipe: Path) -> None:
    for path in (folder / "images").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-40])


def mixed_sizes(folder: Path, recipe: Path) -> None:
    class_folder(folder, {"a.png": (8, 8), "b.png": (9, 9)}, recipe)


def unreadable_image(folder: Path, recipe: Path) -> None:
    class_folder(folder, {"a.png": (8, 8)}, recipe)
    (folder / "pictures" / "dark" / "broken.png").write_bytes(b"not an image")


def empty_folder(folder: Path, recipe: Path) -> None:
    class_folder(folder, {}, recipe)


def class_folder(folder: Path, sizes: dict[str, tuple[int, int]], recipe: Path) -> None:
    from PIL import Image

    place = folder / "pictures" / "dark"
    place.mkdir(parents=True)
    for name, (width, height) in sizes.items():
        Image.fromarray(np.zeros((height, width), np.uint8)).save(place / name)
    text = re.sub(r"data: .*", "data: {path: pictures, label: folder}", recipe.read_text())
    recipe.write_text(text)


def edit(old: str, new: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, recipe: Path) -> None:
        text = recipe.read_text()
        assert old in text
        recipe.write_text(text.replace(old, new))

    return change


def foreign_ledger(folder: Path, recipe: Path) -> None:
    (folder / "tiny.ledger").write_bytes(b"this is no ledger" * 100)


TRAININGS: list[tuple[Callable[[Path, Path], None], str]] = [
    (no_base, "base"),
    (damaged_base, "base"),
    (damaged_config, "base"),
    (no_images, "images not found"),
    (damaged_images, "not a parquet file, or a damaged one"),
    (mixed_sizes, "images of mixed sizes: 8x8"),
    (unreadable_image, r"image cannot be read: .*broken\.png"),
    (empty_folder, "no images in"),
    (edit("label: label", "label: lable"), "no label column 'lable'"),
    (edit("epsilon: 5,", "epsilon: 5, unit: patient,"), "no unit column 'patient'"),
    (edit("label: label", "label: label, classes: [a, b]"), "is outside the classes"),
    (edit("rank: 2, targets: attention", "rank: 2, targets: [nowhere]"), "nowhere"),
    (foreign_ledger, "tiny.ledger"),
]


@pytest.mark.parametrize(("spoil", "says"), TRAININGS, ids=[f"{f.__name__}: {says}" for f, says in TRAININGS])
def test_a_training_that_cannot_start_spends_nothing(
    spoil: Callable[[Path, Path], None],
    says: str,
    tiny_recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(tmp_path, tiny_recipe)
    code, said = called(capsys, "train", tiny_recipe, "--out", tmp_path / "run", "--quiet")
    assert code == 2, said
    assert re.search(says, said), said
    assert "Traceback" not in said
    assert "crash.log" not in said
    if spoil is not foreign_ledger:
        assert spent(tmp_path) == 0
    assert not (tmp_path / "run" / "release" / "certificate.json").exists()


_TRAINED: list[Path] = []


@pytest.fixture
def trained(tiny_recipe: Path, tmp_path: Path) -> Path:
    """A folder with a recipe, its ledger, and the finished run `run`; trained once for this file."""
    if not _TRAINED:
        assert main(["train", str(tiny_recipe), "--out", str(tmp_path / "run"), "--quiet"]) == 0
        _TRAINED.append(tmp_path)
    return _TRAINED[0]


def test_resume_with_another_recipe_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = spent(trained)
    code, said = called(
        capsys, "train", trained / "recipe.yaml", "--out", trained / "run", "--set", "training.ema=0.5"
    )
    assert code == 2
    assert "training.ema" in said
    assert spent(trained) == before > 0


def test_the_same_recipe_again_says_that_it_is_done(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = spent(trained)
    command = ["train", str(trained / "recipe.yaml"), "--out", str(trained / "run"), "--json"]
    assert main([*command, "--set", "runtime.rows_per_pass=7"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert set(document) == {"release", "epsilon", "delta", "steps_charged", "trainable_parameters"}
    assert document["steps_charged"] == 3
    assert "done" in captured.err
    assert spent(trained) == before


def test_a_cap_that_is_reached_is_refused_with_exit_3(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = spent(trained)
    code, said = called(capsys, "train", trained / "recipe.yaml", "--out", trained / "two", "--quiet")
    assert code == 3
    assert "cap" in said
    assert spent(trained) == before


def test_a_tampered_ledger_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.ledger"
    shutil.copy(trained / "tiny.ledger", copy)
    forget_an_entry(copy)
    ledger = f"budget.ledger={copy}"
    code, said = called(
        capsys, "train", trained / "recipe.yaml", "--out", tmp_path / "run", "--quiet", "--set", ledger
    )
    assert code == 2, said
    assert "copy.ledger" in said
    assert not (tmp_path / "run" / "release" / "certificate.json").exists()


def forget_an_entry(path: Path) -> None:
    """Removes the last but one entry of a ledger, triggers first."""
    ledger = sqlite3.connect(path)
    names = ledger.execute("select type, name from sqlite_master").fetchall()
    for kind, name in names:
        if kind == "trigger":
            ledger.execute(f"drop trigger {name}")
    (table,) = [name for kind, name in names if kind == "table" and not name.startswith("sqlite_")]
    ledger.execute(f"delete from {table} where rowid = (select max(rowid) - 1 from {table})")
    ledger.commit()
    ledger.close()
