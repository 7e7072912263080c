"""What the documents show is true: Python runs, verbs and make targets exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "dev/LOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# what the example says → what runs in seconds; each must occur in it
TINY = {
    "size=64": "size=8",
    "delta=1e-6": "delta=1e-3",
    "steps=500": "steps=2",
    "expected_units=500": "expected_units=8",
    "population=5_000": "population=20",
    "per_label=5_000": "per_label=2",
}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """The `dp-diffusers` commands in the shell blocks of a page, as words."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["dp-diffusers"]]


def test_the_example_is_that_of_the_readme() -> None:
    (block,) = blocks(README, "python")
    script = (ROOT / "examples" / "finetune.py").read_text(encoding="utf-8")
    assert script.split('"""\n', 2)[-1].strip() == block.strip()
    code = [line for line in block.splitlines() if line.strip() and not line.startswith((" ", ")"))]
    assert len(code) <= 12


def test_the_same_images_have_one_ledger_on_every_page() -> None:
    """A reader who follows Python first and the command line then pays into one account."""
    from dp_diffusers.run.ledger_place import default_ledger

    guides = [page for page in (ROOT / "docs" / "guides").glob("*.md") if page.name != "data-sources.md"]
    for page in (README, ROOT / "examples" / "finetune.py", *guides):
        named = re.findall(r"(?<![\w-])xrays[\w.]*\.ledger\b", page.read_text(encoding="utf-8"))
        assert set(named) <= {default_ledger("xrays.parquet")}, page.name  # the other page is of the Hub


@pytest.mark.slow
def test_the_example_runs(
    tiny_base: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (block,) = blocks(README, "python")
    for shown, tiny in TINY.items():
        assert shown in block
        block = block.replace(shown, tiny)
    monkeypatch.chdir(tmp_path)
    replace(tiny_base(classes=2), class_names=("normal", "pneumonia")).save(
        tmp_path / "runs" / "public-xrays"
    )
    write_patients(tmp_path / "xrays.parquet")
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    out = capsys.readouterr().out
    assert "valid=True" in out
    assert "each patient_id" in out


def write_patients(path: Path) -> None:
    """30 grey images of 20 patients, some of whom have two."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dp_diffusers.drawing.images_out import png

    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), dtype=np.uint8)
    table = {
        "image": [{"bytes": png(image), "path": None} for image in pixels],
        "finding": [("normal", "pneumonia")[index % 2] for index in range(30)],
        "patient_id": [f"p{index % 20}" for index in range(30)],
    }
    pq.write_table(pa.table(table), path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_exist_with_their_options(page: Path) -> None:
    for words in commands(page):
        assert options_of(words) <= known_options(words), words


def test_the_readme_shows_every_verb() -> None:
    from dp_diffusers.cli.main import VERBS

    shown = {words[0] for words in commands(README)}
    assert set(VERBS) - {"demo"} <= shown  # the demo is `make demo`
    assert {"ledger", "certificate"} <= shown


def options_of(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}


def known_options(words: list[str]) -> set[str]:
    """The options of the verb that `words` begin with; a verb that does not exist raises KeyError."""
    import typer

    from dp_diffusers.cli.main import app

    command: Any = typer.main.get_command(app)
    for word in words:
        if not hasattr(command, "commands") or word.startswith("-"):
            break
        command = command.commands[word]
    return {option for item in command.params for option in item.opts} | {"--help"}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    shown = {name for page in PAGES for name in re.findall(r"\bmake ([a-z-]+)", code_of(page))}
    assert shown
    assert shown <= targets


def code_of(page: Path) -> str:
    """What a page shows as code: fenced blocks and inline code."""
    text = page.read_text(encoding="utf-8")
    return "\n".join([*blocks(page, "sh"), *re.findall(r"`([^`\n]+)`", text)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("#"):
            continue
        path = (page.parent / target.split("#")[0]).resolve()
        assert path.exists(), f"{page.name} links to {target}"


def test_recipes_in_the_guides_load(tmp_path: Path) -> None:
    """Each YAML block of the guides is a whole recipe, of one kind or another."""
    from dp_diffusers.recipe import PretrainRecipe, Recipe
    from dp_diffusers.recipe.file import read, validate
    from dp_diffusers.recipe.study import StudyRecipe

    shown = [
        block for page in sorted((ROOT / "docs" / "guides").glob("*.md")) for block in blocks(page, "yaml")
    ]
    assert shown
    for text in shown:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        if "cells:" in text:  # the recipe that it varies is another file
            validate(StudyRecipe, read(path))
            continue
        recipe: type[Recipe] | type[PretrainRecipe] = Recipe if "base:" in text else PretrainRecipe
        recipe.load(path)


def test_design_notes_are_short() -> None:
    notes = sorted((ROOT / "docs" / "design").glob("[0-9]*.md"))
    assert notes
    for note in notes:
        assert len(note.read_text(encoding="utf-8").splitlines()) <= 60, note.name


def test_the_algorithm_page_quotes_the_source() -> None:
    page = (ROOT / "docs" / "concepts" / "algorithm.md").read_text(encoding="utf-8")
    quoted = re.findall(r"\| `(.+?)` \| `(\S+\.py)` \|$", page, re.M)
    assert len(quoted) > 10
    for line, name in quoted:
        source = (ROOT / "src" / "dp_diffusers" / name).read_text(encoding="utf-8")
        assert line in source, f"{name} does not hold: {line}"
