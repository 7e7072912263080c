"""The blurred images of a run's warm-up: what its query gives without a model.

    python benchmarks/draw_moments.py RUN --images 2000 --out FOLDER

Drawn from the Gaussians that the noisy sums in RUN/private make, as many of each class: post-processing of
what was charged. No warm-up saw these very images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.mechanisms.moments import NAME, gaussians_of
from dp_diffusers.queries.asked_moments import FILE
from dp_diffusers.queries.frequencies import VERSION, Frequencies
from dp_diffusers.queries.kept_sums import kept_sums
from dp_diffusers.release import Release

_SEED = 1


def drawn(run: Path, count: int) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """uint8 `[N, H, W, C]`, int64 `[N]`, and names of classes. Raises `SystemExit` without moments."""
    release = Release.open(run)
    asked = [entry for entry in release.certificate.mechanisms if entry["name"] == NAME]
    kept = kept_sums(release.folder.private / FILE)
    if kept is None or not asked:
        raise SystemExit(f"error: {run} has no warm-up with privacy, or not its private folder")
    about = json.loads(kept.made_of)
    if about.pop("version") != VERSION:
        raise SystemExit(f"error: {run} is of another version of this package")
    classes = about.pop("classes")
    gaussians = gaussians_of(
        kept.released, classes=classes, noise_multiplier=float(asked[0]["noise_multiplier"])
    )
    position = np.arange(count) % classes
    numbers = gaussians.draw(position, np.random.default_rng(_SEED))
    names = (release.certificate.classes or {}).get("names")
    return Frequencies.coarsest(**about).images(numbers), position, names


def main() -> None:
    """Writes the images; JSON on stdout says how many."""
    parser = argparse.ArgumentParser(description="Draw images by the moments of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    images, labels, names = drawn(asked.run, asked.images)
    write_images(images, labels, names, asked.out, format="parquet")
    print(json.dumps({"images": len(images)}))


if __name__ == "__main__":
    main()
