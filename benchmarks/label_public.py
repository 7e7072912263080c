"""Public images with the labels of a released teacher: what teacher and public data give without a model.

    python benchmarks/label_public.py RUN tinyimagenet32-train.parquet --per-class 2000 --out FOLDER

Of each class the images are kept on which a linear teacher's answer for it is furthest above all others. By
a teacher with clusters images are kept as the private units are spread over them, as
`generation.candidates` keeps drawn ones: so many in all, about as many of each class. A function of public
images and of the release alone: it costs no privacy. `--limit` looks at the first so many images of a fixed
shuffle.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.evaluation.reading import read_images
from dp_diffusers.release import Release
from dp_diffusers.teaching.chosen_images import chosen_images
from dp_diffusers.teaching.teacher import Teacher

_BLOCK = 512


def chosen(answers: np.ndarray, per_class: int) -> np.ndarray:
    """int64 places of the images kept, of answers `[N, C]`: the largest margins of each class, in order."""
    labels = np.where(answers.any(1), answers.argmax(1), -1)
    ranked = np.sort(answers, 1)
    margins = ranked[:, -1] - ranked[:, -2]
    order = np.argsort(-margins, kind="stable")
    return np.sort(np.concatenate([order[labels[order] == k][:per_class] for k in range(answers.shape[1])]))


def spread(teacher: Teacher, images: np.ndarray, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 places of the images kept, rising, and their classes, by a teacher with clusters."""
    classes = len(teacher.classes.labels)
    labels, weights = teacher.judged(images)
    assert weights is not None
    kept = chosen_images(
        weights * teacher.rarity(np.full(classes, 1 / classes))[labels], classes * per_class, 0
    )
    return kept, labels[kept]


def clearest(teacher: Teacher, images: np.ndarray, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 places of the images kept, rising, and their classes, by a linear teacher."""
    answers = []
    for start in range(0, len(images), _BLOCK):
        answers.append(teacher.answers(images[start : start + _BLOCK]))
        print(f"{min(start + _BLOCK, len(images)):,} of {len(images):,}", file=sys.stderr)
    found = np.concatenate(answers)
    kept = chosen(found, per_class)
    return kept, found[kept].argmax(1)


def main() -> None:
    """Writes the images kept; JSON on stdout says how many each class has."""
    parser = argparse.ArgumentParser(description="Label public images by a released teacher.")
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--per-class", type=int, default=2000)
    parser.add_argument("--limit", type=int, default=30_000)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    release = Release.open(asked.run)
    release.certificate.require_listed(release.path, replaced=["images"])
    teacher = release.teacher
    if teacher is None:
        raise SystemExit(f"error: {asked.run} has no teacher")
    public = read_images(asked.images, on_disk=True).images
    some = np.sort(np.random.default_rng(0).permutation(len(public))[: asked.limit])
    images = np.stack([public[place] for place in some])
    kept, labels = (spread if teacher.has_clusters else clearest)(teacher, images, asked.per_class)
    counts = np.bincount(labels, minlength=len(teacher.classes.labels)).tolist()
    print(json.dumps({"looked_at": len(some), "images_of_each_class": counts}))
    write_images(images[kept], labels, teacher.classes.names, asked.out, format="parquet")


if __name__ == "__main__":
    main()
