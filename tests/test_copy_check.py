"""Near copies end to end: known answers, what is kept where, and that no figure of it is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from asked_support import NAMES, PIXELS, Made, cheap_accounts, make_run, pictures
from dp_diffusers import copy_check
from dp_diffusers.cli.main import main
from dp_diffusers.copy_check import NearCopies, near_copies
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.run.asked_run import UNCOMPARED, AskedRun

assert cheap_accounts
pytestmark = pytest.mark.slow
HELD_OUT = pictures(400, 3)[0]
ANSWER = {"question", "answer", "epsilon", "delta", "noise_multiplier", "adjacency", "unit", "ledger"}


@pytest.fixture(autouse=True)
def _pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default extractor would take most of the time."""
    monkeypatch.setattr(copy_check, "features_named", lambda name: PIXELS)


def copied(root: Path) -> Made:
    """A run whose released images are training images."""
    return make_run(root, released=pictures(60, 1))


def checked(made: Made, charge: float | None = 2.0) -> NearCopies:
    return near_copies(made.run, HELD_OUT, charge=charge)


def test_guarantee_copies_are_answered_yes_and_fresh_images_no(tmp_path: Path) -> None:
    made, fresh = copied(tmp_path / "copied"), make_run(tmp_path / "fresh")
    before = made.spent()
    found = checked(made)
    assert found.is_copied
    assert checked(fresh).is_copied is False
    answer = found.to_dict()["answer"]
    assert answer.keys() >= ANSWER
    assert answer["ledger"].keys() == {"spent_epsilon", "spent_delta", "cap_epsilon", "cap_delta", "head"}
    assert answer["covered_by_epsilon"] is True
    assert answer["could_miss"] < 60
    assert len(answer["conditions"]) == 2
    assert all(condition in found.explain() for condition in answer["conditions"])
    assert made.spent() == answer["ledger"]["spent_epsilon"] > before
    assert checked(made).answer == answer
    assert made.entries().count("charge") == 2, "the training's and one"
    (kept,) = (made.run / "private" / "answers").iterdir()
    assert json.loads(kept.read_text())["said"] == answer


def test_what_is_found_is_kept_in_the_safe(tmp_path: Path) -> None:
    made = copied(tmp_path)
    released = sorted(made.run.joinpath("release").rglob("*"))
    found = checked(made, charge=None)
    assert found.answer is None
    assert found.is_copied is None
    document = json.loads(found.file.read_text())
    assert (document["exact_copies"], document["training_images"]) == (60, 200)
    assert document["nearer_than_threshold"]["training"] > 0.25
    assert document["nearer_than_threshold"]["held_out"] < 0.01
    assert Image.open(found.sheet).size[0] > 100
    for path in (found.file, found.sheet):
        assert path.parent == made.run / "private"
        assert oct(path.stat().st_mode)[-3:] == "600"
    assert oct((made.run / "private").stat().st_mode)[-3:] == "700"
    assert sorted(made.run.joinpath("release").rglob("*")) == released
    assert "charge" not in made.entries()[4:]


def said(made: Made, capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> str:
    """Everything that the command writes to the terminal, but for the run's place."""
    code = main(["near-copies", str(made.run), "--held-out", str(tmp_path / "held-out"), *words])
    written = capsys.readouterr()
    assert code == 0
    return (written.out + written.err).replace(str(made.run), "RUN")


def figures_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    """The property: two sets of training images make the command say different things."""
    if not (tmp_path / "held-out").exists():
        write_images(HELD_OUT, None, NAMES, tmp_path / "held-out", format="parquet")
    made = copied(tmp_path / "copied")
    other = make_run(tmp_path / "other", released=pictures(60, 1), trained=pictures(170, 5))
    return any(
        said(made, capsys, tmp_path, *words) != said(other, capsys, tmp_path, *words)
        for words in ((), ("--json",))
    )


def test_guarantee_no_figure_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not figures_said(tmp_path, capsys)


@pytest.mark.planted
def test_planted_figure_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def telling(self: NearCopies) -> str:
        return f"exact copies: {json.loads(self.file.read_text())['exact_copies']}"

    monkeypatch.setattr(NearCopies, "explain", telling)
    assert figures_said(tmp_path, capsys), "the planted defect must be visible"


def test_a_charged_yes_has_an_exit_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = copied(tmp_path)
    write_images(HELD_OUT, None, NAMES, tmp_path / "held-out", format="parquet")
    words = ["near-copies", str(made.run), "--held-out", str(tmp_path / "held-out"), "--charge", "2"]
    assert main([*words, "--json"]) == 4
    written = capsys.readouterr()
    assert json.loads(written.out)["answer"]["answer"] == "yes"
    assert "inside the safe" in written.err
    assert (
        main(["near-copies", str(made.run), "--held-out", str(tmp_path / "held-out"), "--charge", "30"]) == 3
    )


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "training images": (lambda: pictures(200, 1)[0], ParameterError, "was trained on"),
    "one of them": (
        lambda: np.concatenate([HELD_OUT, pictures(200, 1)[0][:1]]),
        ParameterError,
        "was trained on",
    ),
    "too few": (lambda: HELD_OUT[:5], DataError, "at least 20"),
    "another size": (lambda: np.zeros((40, 4, 4, 1), np.uint8), ParameterError, "expected held-out images"),
    "synthetic ones": (lambda: pictures(60, 2)[0], DataError, "copies of held-out ones"),
}


