"""Public images beside the private ones: what is added, from where, and what a certificate says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dp_diffusers as dpd
import dp_diffusers.loop.public_batches as module
from apart_support import SAME, films
from dp_diffusers.cli.main import main
from dp_diffusers.data.apart import Shown
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.errors import DataError, InputError, ParameterError
from dp_diffusers.finetuning import train
from dp_diffusers.loop.public_batches import PublicBatches, public_batches
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import Recipe, TrainingSettings
from dp_diffusers.recipe.sections.public import PublicSettings
from dp_diffusers.training import Loop
from latent_support import tiny_latent_base
from loop_support import charges, cheap_trainings, small_budget

CLASSES = ["dark", "grey", "light"]


@pytest.fixture
def public_images(tmp_path: Path) -> Path:
    """Twelve public images of the base's classes, as a parquet file of its own folder."""
    rng = np.random.default_rng(5)
    images = rng.integers(0, 255, (12, 8, 8, 1), dtype=np.uint8)
    write_images(images, np.arange(12) % 3, CLASSES, tmp_path / "shown", format="parquet")
    (found,) = (tmp_path / "shown").rglob("*.parquet")
    return found


def opened(family: Family, path: Path, **changes: Any) -> PublicBatches:
    settings = PublicSettings(**({"path": str(path), "weight": 0.5, "batch_size": 6} | changes))
    found = public_batches(settings, family, seed=3, recipe={}, private=None)
    assert found is not None
    return found


def gradients(batches: PublicBatches, step: int, most_rows: int) -> list[torch.Tensor]:
    """What is added to gradients of zero."""
    parameters = list(batches.batches.family.network.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    batches.add_gradient(parameters, batches.batches.family.row_losses, step, most_rows=most_rows)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def test_where_memory_runs_out_while_it_is_added_nothing_was_added(
    tiny_base: Callable[..., Any], public_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = opened(family_of(tiny_base(), label_dropout=0.2), public_images)
    right, sums = module.added, iter(range(1000))

    def short(first: Any, second: Any) -> Any:
        if next(sums) == 1:  # the second of the sums with what is there already
            raise MemoryError
        return right(first, second)

    monkeypatch.setattr(module, "added", short)
    with pytest.raises(MemoryError):
        gradients(batches, 0, 100)
    assert not any(parameter.grad.any() for parameter in batches.batches.family.network.parameters())


@pytest.mark.parametrize("latent", [False, True])
def test_what_is_added_is_the_weighted_gradient_of_the_mean_loss(
    tiny_base: Callable[..., Any], public_images: Path, latent: bool
) -> None:
    base = tiny_latent_base() if latent else tiny_base()
    batches = opened(family_of(base, label_dropout=0.2), public_images)
    assert (batches.batches.clean is not None) == latent
    ((clean, labels, draws),) = batches.batches.parts(2, 100)
    assert clean.shape == (6, *batches.batches.family.shape)
    loss = batches.batches.family.row_losses(clean, labels, draws).mean()
    expected = torch.autograd.grad(0.5 * loss, list(batches.batches.family.network.parameters()))
    for rows in (100, 4, 1):
        for found, wanted in zip(gradients(batches, 2, rows), expected, strict=True):
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-7)


def test_public_latents_are_those_of_their_images(public_images: Path) -> None:
    batches = opened(family_of(tiny_latent_base()), public_images)
    assert batches.batches.clean is not None
    with torch.no_grad():
        for place in range(12):
            alone = batches.batches.family.encode(batches.batches.images[place : place + 1])
            assert torch.allclose(batches.batches.clean[place], alone[0], rtol=1e-5, atol=1e-6)


def test_guarantee_batches_are_a_function_of_seed_and_step(
    tiny_base: Callable[..., Any], public_images: Path
) -> None:
    family = family_of(tiny_base())
    batches = opened(family, public_images)
    torch.manual_seed(99)
    first = next(batches.batches.parts(0, 100))
    torch.manual_seed(1)
    again = next(opened(family, public_images).batches.parts(0, 100))
    later = next(batches.batches.parts(1, 100))
    assert torch.equal(first[2].noise, again[2].noise)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[2].noise, later[2].noise)


