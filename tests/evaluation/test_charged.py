"""One charged accuracy on the training images; and references that are, in part or all, training images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from asked_support import NAMES, Made, cheap_accounts, make_run, pictures
from dp_diffusers.cli.main import main
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.traces import Traces
from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.evaluation import charged, evaluate
from dp_diffusers.evaluation.charged import correctness, guesses, numbered
from dp_diffusers.evaluation.held_apart import (
    IN_NO_RUN,
    UNKNOWN,
    has_training_images,
    refuse_training_images,
    run_around,
)
from dp_diffusers.evaluation.plain_images import plain_images
from dp_diffusers.evaluation.scores import NOT_COVERED, REAL_IS_TRAINING_DATA, REAL_IS_UNKNOWN
from dp_diffusers.run.folder import RunFolder

assert cheap_accounts


def labelled(labels: list[int], names: tuple[str, ...] | None, *, from_data: bool = False) -> PrivateImages:
    return PrivateImages(
        images=np.zeros((len(labels), 4, 4, 1), np.uint8),
        labels=np.array(labels),
        class_names=names,
        class_names_from_data=from_data,
        owner=np.arange(len(labels)),
        unit_count=len(labels),
    )


def test_guarantee_no_unit_changes_the_class_of_another() -> None:
    assert numbered(labelled([0, 1, 2], None), ("a", "b")).tolist() == [0, 1, -1]
    assert numbered(labelled([0, 1], ("b", "a")), ("a", "b")).tolist() == [1, 0]
    assert numbered(labelled([0, 1], ("x", "y")), ("a", "b")).tolist() == [0, 1]
    # names found in the data: one image of class a must not decide how those of x are counted
    assert numbered(labelled([0, 0], ("x",), from_data=True), ("a", "b")).tolist() == [-1, -1]
    assert numbered(labelled([1, 1, 0], ("a", "x"), from_data=True), ("a", "b")).tolist() == [-1, -1, 0]


class Swayed(nn.Module):
    """Level 127 lies on the border, and how many images are looked at together sways it, as rounding does.

    offset: of all logits; what rounding moves grows with their size.
    """

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.offset, self.sway = offset, 1e-4 * max(1.0, offset)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = images.mean((1, 2, 3)) + 0.5 / 127.5 + self.sway * (len(images) - 3)
        return torch.stack([level, torch.zeros(len(images))], dim=1) + self.offset


def swayed_by_others(offset: float = 0.0) -> bool:
    """The property: an image's guess is another one beside other images."""
    images = np.full((5, 4, 4, 1), 200, np.uint8)
    images[0] = 127
    together = guesses(Swayed(offset), images)  # type: ignore[arg-type]
    alone = [int(guesses(Swayed(offset), images[index : index + 1])[0]) for index in range(5)]  # type: ignore[arg-type]
    return together.tolist() != alone


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_guarantee_each_image_is_guessed_as_if_it_were_alone(offset: float) -> None:
    assert not swayed_by_others(offset)


@pytest.mark.planted
def test_planted_guess_that_other_images_sway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charged, "CLOSE", 0.0)
    assert swayed_by_others(), "the planted defect must be visible"


def test_scores_that_are_not_finite_choose_no_class() -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[torch.nan, 0.0]]).repeat(len(images), 1)

    images = np.zeros((2, 4, 4, 1), np.uint8)
    assert correctness([Broken()], images, np.array([1, 0])).tolist() == [1.0, 0.0]  # type: ignore[list-item]


