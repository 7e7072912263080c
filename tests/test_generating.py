"""`generate` beside other commands and other processes: what each of them finds in the release."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dp_diffusers import release as release_module
from dp_diffusers.drawing import image_job
from dp_diffusers.drawing.images_out import PARQUET, write_images
from dp_diffusers.errors import VerificationError
from dp_diffusers.finetuning import train
from dp_diffusers.generating import generate
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.files import hashes
from dp_diffusers.recipe import GenerationSettings, Recipe
from dp_diffusers.release import Release
from dp_diffusers.whole_files import write_text
from tiny_recipes import TINY_RECIPE

QUICK = {"steps": 2}


@pytest.fixture(scope="module")
def trained(_saved_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without privacy on the tiny base; never written to."""
    folder = tmp_path_factory.mktemp("trained")
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1)).astype(np.uint8)
    write_images(images, np.arange(30) % 3, None, folder / "images", format="parquet")
    text = TINY_RECIPE.format(base=_saved_base, data=folder / "images" / PARQUET, ledger="x.ledger", steps=1)
    (folder / "recipe.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(release_module, "verify_in_a_fresh_process", lambda _: None)
        train(Recipe.load(folder / "recipe.yaml", ["mechanism.name=none"]), folder / "run")
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def _swap(run: Path) -> None:
    """Puts another adapter into the release."""
    path = run / "release" / "adapter" / "adapter_model.safetensors"
    save_file({name: (value + 5).astype(value.dtype) for name, value in load_file(path).items()}, path)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_guarantee_no_process_draws_by_an_adapter_that_is_not_certified(
    run: Path, monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    _swap(run)
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(VerificationError, match=r"adapter_model\.safetensors was changed"):
        generate(run, images=3, settings=QUICK)
    assert not [*run.rglob("*.npy")]


def test_guarantee_parts_of_other_weights_are_not_taken(run: Path) -> None:
    """Of an adapter that was certified when they were drawn, and of which another release was made since."""
    release = Release.open(run)
    job = image_job.ImageJob(
        release=release,
        settings=GenerationSettings(**QUICK),
        images=3,
        per_label=None,
        device="cpu",
        compiled=False,
    )
    parts = job.parts()
    parts.add(0, job.draw(parts.images_of(0)))
    assert not job.parts().missing()
    _swap(run)
    release.certificate = release.certificate.listing(release.path)
    assert job.parts().missing() == [0]


def test_guarantee_images_elsewhere_are_of_the_certified_adapter(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed while they are drawn, which takes long: nothing that is written afterwards would say so."""
    sample = image_job.sample

    def changed_meanwhile(*arguments: Any, **more: Any) -> Any:
        _swap(run)
        return sample(*arguments, **more)

    monkeypatch.setattr(image_job, "sample", changed_meanwhile)
    with pytest.raises(VerificationError, match=r"adapter_model\.safetensors was changed"):
        generate(run, images=3, out=tmp_path / "out", settings=QUICK)
    assert not (tmp_path / "out").exists()


def test_what_another_command_certified_since_is_no_stray(run: Path, tmp_path: Path) -> None:
    release = Release.open(run)
    write_text(run / "release" / "report.html", "a page")
    release.certificate.issue(run / "release")
    generate(release, images=3, out=tmp_path / "out", settings=QUICK)
    generate(release, images=3, settings=QUICK)
    certificate = Certificate.read(run / "release")
    assert certificate.files == hashes(run / "release")


def test_a_signature_that_goes_is_told(run: Path) -> None:
    release = Release.open(run)
    signed = Certificate.from_dict({**release.certificate.to_dict(), "signature": {"value": "of someone"}})
    (run / "release" / "certificate.json").write_text(signed.to_json())
    said: list[str] = []
    generate(release, images=3, settings=QUICK, progress=lambda message="", **_: said.append(message))
    assert [line for line in said if "sign it again" in line]