def test_labels_are_those_of_the_base(tiny_base: Callable[..., Any], tmp_path: Path) -> None:
    images = np.zeros((3, 8, 8, 1), np.uint8)
    write_images(images, np.arange(3), ["light", "dark", "grey"], tmp_path / "other", format="parquet")
    base = tiny_base()
    base.class_names = tuple(CLASSES)
    (path,) = (tmp_path / "other").rglob("*.parquet")
    assert opened(family_of(base), path).batches.labels.tolist() == [2, 0, 1]  # type: ignore[union-attr]
    with pytest.raises(ParameterError, match="has no labels"):
        opened(family_of(base), path, label=None)
    write_images(images, np.arange(3), ["light", "dark", "odd"], tmp_path / "odd", format="parquet")
    (path,) = (tmp_path / "odd").rglob("*.parquet")
    with pytest.raises(DataError, match="not 'odd'"):
        opened(family_of(base), path)


@pytest.mark.parametrize("case", SAME)
def test_the_private_images_under_another_name_are_no_public_ones(
    case: str, tiny_base: Callable[..., Any], tmp_path: Path
) -> None:
    films(tmp_path / "x")
    public, private = SAME[case](tmp_path / "x")
    settings = PublicSettings(path=str(public))
    with pytest.raises(ParameterError, match=r"training\.public\.path .* is where the private images are"):
        public_batches(settings, family_of(tiny_base()), seed=0, recipe={}, private=str(private))


def test_the_private_images_are_no_public_ones(tiny_base: Callable[..., Any], tmp_path: Path) -> None:
    family, settings = family_of(tiny_base()), PublicSettings(path=str(tmp_path / "x"))
    for private in (tmp_path, tmp_path / "x", tmp_path / "x" / "y"):
        with pytest.raises(ParameterError, match="where the private images are"):
            public_batches(settings, family, seed=0, recipe={}, private=str(private))


def _with_public(recipe: Path, path: Path) -> None:
    small_budget(recipe)
    public = f"public: {{path: {path}, weight: 0.25, batch_size: 8}}"
    recipe.write_text(recipe.read_text().replace("training: {", f"training: {{{public}, "))