def test_guarantee_guesses_are_made_in_single_precision_whatever_the_model_learnt_in() -> None:
    images = np.random.default_rng(0).integers(0, 256, (512, 4, 4, 1)).astype(np.uint8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).to(torch.bfloat16)
    vectors = images.reshape(512, 16).astype(np.float32) / 127.5 - 1
    scores = vectors @ model[1].weight.detach().float().numpy().T
    assert np.abs(scores[:, 0] - scores[:, 1]).min() < 0.005, "coarser arithmetic would decide otherwise"
    made: list[torch.dtype] = []
    model[1].register_forward_hook(lambda layer, given, scores: made.append(scores.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found = guesses(model, images)
    assert {*made} == {torch.float32}
    assert found.tolist() == scores.argmax(1).tolist()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_exactly_one_of_reference_and_charge() -> None:
    images = pictures(20, 0)
    for wrong in ({}, {"reference": images, "charge": 1.0}):
        with pytest.raises(ParameterError, match="exactly one of reference and charge"):
            evaluate(images, **wrong)  # type: ignore[call-overload]
    with pytest.raises(ParameterError, match="and these are arrays"):
        evaluate(images, charge=1.0)  # type: ignore[call-overload]
    with pytest.raises(ParameterError, match=r"no effect with a charge: public"):
        evaluate("x", charge=1.0, public=["y"])


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main([*words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.slow
def test_guarantee_a_charged_accuracy_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dp_diffusers.evaluation.classifier.default_passes", lambda size: 2560)
    made = make_run(tmp_path)
    before = made.spent()
    code, out, _ = command(capsys, "evaluate", str(made.images), "--charge", "2", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["accuracy"]["mean"] > 90
    found = document["accuracy"]
    assert found["low"] <= found["mean"] <= found["high"]
    assert found["low"] < 100 - 1e-6 or found["mean"] == 100, "noise far above 0 lifts all of it to 100"
    assert document["covered_by_epsilon"] is True
    assert document["read_by"] == ["accuracy"]
    assert 1.98 <= document["epsilon"] <= 2
    assert made.spent() == document["ledger"]["spent_epsilon"] > before
    assert not {"rows", "fid", "per_class"} & document.keys(), "one number is charged for"
    assert made.entries().count("charge") == 2
    run = made.images.parent.parent  # a run stands for its images
    code, out, err = command(capsys, "evaluate", str(run), "--charge", "2")
    assert code == 0
    assert "charged: epsilon 2 at delta 0.0001 for each image" in out
    assert "nothing more is charged" in err
    assert made.entries().count("charge") == 2
    assert (made.run / "private" / "evaluation.json").exists() is False
    code, _, err = command(capsys, "evaluate", str(made.images), "--charge", "9.5")
    assert code == 3
    assert "above its cap of 10" in err
    code, _, err = command(capsys, "evaluate", str(made.images), "--charge", "50")
    assert code == 3
    assert "hint: ask with a smaller epsilon" in err
    code, _, err = command(capsys, "evaluate", str(made.private), "--charge", "1")
    assert code == 2
    assert "is not the image folder of a run" in err
    code, _, err = command(capsys, "evaluate", str(made.images))
    assert code == 2
    assert "--charge EPSILON" in err


@pytest.mark.slow
def test_images_without_labels_are_refused_and_cost_nothing(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    text = (made.run / "recipe.yaml").read_text().replace("label: label", "label: null")
    (made.run / "recipe.yaml").write_text(text.replace("  classes:\n  - dark\n  - light\n", ""))
    before = made.spent()
    with pytest.raises(DataError, match="have no labels"):
        evaluate(made.images, charge=1.0, seeds=2, passes=256)
    assert made.spent() == before


REFERENCES: dict[str, Any] = {
    "the same folder": lambda made, root: made.private,
    "one file of it": lambda made, root: made.private / "data" / "train-00000-of-00001.parquet",
    "a copy of it": lambda made, root: _copied(made, root / "copy.parquet"),
    "the same pixels": lambda made, root: pictures(200, 1),
    "one of many": lambda made, root: _one_among(root, pictures(50, 7), pictures(200, 1)),
}


def _copied(made: Made, to: Path) -> Path:
    to.write_bytes((made.private / "data" / "train-00000-of-00001.parquet").read_bytes())
    return to


def _one_among(root: Path, fresh: Any, trained: Any) -> Path:
    images, labels = np.concatenate([fresh[0], trained[0][:1]]), np.concatenate([fresh[1], trained[1][:1]])
    write_images(images, labels, ("dark", "light"), root / "mixed", format="imagefolder")
    return root / "mixed"


@pytest.mark.slow
@pytest.mark.parametrize("reference", REFERENCES)
def test_guarantee_training_images_are_no_reference(tmp_path: Path, reference: str) -> None:
    made = make_run(tmp_path)
    given = REFERENCES[reference](made, tmp_path)
    with pytest.raises(ParameterError, match=r"private images are|was trained on") as refused:
        evaluate(made.images, given, features=None, seeds=2, passes=64)
    assert "--charge" in str(refused.value.hint)


def _around(made: Made, root: Path) -> dict[str, Path]:
    """The same images by each name that `evaluate` takes."""
    (root / "link").symlink_to(made.images)
    (root / "elsewhere").mkdir()
    shutil.copytree(made.images, root / "elsewhere" / "images")
    (made.run / "release" / "more").symlink_to(root / "elsewhere" / "images")
    return {
        "the folder": made.images,
        "the folder in it": made.images / "data",
        "its file": made.images / "data" / "train-00000-of-00001.parquet",
        "the release": made.run / "release",
        "the run": made.run,
        "a link to it": root / "link",
        "a link in the run": made.run / "release" / "more",
    }


@pytest.mark.slow
def test_guarantee_a_reference_is_held_apart_however_the_images_are_named(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    for spelling, images in _around(made, tmp_path).items():
        assert run_around(images) == made.run.resolve(), spelling
        if spelling == "the run":  # other files of a run are no labelled images
            continue
        with pytest.raises(ParameterError, match="was trained on"):
            evaluate(images, pictures(200, 1), features=None, seeds=2, passes=64)
    copied = tmp_path / "elsewhere" / "images"
    assert run_around(copied) is None
    for images in (copied, pictures(60, 2)):
        notes = evaluate(images, pictures(30, 9), features=None, seeds=2, passes=64).notes
        assert IN_NO_RUN in notes


@pytest.mark.slow
def test_guarantee_training_images_as_real_ones_are_named(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    settings: dict[str, Any] = {"features": None, "seeds": 2, "passes": 64}
    scores = evaluate(made.images, pictures(30, 9), real=made.private, **settings)
    assert scores.not_covered == [NOT_COVERED, REAL_IS_TRAINING_DATA]
    assert "the run's own training images" in scores.explain()
    assert scores.to_dict()["real_is_training_data"] is True
    scores = evaluate(made.images, pictures(30, 9), real=pictures(40, 8), **settings)
    assert "own training images" not in scores.explain()
    scores = evaluate(pictures(60, 2), pictures(30, 9), real=pictures(40, 8), **settings)
    assert scores.not_covered == [NOT_COVERED, REAL_IS_UNKNOWN]
    (made.run / "private" / "traces.npz").unlink()
    assert has_training_images(made.run, None, pictures(200, 1)[0]) is None
    assert has_training_images(made.run, made.private, pictures(200, 1)[0]) is True


def _wide(root: Path, name: str) -> Path:
    """One picture of 16 x 8 as a folder; padded and cut it is not the same."""
    pixels = np.random.default_rng(4).integers(0, 256, (8, 16)).astype(np.uint8)
    (root / name).mkdir()
    Image.fromarray(pixels).save(root / name / "a.png")
    return root / name


@pytest.mark.slow
def test_guarantee_a_reference_is_also_read_as_the_training_read_its_images(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    folder = RunFolder(made.run)
    text = folder.recipe.read_text().replace("  label: label\n", "  label: label\n  resize: fit\n")
    own = PrivateImages.from_folder(_wide(tmp_path, "own"), None, size=8, channels=1, resize="fit")
    (folder.private / "traces.npz").unlink()
    traces = Traces(counts={1})
    traces.add_pixels(own.images)
    traces.save(folder.private / "traces.npz")
    again = _wide(tmp_path, "again")
    cut = plain_images(again, size=8, channels=1)
    assert refuse_training_images(made.run, "reference", again, cut) == (), "the recipe says nothing"
    folder.recipe.write_text(text)
    with pytest.raises(ParameterError, match="was trained on"):
        refuse_training_images(made.run, "reference", again, cut)
    folder.recipe.write_text(text.replace("resize: fit", "resize: fit\n  window: [40, 400]"))
    with pytest.raises(ParameterError, match="was trained on"):
        refuse_training_images(made.run, "reference", again, cut)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["public", "public_model"])
def test_guarantee_training_images_are_nobodys_public_ones(tmp_path: Path, key: str) -> None:
    """Their row would stay in a report, beside a certificate."""
    made = make_run(tmp_path)
    settings: dict[str, Any] = {"features": None, "seeds": 2, "passes": 64}
    for given in (made.private, pictures(200, 1)):
        with pytest.raises(ParameterError, match=r"was trained on|private images are"):
            evaluate(made.images, pictures(30, 9), **{key: given}, **settings)
    evaluate(made.images, pictures(30, 9), **{key: pictures(40, 8)}, **settings)


@pytest.mark.slow
def test_real_images_have_their_labels_where_the_run_had_them(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    text = (made.run / "recipe.yaml").read_text().replace("  label: label\n", "  label: finding\n")
    (made.run / "recipe.yaml").write_text(text)
    images, labels = pictures(30, 9)
    write_images(images, labels, NAMES, tmp_path / "held", format="parquet")
    (path,) = (tmp_path / "held" / "data").iterdir()
    plain: dict[str, Any] = {"features": None, "seeds": 2, "passes": 64}
    expected = evaluate(made.images, path, **plain).synthetic
    table = pq.read_table(path)
    names = ["finding" if name == "label" else name for name in table.column_names]
    text_labels = pa.array([NAMES[label] for label in labels.tolist()])
    table = table.replace_schema_metadata(None).rename_columns(names)
    place = names.index("finding")
    pq.write_table(table.set_column(place, "finding", text_labels), path)
    assert evaluate(made.images, path, **plain).synthetic.accuracy == expected.accuracy
    assert (
        evaluate(made.images, path, real=path, label="finding", **plain).synthetic.accuracy
        == expected.accuracy
    )
    with pytest.raises(DataError, match="no label column 'verdict' among image, finding"):
        evaluate(made.images, path, label="verdict", **plain)


@pytest.mark.slow
def test_other_images_are_a_reference(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    fresh = pictures(30, 9)[0]
    assert refuse_training_images(made.run, "reference", None, fresh) == ()
    beside = tmp_path / "data" / ".." / "held-out.parquet"
    write_images(fresh, None, None, tmp_path / "fresh", format="parquet")
    beside.write_bytes((tmp_path / "fresh" / "data" / "train-00000-of-00001.parquet").read_bytes())
    assert refuse_training_images(made.run, "reference", beside, fresh) == ()
    (made.run / "private" / "traces.npz").unlink()
    assert refuse_training_images(made.run, "reference", None, fresh) == (UNKNOWN,)


@pytest.mark.slow
def test_a_manifest_and_its_neighbour_may_share_a_folder(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    text = (made.run / "recipe.yaml").read_text().replace(str(made.private), str(tmp_path / "train.csv"))
    (made.run / "recipe.yaml").write_text(text)
    write_images(*pictures(30, 9), ("dark", "light"), tmp_path / "fresh", format="imagefolder")
    fresh = pictures(30, 9)[0]
    assert refuse_training_images(made.run, "reference", tmp_path / "fresh", fresh) == ()
    with pytest.raises(ParameterError, match="private images are"):
        refuse_training_images(made.run, "reference", tmp_path / "train.csv", fresh)


@pytest.mark.planted
@pytest.mark.slow
def test_planted_reference_that_is_told_by_its_place_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run(tmp_path)
    monkeypatch.setattr("dp_diffusers.data.apart.Shown.among", lambda *_: False)
    assert refuse_training_images(made.run, "reference", None, pictures(200, 1)[0]) == ()
