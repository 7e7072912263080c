"""Images of a release: killed at any instant and made again, of which classes, with which settings, where."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard

import dp_diffusers as dpd
from certificate_support import forge, read
from dp_diffusers import generating, release
from dp_diffusers.cards.images_card import ImagesCard
from dp_diffusers.classes.conditions import conditioned
from dp_diffusers.classes.released_classes import released_classes
from dp_diffusers.data.traces import Traces
from dp_diffusers.diffusion import generation
from dp_diffusers.drawing import image_job, images_out, kept_images
from dp_diffusers.errors import ModelError, ParameterError, RunFolderError, VerificationError
from dp_diffusers.evaluation.public_model import public_model_images
from dp_diffusers.evaluation.reading import LabelledImages, read_images
from dp_diffusers.finetuning import train
from dp_diffusers.generating import generate
from dp_diffusers.privacy import certificate
from dp_diffusers.privacy.files import hashes, release_files
from dp_diffusers.recipe import GenerationSettings, Recipe
from dp_diffusers.release import Release
from dp_diffusers.run import running
from dp_diffusers.run.run_secrets import TRACES
from dp_diffusers.whole_files import temporary_of


class KilledError(Exception):
    """Stands for SIGKILL: nothing in the product catches it."""


def _kill(*_: Any, **__: Any) -> None:
    raise KilledError


@pytest.fixture(scope="module", autouse=True)
def _no_fresh_process() -> Iterator[None]:
    """Each test verifies what matters to it itself."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(release, "verify_in_a_fresh_process", lambda _: None)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without privacy (no accounting to wait for) on the tiny base; never written to."""
    from diffusers import DDPMScheduler, UNet2DModel

    from dp_diffusers.diffusion.base import Base
    from dp_diffusers.diffusion.patch import Patch
    from tiny_recipes import TINY_RECIPE

    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=4,
    )
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    names = ("class 0", "class 1", "class 2")
    Base(network=unet, scheduler=scheduler, patch=Patch(size=2), class_names=names).save(folder / "base")
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1)).astype(np.uint8)
    images_out.write_images(
        images, np.arange(30) % 2, ["class 2", "class 0"], folder / "images", format="parquet"
    )
    text = TINY_RECIPE.format(
        base=folder / "base", data=folder / "images" / images_out.PARQUET, ledger="x.ledger", steps=1
    )
    (folder / "recipe.yaml").write_text(text)
    train(Recipe.load(folder / "recipe.yaml", ["mechanism.name=none"]), folder / "run")
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


def _again(trained: Path, out: Path, *overrides: str) -> Release:
    return train(Recipe.load(trained / "recipe.yaml", ["mechanism.name=none", *overrides]), out)


def _labels(images: Path) -> tuple[list[str], list[int]]:
    table = pq.read_table(images / images_out.PARQUET)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    return features["label"]["names"], np.bincount(table["label"].to_numpy()).tolist()


def _half_written(*arguments: Any, **_: Any) -> None:
    """Dies in the middle of the images' folder."""
    folder = next(item for item in arguments if isinstance(item, Path))
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "half").write_bytes(b"half")
    raise KilledError


def _unfinished_certificate(path: Path, text: str) -> None:
    """Dies before the new certificate takes its name."""
    temporary_of(path).write_text(text)
    raise KilledError


def _second_part(*arguments: Any, start: int) -> Any:
    if start:
        raise KilledError
    yield np.zeros((4, 8, 8, 1), np.uint8)


WINDOWS: dict[str, tuple[Any, str, Any]] = {
    "while sampling": (image_job, "sample", _second_part),
    "while the images are written": (generating, "build_images", _half_written),
    "before they are placed": (kept_images.KeptImages, "place", _kill),
    "as they are placed": (Path, "rename", _kill),
    "before the certificate lists them": (generating, "_certify_images", _kill),
    "while the certificate is written": (certificate, "write_whole", _unfinished_certificate),
    "after the certificate lists them": (generating, "clear_parts", _kill),
}