@pytest.mark.slow
def test_a_training_mixes_them_in_and_its_certificate_says_so(
    tiny_recipe: Path, public_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap_trainings(monkeypatch.setattr)
    _with_public(tiny_recipe, public_images.relative_to(tmp_path))
    release = train(Recipe.load(tiny_recipe), tmp_path / "run")
    record = dict(release.certificate.further["public_images"])
    assert len(record.pop("sha256")) == 64
    assert record == {"name": public_images.name, "images": 12, "weight": 0.25, "batch_size": 8}
    assert any(public_images.name in sentence for sentence in release.certificate.assumptions)
    assert Certificate.verify(release.path).valid
    (tampered := release.path / "certificate.json").write_text(
        tampered.read_text().replace('"batch_size": 8', '"batch_size": 9')
    )
    assert not Certificate.verify(release.path).valid


def test_guarantee_public_files_that_cannot_be_read_cost_nothing(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap_trainings(monkeypatch.setattr)
    _with_public(tiny_recipe, tmp_path / "nothing.parquet")
    with pytest.raises(InputError, match=r"nothing\.parquet"):
        train(Recipe.load(tiny_recipe), tmp_path / "run")
    assert not (tmp_path / "tiny.ledger").exists()
    assert not (tmp_path / "run").exists()


def copied(root: Path, tiny_images: tuple[np.ndarray, np.ndarray]) -> Path:
    """Public files in a place of their own, one of which is the last private image."""
    images, labels = tiny_images
    mixed = np.random.default_rng(6).integers(0, 255, (6, 8, 8, 1), dtype=np.uint8)
    mixed[4] = images[-1]
    write_images(mixed, np.append(labels[:5], labels[-1]), CLASSES, root / "copied", format="parquet")
    (path,) = (root / "copied").rglob("*.parquet")
    return path


def nothing_spent(ledger: Path, run: Path) -> None:
    """The one reservation of the ledger is given back, and the run's folder is free for another recipe."""
    assert charges(ledger) == []
    with Ledger.open(ledger) as opened:
        assert [found.status for found in opened.runs()] == ["cancelled"]
        assert opened.spent().epsilon == 0
    assert not (run / "recipe.yaml").exists()
    assert not (run / "private" / "run.json").exists()


def test_guarantee_a_private_image_among_public_ones_is_refused_before_a_charge(
    tiny_recipe: Path,
    tiny_images: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cheap_trainings(monkeypatch.setattr)
    _with_public(tiny_recipe, path := copied(tmp_path, tiny_images))
    assert main(["train", str(tiny_recipe), "--out", str(tmp_path / "run"), "--quiet"]) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.strip()]
    assert lines == [
        f"error: training.public {path} holds images that are among the private ones",
        "hint: their gradient is taken without clip and noise: give images that anyone may see",
    ]
    nothing_spent(tmp_path / "tiny.ledger", tmp_path / "run")


def from_python(
    base: Path, folder: Path, plan: dpd.Plan, public: Path, *, out: Path, ledger: Path
) -> dpd.Release:
    """A call with images that were worked on, whose place nobody knows: pixels and bytes alone tell them."""
    data = replace(dpd.PrivateImages.from_folder(folder, classes=[f"class {number}" for number in range(3)]))
    training = TrainingSettings(public=PublicSettings(path=str(public), batch_size=2))
    return dpd.finetune(base, data, plan, out=out, ledger=ledger, training=training)


@pytest.fixture
def small_plan(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> dpd.Plan:
    cheap_trainings(monkeypatch.setattr)
    small_budget(tiny_recipe)
    return Recipe.load(tiny_recipe).plan()


@pytest.mark.parametrize("case", [pytest.param("its own folder", marks=pytest.mark.slow), "a manifest of it"])
def test_guarantee_a_call_in_python_refuses_private_images_among_public_ones(
    case: str, tiny_base_folder: Path, tmp_path: Path, small_plan: dpd.Plan
) -> None:
    folder = films(tmp_path / "x")
    public = folder if case == "its own folder" else tmp_path / "x" / "films.tsv"
    named = {"out": tmp_path / "run", "ledger": tmp_path / "a.ledger"}
    with pytest.raises(ParameterError, match="holds images that are among the private ones") as caught:
        from_python(tiny_base_folder, folder, small_plan, public, **named)
    assert "patient" not in f"{caught.value} {caught.value.hint}", "which image it was is said by nothing"
    nothing_spent(named["ledger"], named["out"])


@pytest.mark.slow
@pytest.mark.planted
def test_planted_private_images_taken_for_public_ones(
    tiny_base_folder: Path, tmp_path: Path, small_plan: dpd.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private images under another name: without a look at the pixels they reach the loop as public ones."""

    def reached(loop: Loop) -> None:
        assert loop.public is not None
        found = {image.tobytes() for image in loop.public.batches.images}
        assert found == {image.tobytes() for image in loop.data.images}
        raise KeyboardInterrupt

    monkeypatch.setattr(Shown, "meets", lambda self, data: False)
    monkeypatch.setattr(Loop, "run", reached)
    folder = films(tmp_path / "x")
    with pytest.raises(KeyboardInterrupt):
        from_python(
            tiny_base_folder, folder, small_plan, folder, out=tmp_path / "run", ledger=tmp_path / "a.ledger"
        )
