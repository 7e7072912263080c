"""Captions and prompts: public texts condition the images that are made, private ones stay in the safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import dp_diffusers as dpd
from dp_diffusers.classes.conditions import classes_of
from dp_diffusers.diffusion.text import TextFamily
from dp_diffusers.drawing.images_out import PARQUET, png
from dp_diffusers.errors import DPDiffusersError, ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import GenerationSettings, Recipe
from family_support import opened, pipeline_base, stir
from loop_support import cheap_trainings

UNITS = 24
SECRETS = [f"opacity seen in Mr. Quillfeather's lung {number}" for number in range(UNITS)]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_trainings(monkeypatch.setattr)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of three steps on a tiny Stable Diffusion and 24 images with labels and texts."""
    base = pipeline_base("stable_diffusion")
    stir(base.network)
    base.save(tmp_path / "base")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (UNITS, 16, 16, 3)).astype(np.uint8)
    rows = {
        "image": [{"bytes": png(image), "path": None} for image in pixels],
        "label": [number % 2 for number in range(UNITS)],
        "report": SECRETS,
    }
    pq.write_table(pa.table(rows), tmp_path / "images.parquet")
    document = {
        "base": "base",
        "data": {"path": "images.parquet", "label": "label", "classes": ["normal", "opacity"]},
        "budget": {"epsilon": 5, "delta": 1e-3, "ledger": "x.ledger"},
        "mechanism": {"steps": 3, "expected_units": 8, "population": UNITS},
        "strategy": {"rank": 2},
        "training": {"noise_draws": 1},
        "generation": {"images": 4, "steps": 2},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _trained(recipe: Path, *overrides: str) -> dpd.Release:
    return train(Recipe.load(recipe, overrides), recipe.parent / "run")


def _names(images: Path) -> tuple[list[str], list[int]]:
    """Names and numbers of the labels of a folder of images."""
    table = pq.read_table(images / PARQUET)
    features = yaml.safe_load(table.schema.metadata[b"huggingface"])["info"]["features"]
    return features["label"]["names"], table["label"].to_pylist()


@pytest.mark.slow
def test_a_template_is_filled_with_declared_classes(recipe: Path) -> None:
    release = _trained(recipe, "data.caption=chest x-ray, {label}")
    assert release.certificate.classes == {
        "labels": [0, 1],
        "names": ["normal", "opacity"],
        "declared": True,
        "prompts": ["chest x-ray, normal", "chest x-ray, opacity"],
    }
    card = (release.path / "README.md").read_text()
    assert "pipe(\n    ['chest x-ray, normal', 'chest x-ray, opacity']," in card
    assert _names(dpd.generate(release)) == (["normal", "opacity"], [0, 1, 0, 1])


@pytest.mark.slow
def test_classes_that_mean_the_same_to_the_base_are_refused(recipe: Path) -> None:
    """Their texts differ after the last token that is read: both classes would learn one condition."""
    cut = "data.caption=a chest x-ray of a patient, {label}"
    with pytest.raises(ParameterError, match=r"'normal' and 'opacity' mean the same to this base") as caught:
        _trained(recipe, cut)
    assert "put {label} first" in (caught.value.hint or "")
    assert not (recipe.parent / "x.ledger").exists(), "nothing was paid"
    _trained(recipe, "data.caption='{label}, a chest x-ray of a patient'")


@pytest.mark.slow
def test_one_text_for_all(recipe: Path) -> None:
    release = _trained(recipe, "data.caption=a chest x-ray", "data.classes=null")
    assert _names(dpd.generate(release)) == (["a chest x-ray"], [0, 0, 0, 0])


@pytest.mark.slow
def test_prompts_may_be_others_than_those_of_the_training(recipe: Path) -> None:
    release = _trained(recipe, "data.caption=a chest x-ray", "data.classes=null")
    settings = GenerationSettings(images=3, steps=2, prompts=["a hand", "a foot", "an x/ray: *"])
    assert _names(dpd.generate(release, settings=settings)) == (settings.prompts, [0, 1, 2])
    assert dpd.Certificate.verify(release.path).valid


@pytest.mark.slow
def test_a_histogram_counts_the_classes_of_a_template(recipe: Path) -> None:
    release = _trained(recipe, "data.caption=an x-ray, {label}", "generation.labels=histogram")
    assert release.certificate.classes is not None
    assert sum(release.certificate.classes["proportions"]) == pytest.approx(1)
    dpd.generate(release)


@pytest.mark.slow
def test_guarantee_private_captions_stay_in_the_safe(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, ...]] = []
    caches: list[Path | None] = []
    given = TextFamily.set_prompts

    def watched(family: TextFamily, prompts: Any, *, cache: Path | None = None) -> None:
        given(family, prompts, cache=cache)
        seen.append(tuple(prompts))
        caches.append(cache)

    monkeypatch.setattr(TextFamily, "set_prompts", watched)
    release = _trained(recipe, "data.caption_column=report")
    assert seen == [("an image",), tuple(sorted(SECRETS))]
    assert caches[1] == recipe.parent / "run" / "private" / "captions"
    assert not caches[1].exists()
    assert release.certificate.classes is None
    with pytest.raises(ParameterError, match="captions of this run are private"):
        dpd.generate(release)
    dpd.generate(release, settings=GenerationSettings(images=2, steps=2, prompts=["a lung"]))
    for path in (recipe.parent / "run").rglob("*"):
        if path.is_file() and "private" not in path.parts:
            assert b"Quillfeather" not in path.read_bytes(), path
    assert "Quillfeather" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_class_folders_may_name_the_classes_and_the_certificate_says_so(recipe: Path) -> None:
    folder = recipe.parent / "xrays"
    pixels = np.random.default_rng(0).integers(0, 255, (UNITS, 16, 16, 3)).astype(np.uint8)
    for number, image in enumerate(pixels):
        path = folder / ("opacity", "normal")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    (folder / "metadata.csv").write_text(
        "file_name,patient_id\n"
        + "".join(f"{('opacity', 'normal')[n % 2]}/{n}.png,p{n}\n" for n in range(UNITS))
    )
    data = dpd.PrivateImages.from_folder(folder, labels="folder", caption="chest x-ray, {label}")
    plan = dpd.Plan.calibrate(
        dpd.Budget(epsilon=5, delta=1e-3, unit="patient_id"),
        dpd.DPSGD(steps=2, expected_units=8, population=UNITS),
    )
    ledger = recipe.parent / "private" / "xrays.ledger"  # its folder is made
    release = dpd.finetune(recipe.parent / "base", data, plan, out=recipe.parent / "run", ledger=ledger)
    assert release.certificate.classes is not None
    assert release.certificate.classes["prompts"] == ["chest x-ray, normal", "chest x-ray, opacity"]
    said = release.certificate.to_dict()
    assert said["classes"]["from_data"] is True
    assert "named by the data" in (release.path / "README.md").read_text()
    assert "Class names were taken from the data" in str(said["statements"])
    assert any("taken from the data and published without a charge" in line for line in said["assumptions"])
    again = dpd.finetune(recipe.parent / "base", data, plan, out=recipe.parent / "run", ledger=ledger)
    assert _names(dpd.generate(again, per_label=1)) == (["normal", "opacity"], [0, 1])
    assert ledger.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_the_same_in_python(recipe: Path) -> None:
    data = dpd.PrivateImages.from_parquet(
        recipe.parent / "images.parquet", caption="an x-ray, {label}", classes=["normal", "opacity"]
    )
    plan = dpd.Plan.calibrate(
        dpd.Budget(epsilon=5, delta=1e-3), dpd.DPSGD(steps=2, expected_units=8, population=UNITS)
    )
    out = recipe.parent / "run"
    release = dpd.finetune(recipe.parent / "base", data, plan, out=out, ledger=recipe.parent / "y.ledger")
    assert release.certificate.classes is not None
    assert release.certificate.classes["prompts"] == ["an x-ray, normal", "an x-ray, opacity"]