@pytest.mark.slow
@pytest.mark.parametrize("window", WINDOWS)
def test_guarantee_a_generation_killed_anywhere_is_made_whole_by_the_next(
    run: Path, window: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name, death = WINDOWS[window]
    with monkeypatch.context() as patched:
        patched.setattr(place, name, death)
        patched.setattr(image_job, "images_of_a_part", lambda *_: 4)
        with pytest.raises(KilledError):
            generate(run, images=9)
    before = dpd.Certificate.verify(run / "release")
    images = generate(run, images=9)
    assert dpd.Certificate.verify(run / "release").valid
    assert sum(_labels(images)[1]) == 9
    assert not [item for item in (run / "private").iterdir() if item.name.startswith("images.p")]
    if window in ("while sampling", "while the images are written", "before they are placed"):
        assert before.valid, "what is not finished lies outside the release"


@pytest.mark.slow
def test_guarantee_a_certificate_that_does_not_verify_is_taken_away(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise VerificationError("the certificate does not verify")

    with monkeypatch.context() as patched:
        patched.setattr(release, "verify_in_a_fresh_process", refuse)
        with pytest.raises(VerificationError, match="does not verify"):
            _again(trained, tmp_path / "run")
    assert not (tmp_path / "run" / "release" / "certificate.json").exists()
    with pytest.raises(RunFolderError, match="has not finished"):
        generate(tmp_path / "run", images=3)
    _again(trained, tmp_path / "run")
    generate(tmp_path / "run", images=3)


@pytest.mark.slow
def test_guarantee_no_image_is_made_before_the_training_is_done(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*facts: Any, **more: Any) -> None:
        release.write_release(*facts, **more)
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(running, "write_release", killed)
        with pytest.raises(KilledError):
            _again(trained, tmp_path / "run")
    assert (tmp_path / "run" / "release" / "certificate.json").exists()
    with pytest.raises(RunFolderError, match="has not finished"):
        generate(tmp_path / "run", images=3)
    _again(trained, tmp_path / "run")
    generate(tmp_path / "run", images=3)


def test_a_run_without_its_safe_makes_images(run: Path, tmp_path: Path) -> None:
    """Whoever receives the release and the recipe alone: then the scan knows this machine only."""
    shutil.rmtree(run / "private")
    said: list[str] = []
    for out in ("once", "again"):
        generate(run, images=3, out=tmp_path / out, progress=lambda message="", **_: said.append(message))
    assert len([message for message in said if "the scan knows less" in message]) == 2
    assert "they were not compared with them" in (tmp_path / "once" / "README.md").read_text()
    made = generate(run, images=3)
    assert "they were not compared with them" in (made / "README.md").read_text()
    assert dpd.Certificate.verify(run).valid
    assert Release.open(run).certificate.to_dict()["scanned_without_traces"] == ["images"]


def test_images_that_a_scan_with_traces_saw_are_not_named(run: Path) -> None:
    made = generate(run, images=3)
    assert "scanned_without_traces" not in Release.open(run).certificate.to_dict()
    assert "not compared" not in (made / "README.md").read_text()


def test_guarantee_what_cannot_be_certified_is_not_drawn(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without traces, and in the words of another version, which this one cannot put right."""
    document = read(run / "release")
    forge(run / "release", {**document, "assumptions": ["Other: words."]})
    shutil.rmtree(run / "private")
    monkeypatch.setattr(image_job, "sample", _kill)
    with pytest.raises(VerificationError, match="no traces of the private images are left"):
        generate(run, images=3)


@pytest.mark.parametrize("out", [None, "elsewhere"])
def test_a_release_that_was_changed_makes_no_images(run: Path, tmp_path: Path, out: str | None) -> None:
    adapter = run / "release" / "adapter" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"x")
    with pytest.raises(VerificationError, match="not the release that was certified"):
        generate(run, images=3, out=None if out is None else tmp_path / out)
    assert not (tmp_path / "elsewhere").exists()


def test_the_same_generation_again_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(run, images=9)
    before = (run / "release" / "certificate.json").read_bytes()
    monkeypatch.setattr(image_job, "sample", _kill)
    assert generate(run, images=9) == run / "release" / "images"
    assert (run / "release" / "certificate.json").read_bytes() == before
    with pytest.raises(ParameterError, match="is there already"):
        generate(run, images=6)


@pytest.mark.slow
def test_the_same_generation_elsewhere_again_changes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    generate(run, images=3, out=out)
    before = hashes(out)
    with monkeypatch.context() as patched:
        patched.setattr(image_job, "sample", _kill)
        said: list[str] = []
        again = generate(run, images=3, out=out, progress=lambda message="", **_: said.append(message))
        assert (again, hashes(out)) == (out, before)
        assert f"{out} holds these images already" in said
        other: dict[str, Any]
        for other in ({"images": 6}, {"format": "imagefolder"}, {"settings": {"seed": 1}}):
            with pytest.raises(ParameterError, match="is there already"):
                generate(run, out=out, **{"images": 3, **other})
    (out / "README.md").write_text("mine")
    with pytest.raises(ParameterError, match="is there already"):
        generate(run, images=3, out=out)
    shutil.rmtree(out)
    assert generate(run, images=3, out=out) == out


@pytest.mark.parametrize("format", images_out.FORMATS)
def test_guarantee_images_come_with_a_certified_card(run: Path, format: str, tmp_path: Path) -> None:
    """Its numbers are no secret, even where one is that of the private images."""
    traces = Traces(names=set(), ids=set(), paths=set())
    traces.counts = {4321}
    traces.save(run / "private" / TRACES)
    chosen = GenerationSettings(seed=4321, steps=2)
    made = generate(run, images=9, settings=chosen, format=format)
    known = Release.open(run)
    assert "images/README.md" in known.certificate.files
    card = DatasetCard.load(made / "README.md")
    assert card.content.split("\n---\n", 1)[1].strip().startswith("**NOT PRIVATE.**")
    assert "seed 4321" in card.text
    release.certify_again(known, release.known_secrets(known), lambda **_: None, "images")
    assert dpd.Certificate.verify(run / "release").valid
    assert len(read_images(made).images) == 9
    elsewhere = generate(run, images=9, settings=chosen, format=format, out=tmp_path / "out")
    assert "no certificate of its own" in (elsewhere / "README.md").read_text()
    assert len(read_images(elsewhere).images) == 9
    model = ModelCard.load(run / "release" / "README.md")
    assert (model.data.library_name, model.data.pipeline_tag) == ("peft", "unconditional-image-generation")
    assert model.data.tags == ["not-private", "diffusion", "lora", "dp-diffusers"]


def test_a_release_whose_images_have_no_card_verifies_and_is_done(run: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ImagesCard, "text", lambda _: None)
        made = generate(run, images=9)
    assert not (made / "README.md").exists()
    assert generate(run, images=9) == made
    assert dpd.Certificate.verify(run / "release").valid


def test_images_of_another_number_type_are_other_images(run: Path, tmp_path: Path) -> None:
    exact = generate(run, images=9)
    half = GenerationSettings(**{**Release.open(run).settings()["generation"], "dtype": "bfloat16"})
    with pytest.raises(ParameterError, match="is there already"):
        generate(run, images=9, settings=half)
    coarse = generate(run, images=9, settings=half, out=tmp_path / "half")
    assert "numbers of bfloat16" in (coarse / "README.md").read_text()
    assert "bfloat16" not in (exact / "README.md").read_text()
    found = [read_images(folder).images.astype(int) for folder in (exact, coarse)]
    assert 0 < np.abs(found[0] - found[1]).mean() < 2


def test_a_sampler_that_cannot_draw_is_refused_before_it_draws(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Release.family

    def of_few_timesteps(release: Release, **options: Any) -> Any:
        family = opened(release, **options)
        few = type(family.base.scheduler).from_config(family.base.scheduler.config, num_train_timesteps=50)
        family.base = replace(family.base, scheduler=few)
        return family

    monkeypatch.setattr(Release, "family", of_few_timesteps)
    with pytest.raises(ModelError, match=r"ddim cannot draw 200 steps from this base") as caught:
        generate(run, settings={"steps": 200}, out=tmp_path / "images")
    assert caught.value.hint == "another generation.sampler or generation.steps"
    assert not (tmp_path / "images").exists()


def test_images_that_were_deleted_are_replaced(run: Path) -> None:
    shutil.rmtree(generate(run, images=9))
    generate(run, images=6)
    assert dpd.Certificate.verify(run / "release").valid


def test_files_that_no_generation_put_there_are_never_certified(run: Path) -> None:
    (run / "release" / "images").mkdir()
    (run / "release" / "images" / "patient.png").write_bytes(b"private")
    with pytest.raises(ParameterError, match="does not list"):
        generate(run, images=9)
    assert not dpd.Certificate.verify(run / "release").valid


def test_guarantee_what_was_placed_is_certified_only_unchanged(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(generating, "_certify_images", _kill)
        with pytest.raises(KilledError):
            generate(run, images=9)
    (run / "release" / "images" / "patient.png").write_bytes(b"private")
    with pytest.raises(ParameterError, match="does not list"):
        generate(run, images=9)


@pytest.mark.parametrize("stray", ["notes.txt", "adapter/patient.png"])
def test_guarantee_a_stray_file_is_refused_before_anything_is_made(
    run: Path, stray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "release" / stray).write_bytes(b"private")
    with monkeypatch.context() as patched:
        patched.setattr(image_job, "sample", _kill)
        with pytest.raises(VerificationError, match=f"{stray} is not listed"):
            generate(run, images=9)
    assert not (run / "release" / "images").exists()
    (run / "release" / stray).unlink()
    generate(run, images=9)
    assert dpd.Certificate.verify(run / "release").valid


@pytest.mark.planted
def test_planted_leak_in_what_a_generation_certifies(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lay in the release before, and the new certificate itself, are looked through again."""
    before, scan = (run / "release" / "certificate.json").read_bytes(), release.require_no_leak
    searched: list[set[str]] = []

    def watching(folder: Path, secrets: Any, report: Path, **more: Any) -> None:
        searched.append({*map(str, release_files(folder)), *(more.get("also") or {})})
        scan(folder, secrets, report, **more)
        if "certificate.json" in searched[-1]:
            raise VerificationError("nothing was certified")

    with monkeypatch.context() as patched:
        patched.setattr(release, "require_no_leak", watching)
        with pytest.raises(VerificationError, match="nothing was certified"):
            generate(run, images=9)
    assert {"README.md", "adapter/adapter_model.safetensors", "certificate.json"} < searched[-1]
    assert any(name.startswith("images/") for name in searched[-1])
    assert (run / "release" / "certificate.json").read_bytes() == before
    generate(run, images=9)
    assert dpd.Certificate.verify(run / "release").valid


def test_sampling_goes_on_where_it_stopped(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = GenerationSettings(sampler="ddim", steps=3)
    whole = generate(run, images=9, out=run / "whole", settings=small)
    starts: list[int] = []

    def dies_once(*arguments: Any, start: int) -> Any:
        starts.append(start)
        if len(starts) == 2:
            raise KilledError
        yield from generation.sample(*arguments, start=start)

    monkeypatch.setattr(image_job, "sample", dies_once)
    monkeypatch.setattr(image_job, "images_of_a_part", lambda *_: 3)
    with pytest.raises(KilledError):
        generate(run, images=9, out=run / "parts", settings=small)
    parts = generate(run, images=9, out=run / "parts", settings=small)
    assert starts == [0, 3, 3, 6]
    found = [read_images(folder).images.astype(int) for folder in (whole, parts)]
    assert np.abs(found[0] - found[1]).max() <= 1


def test_images_are_made_of_the_declared_classes_only(trained: Path, tmp_path: Path) -> None:
    made = _again(trained, tmp_path / "run", 'data.classes=["class 2", "class 0"]')
    assert made.certificate.classes == {
        "labels": [2, 0],
        "names": ["class 2", "class 0"],
        "declared": True,
    }
    assert _labels(generate(made, per_label=3)) == (["class 2", "class 0"], [3, 3])
    assert "torch.tensor([2, 0])" in (made.path / "README.md").read_text()


def test_images_carry_the_declared_names_where_classes_are_matched_by_position(
    trained: Path, tmp_path: Path
) -> None:
    made = _again(trained, tmp_path / "run", "data.classes=[healthy, ill]")
    assert made.certificate.classes is not None
    assert made.certificate.classes["labels"] == [0, 1]
    assert _labels(generate(made, images=6)) == (["healthy", "ill"], [3, 3])


def test_guarantee_class_names_found_in_the_data_choose_nothing(run: Path) -> None:
    made = Release.open(run)
    assert made.certificate.classes is not None
    assert not made.certificate.classes["declared"]
    names, counts = _labels(generate(made, images=6))
    assert names == ["class 0", "class 1", "class 2"]
    assert counts == [2, 2, 2]


def test_the_sampled_labels_are_those_of_the_base(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _again(trained, tmp_path / "run", 'data.classes=["class 2", "class 0"]')
    asked: list[list[int]] = []

    def spy(family: Any, labels: Any, count: int, sampling: Any, *, start: int) -> Any:
        asked.append(labels.tolist())
        return generation.sample(family, labels, count, sampling, start=start)

    monkeypatch.setattr(image_job, "sample", spy)
    generate(made, images=4)
    assert sorted(asked[0]) == [0, 0, 2, 2]


MAPPED = ("data.classes=[healthy, ill]", 'data.base_classes=["class 2", 0]')


@pytest.fixture(scope="module")
def mapped(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, list[int]]:
    """A run that says which classes of the base its own start from, and the labels that it trained with."""
    seen: list[int] = []

    def spy(*arguments: Any) -> Any:
        found = conditioned(*arguments)
        seen.extend(found[0].labels.tolist())
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(running, "conditioned", spy)
        made = _again(trained, tmp_path_factory.mktemp("mapped") / "run", *MAPPED)
    return made, seen


def _drawn_numbers(made: Release, out: Path) -> list[int]:
    """The base's number of each image that is drawn."""
    asked: list[int] = []

    def spy(family: Any, labels: Any, count: int, sampling: Any, *, start: int) -> Any:
        asked.extend(labels.tolist())
        return generation.sample(family, labels, count, sampling, start=start)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(image_job, "sample", spy)
        assert _labels(generate(made, images=6, out=out)) == (["healthy", "ill"], [3, 3])
    return asked


@pytest.mark.slow
def test_classes_start_where_the_recipe_says(mapped: tuple[Release, list[int]], tmp_path: Path) -> None:
    made, trained_with = mapped
    assert made.certificate.classes == {"labels": [2, 0], "names": ["healthy", "ill"], "declared": True}
    assert trained_with == [2, 0] * 15
    assert "torch.tensor([2, 0])" in (made.path / "README.md").read_text()
    assert _drawn_numbers(made, tmp_path / "images") == [2, 0] * 3


@pytest.mark.slow
@pytest.mark.planted
def test_planted_images_by_position_are_seen(
    mapped: tuple[Release, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mapping decides the training, and nobody thinks of it when images are made."""
    by_position = released_classes(3, None, ["healthy", "ill"])
    monkeypatch.setattr(Release, "classes", lambda *_: by_position)
    with pytest.raises(AssertionError):
        assert _drawn_numbers(mapped[0], tmp_path / "images") == [2, 0] * 3


@pytest.mark.slow
def test_the_public_model_draws_the_classes_that_the_run_started_from(
    mapped: tuple[Release, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def spy(family: Any, labels: Any, count: int, sampling: Any) -> Any:
        asked.extend(labels.tolist())
        return [np.zeros((count, 8, 8, 1), np.uint8)]

    monkeypatch.setattr(generation, "sample", spy)
    like = LabelledImages(
        images=np.zeros((3, 8, 8, 1), np.uint8), labels=np.array([1, 0, 0]), class_names=("healthy", "ill")
    )
    found = public_model_images(mapped[0].folder.root, like)
    assert asked == [0, 2, 2]
    assert (found.labels.tolist(), found.class_names) == ([1, 0, 0], ("healthy", "ill"))


@pytest.mark.slow
def test_a_run_keeps_its_mapping(mapped: tuple[Release, list[int]], trained: Path) -> None:
    run = mapped[0].folder.root
    assert _again(trained, run, *MAPPED).path == run / "release"
    with pytest.raises(RunFolderError, match=r"data\.base_classes differ"):
        _again(trained, run, MAPPED[0], "data.base_classes=[0, 2]")


@pytest.mark.slow
def test_python_callers_map_classes_too(trained: Path, tmp_path: Path) -> None:
    from dp_diffusers.mechanisms.none import NonPrivate

    data = dpd.PrivateImages(
        images=np.zeros((30, 8, 8, 1), np.uint8),
        labels=np.arange(30) % 2,
        class_names=("healthy", "ill"),
        owner=np.arange(30),
        unit_count=30,
    )
    plan = dpd.Plan.calibrate(None, NonPrivate(steps=1, expected_units=10, population=30))
    made = dpd.finetune(trained / "base", data, plan, out=tmp_path / "run", base_classes=[2, "class 1"])
    assert made.certificate.classes == {"labels": [2, 1], "names": ["healthy", "ill"], "declared": True}
    assert _drawn_numbers(made, tmp_path / "images") == [2, 1] * 3


def test_certificates_without_classes_mean_all_of_the_base(run: Path) -> None:
    document = read(run / "release")
    document["classes"] = None
    forge(run / "release", document)
    assert dpd.Certificate.verify(run / "release").valid
    assert _labels(generate(run, images=3))[1] == [1, 1, 1]


def test_python_callers_declare_classes_too(trained: Path, tmp_path: Path) -> None:
    from dp_diffusers.mechanisms.none import NonPrivate

    data = dpd.PrivateImages(
        images=np.zeros((30, 8, 8, 1), np.uint8),
        labels=np.arange(30) % 2,
        class_names=("class 2", "class 0"),
        owner=np.arange(30),
        unit_count=30,
    )
    plan = dpd.Plan.calibrate(None, NonPrivate(steps=1, expected_units=10, population=30))
    made = dpd.finetune(trained / "base", data, plan, out=tmp_path / "run")
    assert made.certificate.classes is not None
    assert made.certificate.classes["labels"] == [2, 0]


def test_only_where_it_runs_may_change_after_a_training(trained: Path, run: Path) -> None:
    kept = (run / "recipe.yaml").read_bytes()
    assert _again(trained, run, "runtime.rows_per_pass=7").path == run / "release"
    assert (run / "recipe.yaml").read_bytes() == kept
    with pytest.raises(RunFolderError, match=r"training\.ema, generation\.steps differ"):
        _again(trained, run, "generation.steps=7", "training.ema=0.5")


def test_images_are_not_drawn_into_the_folder_of_the_private_ones(run: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    recipe = run / "recipe.yaml"
    found = re.sub(r"(?m)^  path: .*$", f"  path: {tmp_path / 'own'}", recipe.read_text())
    recipe.write_text(found)
    with pytest.raises(ParameterError, match=r"images lies in data\.path"):
        generate(run, images=3, out=tmp_path / "own" / "images")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_network_is_moved_to_the_device_of_the_run(
    run: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("device: auto", f"device: {device}"))
    asked: list[str] = []
    meta = torch.device("meta")
    monkeypatch.setattr(release, "device_of", lambda name: asked.append(name) or meta)
    family = Release.open(run).family()
    assert asked == [device]
    assert {parameter.device.type for parameter in family.network.parameters()} == {"meta"}


def test_a_device_that_is_not_there_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParameterError, match="is not there"):
        generate(run, images=3, device="cuda")
    with pytest.raises(ParameterError, match="unknown device"):
        generate(run, images=3, device="gpu")


def test_guarantee_the_initial_noise_is_drawn_on_the_cpu(tiny_base: Callable[..., Any]) -> None:
    """Whatever the device of the network, even the default one, the noise of image i is the same."""
    from dp_diffusers.diffusion.pixel import PixelFamily

    family = PixelFamily(tiny_base())
    there = generation._initial_noise(family, 0, range(3))
    family.network.to("meta")
    with torch.device("meta"):
        here = generation._initial_noise(family, 0, range(3))
    assert here.device.type == "cpu"
    assert torch.equal(there, here)


def test_progress_counts_images(run: Path) -> None:
    lines: list[dict[str, Any]] = []
    generate(run, images=9, progress=lambda **facts: lines.append(facts))
    assert [(line["step"], line["steps"], line["unit"]) for line in lines] == [(9, 9, "images")]