@pytest.mark.parametrize("held_out", REFUSED)
def test_held_out_images_that_are_no_baseline_are_refused_and_cost_nothing(
    tmp_path: Path, held_out: str
) -> None:
    make, error, says = REFUSED[held_out]
    made = make_run(tmp_path)
    before = made.entries()
    with pytest.raises(error, match=says):
        near_copies(made.run, make(), charge=2.0)
    assert made.entries() == before
    assert not (made.run / "private" / copy_check.FILE).exists()


def test_held_out_images_are_told_from_training_images_without_what_the_safe_noted(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    (made.run / "private" / "traces.npz").unlink()
    with pytest.raises(ParameterError, match="was trained on"):
        near_copies(made.run, np.concatenate([HELD_OUT, pictures(200, 1)[0][:1]]), charge=2.0)
    assert made.entries()[-1] == "cancel"
    assert made.spent() == pytest.approx(0.5, rel=0.02)


def blind(images: np.ndarray) -> np.ndarray:
    """Gives one training image (a copied one) no features."""
    found = images.reshape(len(images), -1) / 255.0
    found[(images == pictures(200, 1)[0][150]).all((1, 2, 3))] = np.nan
    return found


def shape_of(document: Any) -> Any:
    """Keys all the way down, and how long lists are."""
    if isinstance(document, dict):
        return {key: shape_of(value) for key, value in document.items()}
    return [shape_of(value) for value in document] if isinstance(document, list) else None


def test_guarantee_an_image_without_features_changes_no_exit_and_no_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(HELD_OUT, None, NAMES, tmp_path / "held-out", format="parquet")
    texts, shapes = [], []
    for name, function in (("seeing", PIXELS.function), ("blind", blind)):
        monkeypatch.setattr(
            copy_check, "features_named", lambda _, function=function: replace(PIXELS, function=function)
        )
        made = make_run(tmp_path / name)
        code = main(["near-copies", str(made.run), "--held-out", str(tmp_path / "held-out"), "--charge", "2"])
        assert code == 0
        written = capsys.readouterr()
        texts.append((written.out + written.err).replace(str(made.run), "RUN"))
        found = json.loads((made.run / "private" / copy_check.FILE).read_text(), parse_constant=_no_number)
        shapes.append(shape_of(found))
        assert found["training_images_without_features"] == int(name == "blind")
        assert (found["quantiles"]["training"]["1"] is None) == (name == "blind")
    assert texts[0].replace("seeing", "") == texts[1].replace("blind", "")
    assert shapes[0] == shapes[1]


def _no_number(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_a_baseline_of_copies_is_seen_in_the_safe_alone(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    nearly = np.concatenate([HELD_OUT[:60], pictures(200, 1)[0][:40] ^ 1])  # by one grey level
    found = near_copies(made.run, nearly)
    document = json.loads(found.file.read_text())["held_out_to_training"]
    assert document["nearer_than_threshold"] >= 40
    assert document["copies"] == 0
    assert document["quantiles"]["0.25"] < 0.1 < document["quantiles"]["0.5"]
    assert "40" not in found.explain().replace(str(made.run), "")


def test_an_extractor_without_a_digest_is_not_charged_for(tmp_path: Path) -> None:
    made, mine = make_run(tmp_path), replace(PIXELS, sha256=None)
    before = made.entries()
    with pytest.raises(ParameterError, match="have no sha256"):
        near_copies(made.run, HELD_OUT, features=mine, charge=2.0)
    assert made.entries() == before
    assert near_copies(made.run, HELD_OUT, features=mine).answer is None


def test_other_images_than_the_training_s_are_refused(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    others = PrivateImages.from_parquet(make_run(tmp_path / "other", trained=pictures(200, 5)).private)
    with pytest.raises(ParameterError, match=r"images at private= are not those .* trained on"):
        near_copies(made.run, HELD_OUT, private=others)
    made.forget_traces()
    found = near_copies(made.run, HELD_OUT, private=others)
    assert UNCOMPARED in found.notes
    assert UNCOMPARED in json.loads(found.file.read_text())["notes"]


def test_a_charge_that_sees_nothing_is_refused(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    with pytest.raises(ParameterError, match="could miss copies of all 200 units"):
        near_copies(made.run, HELD_OUT[:30], charge=0.05)
    assert "charge" not in made.entries()[4:]


def test_questions_to_a_run_that_was_trained(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the recipe to both answers; the ledger holds the training and two questions."""
    from dp_diffusers import evaluate, release
    from dp_diffusers.finetuning import train
    from dp_diffusers.generating import generate
    from dp_diffusers.privacy.ledger import Ledger
    from dp_diffusers.recipe import Recipe

    monkeypatch.setattr(release, "verify_in_a_fresh_process", lambda folder: None)
    recipe = Recipe.load(
        tiny_recipe, ["budget.cap={epsilon: 30, delta: 1.0e-3}", "budget.adjacency=zero_out"]
    )
    images = generate(train(recipe, tmp_path / "run"), images=60)
    scores = evaluate(images, charge=3.0, seeds=2, passes=512)
    assert 0 <= scores.accuracy.low < scores.accuracy.high <= 100
    assert scores.to_dict()["adjacency"] == "zero_out"
    found = near_copies(tmp_path / "run", HELD_OUT, charge=6.0)
    assert found.to_dict()["answer"]["could_miss"] <= 30
    with Ledger.open(recipe.budget.ledger) as ledger:
        assert [(run.status, run.steps_charged) for run in ledger.runs()] == [
            ("settled", 3),
            ("settled", 1),
            ("settled", 1),
        ]
    with pytest.raises(ParameterError, match="private images are"):
        evaluate(images, recipe.data.path, features=None, seeds=2, passes=64)


def test_questions_to_a_run_that_a_call_made(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    data = PrivateImages.from_parquet(made.private)
    recipe = made.run / "recipe.yaml"
    recipe.write_text("base: somewhere\nplan: {}\n")
    with pytest.raises(ParameterError, match="are not known"):
        near_copies(made.run, HELD_OUT)
    assert near_copies(made.run, HELD_OUT, private=data).answer is None
    with pytest.raises(ParameterError, match="the ledger of"):
        near_copies(made.run, HELD_OUT, charge=2.0, private=data)
    assert near_copies(made.run, HELD_OUT, charge=2.0, private=data, ledger=made.ledger).is_copied is False


def test_held_out_images_become_squares_as_the_run_s_own_did(tmp_path: Path) -> None:
    """Cut, where those of the training were padded, they would lie farther off than fresh images do."""
    made = make_run(tmp_path / "made")
    recipe = yaml.safe_load((made.run / "recipe.yaml").read_text())
    recipe["data"]["resize"] = "fit"
    (made.run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    wide = np.random.default_rng(5).integers(0, 256, (24, 8, 16, 1), dtype=np.uint8)
    write_images(wide, np.arange(24) % 2, NAMES, tmp_path / "wide", format="parquet")
    run = AskedRun.open(made.run, private=None, ledger=None)
    seen = copy_check._Check(run, tmp_path / "wide", PIXELS, lambda **_: None).held_out
    assert seen.shape == (24, 8, 8, 1)
    assert (seen[:, :2] == 0).all(), "above it is padded with black"
    assert seen[:, 2:6].any()