@pytest.mark.slow
def test_another_size(recipe: Path) -> None:
    release = _trained(recipe, "data.caption=an x-ray, {label}", "data.size=24")
    assert release.family().size == 24
    images = pq.read_table(dpd.generate(release, images=1) / PARQUET)["image"].to_pylist()
    assert images[0]["bytes"][16:24] == (24).to_bytes(4, "big") * 2  # of a PNG's header
    assert "height=24" in (release.path / "README.md").read_text()


REFUSED = [
    (["data.caption=an x-ray"], "data.classes has no effect", "put {label} into data.caption"),
    (["data.caption=null"], "learns from captions, and there are none", "set data.caption"),
    (["data.caption=an x-ray, {label}", "data.classes=null"], "no class names are declared", "data.classes"),
    (["data.caption=x", "data.classes=null", "data.size=15"], "no images of 15 x 15", "a multiple of 4"),
    (
        ["data.caption_column=report", "training.public={path: images.parquet, weight: 1.0}"],
        "training.public cannot go with private captions",
        "leave training.public out",
    ),
    (
        ["data.caption_column=report", "generation.labels=histogram"],
        "a class histogram needs classes",
        "uniform",
    ),
]


@pytest.mark.parametrize(("overrides", "says", "hint"), REFUSED, ids=lambda value: str(value)[:40])
def test_guarantee_what_cannot_be_costs_nothing(
    recipe: Path, overrides: list[str], says: str, hint: str
) -> None:
    with pytest.raises(DPDiffusersError, match=says) as refusal:
        _trained(recipe, *overrides)
    assert hint in str(refusal.value.hint)
    assert not (recipe.parent / "x.ledger").exists() or Ledger.open(recipe.parent / "x.ledger").runs() == []


@pytest.mark.parametrize("key", ["data.caption", "data.caption_column", "generation.prompts"])
def test_guarantee_a_model_of_classes_refuses_texts_by_name(key: str) -> None:
    section, name = key.split(".")
    family = opened(pipeline_base("dit"))
    with pytest.raises(ParameterError, match=f"takes no text, but {key} is given"):
        classes_of(family, {section: {name: ["x"]}})
