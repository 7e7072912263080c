"""Files cut at every eighth of their length: refused in one line with a hint, or made again, for nothing.

| file that was cut                  | what a start does                                                     |
|------------------------------------|-----------------------------------------------------------------------|
| checkpoint, run.json, recipe.yaml  | exit 2, naming the file                                               |
| the ledger                         | exit 2: damaged or altered                                            |
| adapter, certificate, model card   | generate: exit 2 or 4; training again says done, verify says no       |
| traces.npz, images.json            | generate: exit 2, or the images are known no more                     |
| a part of the sampled images       | it and all after it are sampled again, the same images                |
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_broken_disk import refused

import dp_diffusers as dpd
from dp_diffusers.cli.main import main
from dp_diffusers.drawing import image_job
from dp_diffusers.finetuning import train
from dp_diffusers.recipe import Recipe
from loop_support import charges

EIGHTHS = range(8)
PARQUET = "release/images/data/train-00000-of-00001.parquet"


def cut(path: Path, eighth: int) -> None:
    os.truncate(path, path.stat().st_size * eighth // 8)


class Copies:
    """A folder of a run, stopped or finished, that a test may break and get back whole."""

    def __init__(self, whole: Path, folder: Path) -> None:
        self.folder, self.whole = folder, whole

    def restore(self) -> None:
        for name in ("run", "tiny.ledger"):
            path = self.folder / name
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
        shutil.copytree(self.whole, self.folder, dirs_exist_ok=True)

    def eighths(self, name: str) -> Iterator[Path]:
        """The file, cut at each eighth of its length."""
        for eighth in EIGHTHS:
            self.restore()
            cut(self.folder / name, eighth)
            yield self.folder / name


def kept(folder: Path) -> Copies:
    whole = folder / "whole"
    whole.mkdir()
    shutil.copytree(folder / "run", whole / "run")
    shutil.copy(folder / "tiny.ledger", whole / "tiny.ledger")
    return Copies(whole, folder)


@pytest.fixture
def stopped(tiny_recipe: Path) -> Copies:
    """A training of twelve steps that was stopped after the third."""

    def stop(**facts: Any) -> None:
        if facts.get("step") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Recipe.load(tiny_recipe), tiny_recipe.parent / "run", stop)
    return kept(tiny_recipe.parent)


@pytest.fixture
def finished(tiny_recipe: Path) -> Copies:
    """A finished training of three steps."""
    train(Recipe.load(tiny_recipe, ["mechanism.steps=3"]), tiny_recipe.parent / "run")
    return kept(tiny_recipe.parent)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "run/private/checkpoint.pt",
        pytest.param("run/private/run.json", marks=pytest.mark.slow),
        pytest.param("run/recipe.yaml", marks=pytest.mark.slow),
        pytest.param("tiny.ledger", marks=pytest.mark.slow),
    ],
)
def test_guarantee_a_torn_file_of_a_stopped_run_is_refused_and_costs_nothing(
    name: str, stopped: Copies, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped.folder
    for path in stopped.eighths(name):
        said = refused(["train", str(tiny_recipe), "--out", str(folder / "run")], capsys)
        assert path.name in said or "belongs to another recipe" in said
        if name != "tiny.ledger":
            assert len(charges(folder / "tiny.ledger")) == 3
    stopped.restore()
    assert main(["train", str(tiny_recipe), "--out", str(folder / "run"), "--quiet"]) == 0
    assert len(charges(folder / "tiny.ledger")) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "run/release/certificate.json",
        "run/release/adapter/adapter_model.safetensors",
        "run/release/adapter/adapter_config.json",
        "run/release/README.md",
        "run/private/traces.npz",
        "run/private/run.json",
        "run/recipe.yaml",
    ],
)
def test_a_torn_file_of_a_finished_run_is_refused_or_seen(
    name: str, finished: Copies, capsys: pytest.CaptureFixture[str]
) -> None:
    """A generation is refused, or what it made is whole; a release that was cut never verifies."""
    run = finished.folder / "run"
    for path in finished.eighths(name):
        code = main(["generate", str(run), "--quiet"])
        said = capsys.readouterr().err
        assert code in (0, 2, 4), said
        assert "Traceback" not in said
        assert code == 0 or "hint: " in said, (path, said)
        if code == 0 or "release" in name:
            assert dpd.Certificate.verify(run / "release").valid == (code == 0)
        assert len(charges(finished.folder / "tiny.ledger")) == 3


@pytest.mark.slow
def test_torn_images_are_made_again_and_are_the_same(
    finished: Copies, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record of the images, and each part of them that was sampled when the process died."""
    run, sample = finished.folder / "run", image_job.sample

    def dies_at_the_third(*arguments: Any, start: int) -> Any:
        if start == 6:
            raise KeyboardInterrupt
        return sample(*arguments, start=start)

    monkeypatch.setattr(image_job, "images_of_a_part", lambda *_: 3)
    assert main(["generate", str(run), "--quiet"]) == 0
    images = (run / PARQUET).read_bytes()
    for name in ("00000.npy", "00001.npy"):
        for eighth in EIGHTHS:
            finished.restore()
            with monkeypatch.context() as patch:
                patch.setattr(image_job, "sample", dies_at_the_third)
                assert main(["generate", str(run), "--quiet"]) == 130
            (part,) = (run / "private" / "images.partial").glob(f"*/{name}")
            cut(part, eighth)
            assert main(["generate", str(run), "--quiet"]) == 0, capsys.readouterr().err
            assert (run / PARQUET).read_bytes() == images
    for eighth in EIGHTHS:
        cut(run / "private" / "images.json", eighth)
        code = main(["generate", str(run), "--quiet"])
        said = capsys.readouterr().err
        assert (code, "hint: " in said) in ((0, False), (2, True)), said
        assert (run / PARQUET).read_bytes() == images
