"""The main job on real images, without a hub: drawn public digits, handwritten private ones, a release.

Guarantee: the private images (1,797 handwritten digits that scikit-learn ships; Alpaydin & Kaynak 1998) are
split by a fixed hash, and the held-out quarter is used for the final figure only. May import everything. Each
stage is the same function that the command line calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.pictures import save_grid
from dp_diffusers.rounding import rounded_up_text
from dp_diffusers.run.folder import make_folder

Progress = Callable[..., None]
SIZE = 16
IMAGES = 2000
DIGITS = tuple("0123456789")

PRETRAIN = """\
# Public pre-training of the demo: digits that this package draws, no private image.
model: {size: 16, channels: 1, patch: 2, widths: [32, 64], layers: 1, attention: [false, true]}
data:
  - {source: drawn_digits, count: 30000, frame: tight, scan: 8, fonts: 0.05}
training: {steps: 800, batch_size: 128, learning_rate: 2.0e-3, ema: 0.995, warmup_steps: 50}
"""

RECIPE = """\
# Private fine-tuning of the demo: epsilon = 8 for each of the handwritten digits.
base: public-model
data: {path: private-digits/data/train-00000-of-00001.parquet, label: label,
       classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]}
budget: {epsilon: 8, delta: 1.0e-4, ledger: private-digits.ledger}
mechanism: {steps: 60, expected_units: 450, population: 1350, clip_norm: 0.01}
strategy: {rank: 16, targets: all, freeze_a: true, also: [bias, embedding]}
training: {noise_draws: 2, learning_rate: 8.0e-3, ema: 0.9, warmup_steps: 4, schedule: linear,
           label_dropout: 0.0}
runtime: {rows_per_pass: 512}
generation: {images: 2000, sampler: "dpmsolver++", steps: 15}
"""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo shows."""

    release: Path
    epsilon: float | None
    delta: float | None
    accuracy: float
    public_accuracy: float | None
    picture: Path
    accuracy_interval: tuple[float, float]
    public_interval: tuple[float, float] | None
    report: Path | None = None

    def explain(self) -> str:
        """Readable lines for a terminal."""
        lines = [f"release: {self.release} (certificate valid)"]
        if self.epsilon is not None and self.delta is not None:
            lines.append(
                f"epsilon {rounded_up_text(self.epsilon)} at delta {rounded_up_text(self.delta)} for each "
                "private image"
            )
        lines.append(
            "accuracy on held-out real digits, trained on private synthetic images: "
            + _accuracy(self.accuracy, self.accuracy_interval)
        )
        if self.public_accuracy is not None and self.public_interval is not None:
            lines.append(
                "the same, trained on images of the public model alone: "
                + _accuracy(self.public_accuracy, self.public_interval)
            )
        lines.append(f"picture: {self.picture}")
        return "\n".join([*lines, *([f"report: {self.report}"] if self.report else [])])


def _accuracy(mean: float, interval: tuple[float, float]) -> str:
    return f"{mean:.1f} % (95 % interval {interval[0]:.1f} to {interval[1]:.1f})"


def demo(out: Path, progress: Progress) -> DemoResult:
    """Runs the whole path in `out`; again with the same folder, it goes on where it stopped."""
    from dp_diffusers.evaluation import evaluate
    from dp_diffusers.finetuning import train
    from dp_diffusers.generating import generate
    from dp_diffusers.pretraining import pretrain
    from dp_diffusers.recipe import PretrainRecipe, Recipe
    from dp_diffusers.release import verify_in_a_fresh_process
    from dp_diffusers.reporting import report

    make_folder(out)
    prepare(out)
    progress(message="1 of 5: a public model, on digits that the package draws")
    pretrain(PretrainRecipe.load(out / "pretrain.yaml"), out / "public-model", progress)
    progress(message="2 of 5: private training, on handwritten digits")
    release = train(Recipe.load(out / "recipe.yaml"), out / "run", progress)
    progress(message=f"3 of 5: {IMAGES:,} synthetic digits")
    images = generate(release, images=IMAGES, progress=progress)
    progress(message="4 of 5: classifiers that see only these, or only the public model's, meet real digits")
    scores = evaluate(images, out / "held-out-digits", features=None, progress=progress)
    progress(message="5 of 5: a page for people, and a check of the certificate")
    report(release)
    page = report(release, out=out / "report.html", progress=progress)
    verify_in_a_fresh_process(release.path)
    picture = draw(images, out / "synthetic-digits.png")
    public = scores.public_model
    return DemoResult(
        release=release.path,
        epsilon=release.certificate.epsilon,
        delta=release.certificate.delta,
        accuracy=scores.accuracy.mean,
        public_accuracy=None if public is None else public.mean,
        picture=picture,
        accuracy_interval=(scores.accuracy.low, scores.accuracy.high),
        public_interval=None if public is None else (public.low, public.high),
        report=page,
    )


def prepare(out: Path) -> None:
    """Writes the recipes, the private images and the held-out reference."""
    (out / "pretrain.yaml").write_text(PRETRAIN)
    (out / "recipe.yaml").write_text(RECIPE)
    images, labels = handwritten_digits()
    held_out = np.array([is_held_out(index) for index in range(len(images))])
    for name, chosen in (("private-digits", ~held_out), ("held-out-digits", held_out)):
        if not (out / name).exists():
            write_images(images[chosen], labels[chosen], DIGITS, out / name, format="parquet")


def handwritten_digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[1797, 16, 16, 1]` and int64 `[1797]`: scikit-learn's digits, upsampled from 8 × 8."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    small = np.clip(bunch.images * (255 / 16), 0, 255).astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in small
    ]
    return np.stack(large)[..., None], bunch.target.astype(np.int64)


def is_held_out(index: int) -> bool:
    """A fixed quarter of the images, by a hash of their number."""
    return hashlib.sha256(f"held-out/{index}".encode()).digest()[0] < 64


def draw(images: Path, path: Path) -> Path:
    """A grid of synthetic images, a row per label."""
    from dp_diffusers.evaluation.reading import read_images

    read = read_images(images)
    rows = [read.images[read.labels == label][:20] for label in range(10)]
    save_grid(np.concatenate(rows), path, columns=20, zoom=3)
    return path
