"""Nothing of the private images leaves but by the mechanism: canaries in names, ids, captions and pixels.

The strongest form comes last: what is printed for two data sets that have not one image, name or number of
images in common is the same, letter by letter, but for the time it took.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dp_diffusers import training
from dp_diffusers.cli.main import main
from loop_support import cheap_trainings, small_budget

WORD = "CANARY"
BEGUN = "its first run fixes unit, adjacency and cap"
PATTERNS = [
    r"step \d+/\d+  ε \d+\.\d\d/1\.00( {2}[\d.e+-]+ s/step)?( {2}[\d.]+ GB)?  eta \w+",
    r"images \d+/9( {2}[\d.e+-]+ images/s)?( {2}[\d.]+ GB)?  eta \w+",
]


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image[..., 0]).save(stream, "png")
    return stream.getvalue()


def folder_of_classes(place: Path, images: np.ndarray, word: str) -> str:
    """One folder per class of the model; file names are canaries. Returns the recipe's data section."""
    for index, image in enumerate(images):
        path = place / f"class {index % 3}" / f"{word}-file-{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return f"{{path: {place}, label: folder}}"


def parquet_of_patients(place: Path, images: np.ndarray, word: str) -> str:
    """Two images for each unit; unit ids, file names and a further column are canaries."""
    place.mkdir()
    count = len(images)
    table = pa.table(
        {
            "image": [
                {"bytes": png(image), "path": f"{word}-file-{index}"} for index, image in enumerate(images)
            ],
            "label": [f"class {index % 3}" for index in range(count)],
            "patient": [f"{word}-patient-{index // 2}" for index in range(count)],
            "caption": [f"{word}-caption-{index}" for index in range(count)],
        }
    )
    pq.write_table(table, place / "images.parquet")
    return f"{{path: {place / 'images.parquet'}, label: label}}"


def run(recipe: Path, make: Any, *, images: np.ndarray, name: str) -> tuple[Path, int]:
    """Trains and generates on a data set of its own; the run folder and the exit code."""
    section = make(recipe.parent / f"data-{name}", images, f"{WORD}{name}")
    text = re.sub(r"data: .*", f"data: {section}", recipe.read_text())
    text = text.replace("tiny.ledger", f"{name}.ledger")
    if make is parquet_of_patients:
        text = text.replace("epsilon: 1,", "epsilon: 1, unit: patient,")
    path = recipe.parent / f"{name}.yaml"
    path.write_text(text)
    out = recipe.parent / f"run-{name}"
    code = main(["train", str(path), "--out", str(out)])
    return out, code or main(["generate", str(out)])


@pytest.fixture(params=[folder_of_classes, parquet_of_patients])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def _every_line(monkeypatch: pytest.MonkeyPatch, tiny_recipe: Path) -> None:
    """Every line of progress is shown, not one in ten seconds."""
    from dp_diffusers.cli import progress

    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    cheap_trainings(monkeypatch.setattr)
    small_budget(tiny_recipe)


def private_images(count: int, seed: int) -> np.ndarray:
    """Images that nothing but themselves can contain: every byte is random."""
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def pixel_traces(images: np.ndarray) -> list[bytes]:
    """Rows of pixels as bytes, raw and as the network sees them, and the encoded files."""
    rows = [row.tobytes() for image in images for row in image]
    scaled = [(row.astype(np.float32) / 127.5 - 1).tobytes() for image in images for row in image]
    return rows + scaled + [png(image) for image in images]


def test_guarantee_labels_that_are_secret_are_refused_without_a_word_of_them(
    tiny_recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tiny_recipe.parent / "data"
    folder_of_classes(place, private_images(6, 0), WORD)
    for index in range(3):
        (place / f"class {index}").rename(place / f"{index}-{WORD}")
    text = re.sub(r"data: .*", f"data: {{path: {place}, label: folder}}", tiny_recipe.read_text())
    tiny_recipe.write_text(text)
    assert main(["train", str(tiny_recipe), "--out", str(tiny_recipe.parent / "run")]) == 2
    printed = capfd.readouterr()
    assert "data.classes" in printed.err
    assert WORD not in (printed.out + printed.err).replace(str(tiny_recipe.parent), "")


@dataclass(frozen=True)
class Ran:
    """A finished run, what was printed meanwhile, and the images it saw."""

    out: Path
    recipe: Path
    printed: Any
    images: np.ndarray


_RAN: dict[Any, Ran] = {}


def ran(make: Any, recipe: Path, capfd: pytest.CaptureFixture[str], *, again: bool = False) -> Ran:
    """One run for each kind of data set, kept for the tests that only look at it."""
    if make not in _RAN or again:
        images = private_images(30, 0)
        out, code = run(recipe, make, images=images, name="A")
        printed = capfd.readouterr()
        assert code == 0, printed.err
        found = Ran(out, recipe.parent / "A.yaml", printed, images)
        if again:
            return found
        _RAN[make] = found
    return _RAN[make]


def carriers(found: Ran) -> list[str]:
    """The released files that hold a canary, and `the screen` if it was seen there."""
    traces = pixel_traces(found.images)
    carrying = []
    for path in sorted((found.out / "release").rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        name = str(path.relative_to(found.out))
        if WORD in name or WORD.encode() in content or any(trace in content for trace in traces):
            carrying.append(name)
    said = (found.printed.out + found.printed.err).replace(str(found.recipe.parent), "")
    return carrying + ["the screen"] * (WORD in said)


def test_guarantee_no_canary_leaves(make: Any, tiny_recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = ran(make, tiny_recipe, capfd)
    assert carriers(found) == []
    table = pq.read_table(next((found.out / "release" / "images").rglob("*.parquet")))
    made = {np.asarray(Image.open(io.BytesIO(row["bytes"]))).tobytes() for row in table["image"].to_pylist()}
    assert len(made) == 9
    assert not made & {image.tobytes() for image in found.images}


def test_guarantee_the_safe_is_closed_and_holds_all_that_is_private(
    make: Any, tiny_recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = ran(make, tiny_recipe, capfd).out
    assert (out / "private").stat().st_mode & 0o777 == 0o700
    assert {path.name for path in out.iterdir()} == {"recipe.yaml", "private", "release"}
    released = {path.name for path in (out / "release").iterdir()}
    assert released == {"adapter", "certificate.json", "README.md", "images"}


def lines_of(printed: Any, recipe: Path, out: Path) -> list[str]:
    """What was printed, without what is public and said before any image is read: the plan, a new ledger."""
    from dp_diffusers.recipe import Recipe

    loaded = Recipe.load(recipe)
    text = (printed.err + printed.out).replace(loaded.plan().explain(), "")
    text = text.replace(f"a new ledger begins: {loaded.budget.ledger}; {BEGUN}\n", "")
    return [line.replace(out.name, "run") for line in text.splitlines() if line.strip()]


def printed_for(
    recipe: Path, make: Any, capfd: pytest.CaptureFixture[str], *, count: int, seed: int, name: str
) -> list[str]:
    for ledger in recipe.parent.glob("*.ledger*"):  # of the run before: a new one says what lies beside it
        ledger.unlink()
    capfd.readouterr()
    out, code = run(recipe, make, images=private_images(count, seed), name=name)
    printed = capfd.readouterr()
    assert code == 0, printed.err
    return lines_of(printed, recipe.parent / f"{name}.yaml", out)


def test_guarantee_lines_are_of_known_kinds(
    make: Any, tiny_recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = ran(make, tiny_recipe, capfd)
    lines = lines_of(found.printed, found.recipe, found.out)
    known = [*PATTERNS, re.escape(str(found.recipe.parent / "run" / "release")) + "(/images)?"]
    strange = [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in known)]
    assert strange == []
    assert sum(line.startswith("step ") for line in lines) == 3


def without_times(lines: list[str]) -> list[str]:
    return [re.sub(r"  [\d.e+-]+ (s/step|images/s)|  [\d.]+ GB|  eta \w+", "", line) for line in lines]


@pytest.mark.slow
def test_guarantee_the_screen_is_the_same_for_any_data(
    make: Any, tiny_recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = printed_for(tiny_recipe, make, capfd, count=30, seed=0, name="A")
    other = printed_for(tiny_recipe, make, capfd, count=24, seed=1, name="B")
    assert without_times(first) == without_times(other)


@pytest.mark.slow
@pytest.mark.planted
@pytest.mark.parametrize("secret", [pytest.param("loss", marks=pytest.mark.slow), "batch size"])
def test_planted_private_scalars_on_screen(
    secret: str, tiny_recipe: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row_losses = training.Loop.row_losses

    def telling(self: Any, rows: Any, step: int) -> Any:
        losses = row_losses(self, rows, step)
        told = (
            f"{float(losses.detach().mean()):.6f}" if secret == "loss" else f"{len(rows.units)} of this step"
        )
        self.progress(message=f"{secret} {told}")
        return losses

    monkeypatch.setattr(training.Loop, "row_losses", telling)
    first = printed_for(tiny_recipe, folder_of_classes, capfd, count=30, seed=0, name="A")
    other = printed_for(tiny_recipe, folder_of_classes, capfd, count=24, seed=1, name="B")
    assert without_times(first) != without_times(other)


@pytest.mark.slow
@pytest.mark.planted
def test_planted_names_and_pixels_in_the_release(
    tiny_recipe: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dp_diffusers import release

    card, folder = release.model_card, tiny_recipe.parent / "data-A"

    def telling(*facts: Any, **more: Any) -> str:
        file = next(iter(sorted(folder.rglob("*.png"))))
        (tiny_recipe.parent / "run-A" / "release" / "example.png").write_bytes(file.read_bytes())
        return str(card(*facts, **more)) + file.name

    monkeypatch.setattr(release, "model_card", telling)
    # a training of this defect writes pictures, so that one is no stray file to it
    monkeypatch.setattr(release, "_WRITTEN", {*release._WRITTEN, "example.png"})
    out, code = run(tiny_recipe, folder_of_classes, images=private_images(30, 0), name="A")
    said = capfd.readouterr().err.replace(str(tiny_recipe.parent), "")
    assert code == 4
    for name, kind in (("README.md", "the name of a private file"), ("example.png", "a private image")):
        assert f"{name} holds {kind}" in said
    assert WORD not in said
    assert not (out / "release" / "certificate.json").exists()
    with monkeypatch.context() as patched:
        patched.setattr(release, "require_no_leak", lambda *facts, **more: None)
        found = ran(folder_of_classes, tiny_recipe, capfd, again=True)
        assert carriers(found) == ["release/README.md", "release/example.png"]
    monkeypatch.setattr(release, "model_card", card)
    (out / "release" / "example.png").unlink()
    assert main(["train", str(tiny_recipe.parent / "A.yaml"), "--out", str(out)]) == 0


@pytest.mark.slow
@pytest.mark.planted
def test_planted_private_image_among_the_synthetic_ones(
    tiny_recipe: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation that would publish one of the images it was trained on, byte for byte."""
    from dp_diffusers import generating

    images = private_images(30, 0)
    sampled = generating._sampled

    def remembering(*facts: Any) -> Any:
        pixels = sampled(*facts)
        pixels[4] = images[7]
        return pixels

    monkeypatch.setattr(generating, "_sampled", remembering)
    out, code = run(tiny_recipe, folder_of_classes, images=images, name="A")
    said = capfd.readouterr().err
    assert code == 4
    assert "holds a private image" in said
    assert not (out / "release" / "images").exists()
    monkeypatch.setattr(generating, "_sampled", sampled)
    assert main(["generate", str(out)]) == 0
