"""`generate`: synthetic images of a release, as files that its certificate lists, or elsewhere.

Guarantees:
- a process may die at any instant: the same call again ends with the same files, and makes no part twice;
- several processes make the parts between them, the first one alone puts them together, and the files are
  those of one process (up to the last bits of the arithmetic; where images are chosen, a last bit may move
  which ones);
- no part is drawn by other weights than those of the certificate, whichever process draws it;
- images are looked through before they get their name; making them reads nothing private and costs nothing.
May import torch, peft and diffusers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from dp_diffusers.cards.images_card import ImagesCard
from dp_diffusers.drawing.image_job import ImageJob
from dp_diffusers.drawing.image_parts import GoneError, Parts, clear_parts
from dp_diffusers.drawing.images_out import build_images, require_writable, write_images
from dp_diffusers.drawing.kept_images import FOLDER as IMAGES
from dp_diffusers.drawing.kept_images import KeptImages
from dp_diffusers.drawing.requested_images import labels_of
from dp_diffusers.drawing.shares import make_rest, make_share
from dp_diffusers.errors import RunFolderError, counted, whole
from dp_diffusers.leaks.scan import Secrets
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.processes.ranks import Ranks, ranks_of_environment
from dp_diffusers.recipe import GenerationSettings
from dp_diffusers.release import Progress, Release, certify_again, known_secrets, leak_check, silent
from dp_diffusers.reporting.facts import FILE as REPORT
from dp_diffusers.run.call_checks import settings_of
from dp_diffusers.run.out_apart import require_out_apart, require_outside_release
from dp_diffusers.run.place_of_run import places_of
from dp_diffusers.runtime.devices import device_of
from dp_diffusers.teaching.chosen_images import chosen_images

RARE: Final = 0.2  # of a class's even part: that few labels of it are worth a line


def generate(
    release: Release | str | Path,
    *,
    images: int | None = None,
    per_label: int | None = None,
    out: str | Path | None = None,
    format: str = "parquet",
    settings: GenerationSettings | Mapping[str, Any] | None = None,
    device: str | None = None,
    compiled: bool = False,
    progress: Progress = silent,
) -> Path:
    """Makes synthetic images; returns their folder (`RUN/release/images` unless `out` says otherwise).

    The same call again goes on where it stopped, or does nothing once the release, or `out`, holds its
    images. Of the processes of one launcher (`torchrun`) each makes a share; the first returns when all is
    there, the others when nothing is left to make.

    Args:
        release: a release, or the run folder of one.
        images: how many in all, over the labels as `settings.labels` says; `per_label`: how many of each.
        format: `parquet` or `imagefolder`.
        settings: sampler, steps, guidance, seed, number type, or a mapping of them as in a recipe; None takes
            the run's recipe.
        device: `auto`, `cpu` or `cuda`; None takes the run's recipe. It does not change the images beyond
            the last bits of the arithmetic; nor does `compiled`, which compiles the network first.
        progress: called with `step, steps, unit, seconds` or `message`; a step is an image.

    Raises `ParameterError` for counts that make no sense, an `out` that holds something else or lies
    elsewhere in the release, or where nothing can be compiled, `ModelError` where the sampler cannot draw
    from the model or draws values that are not finite, `RunFolderError` where someone deletes what was made.
    """
    if images is not None:
        whole(images=images)
    if per_label is not None:
        whole(per_label=per_label)
    if settings is not None:
        settings = settings_of(GenerationSettings, settings=settings)
    release = release if isinstance(release, Release) else Release.open(release)
    chosen = settings or GenerationSettings(**(release.settings().get("generation") or {}))
    release.folder.create()
    if out is not None and Path(out).resolve() == (release.path / IMAGES).resolve():
        out = None  # the place that they have anyway
    if out is not None:
        require_outside_release(Path(out), release.path)
    ranks = ranks_of_environment()
    job = ImageJob(
        release=release,
        settings=chosen,
        images=images,
        per_label=per_label,
        device=_place(release.device(device), ranks),
        compiled=compiled,
    )
    target = None if out is None else Path(out)
    if ranks.first:
        with release.folder.lock():
            return _all_of(job, target, format, ranks, progress)
    return _share_of(job, target, ranks)


def _place(device: str, ranks: Ranks) -> str:
    """The device of this process: the cards of a machine go round among its processes."""
    found = device_of(device)
    if ranks.several and found.type == "cuda" and found.index is None:
        return f"cuda:{ranks.local_rank % torch.cuda.device_count()}"
    return device


def _share_of(job: ImageJob, target: Path | None, ranks: Ranks) -> Path:
    """Makes parts for the first process, which writes, certifies and speaks."""
    place = KeptImages(job.release.folder).target if target is None else target
    if not place.exists():
        _require_certified(job.release)  # the first one refuses too, but what is drawn here outlives that
    try:
        parts = job.parts()
        if place.exists():  # the first one had ended, or will refuse
            parts.abandon()
        else:
            make_share(parts, job.draw, ranks)
    except GoneError:  # the first process had all of them, and ended
        pass
    return place


def _require_certified(release: Release) -> None:
    """Raises `VerificationError` unless the release is, but for images, what its certificate lists.

    The certificate is read again: since the release was opened another command may have written it anew.
    """
    release.certificate = Certificate.read(release.path)
    release.certificate.require_listed(release.path, replaced=[IMAGES])


def _all_of(job: ImageJob, out: Path | None, format: str, ranks: Ranks, progress: Progress) -> Path:
    """Makes what is missing, and puts the images where they belong."""
    release, kept = job.release, KeptImages(job.release.folder)
    _require_certified(release)
    secrets = known_secrets(release, job.settings.prompts or ())
    if not secrets.has_traces:
        progress(message="nothing private was noted beside this release, so the scan knows less")
    if out is None and kept.uncertified(release.certificate.files):
        _certify_images(release, secrets, progress)
    target = kept.target if out is None else out
    record = {**job.request, "format": format, **({} if out is None else {"weights": job.weights})}
    if kept.request() == record if out is None else kept.holds_elsewhere(out, record):
        clear_parts(release.folder)
        progress(message=f"{target} holds these images already")
        return target
    require_writable(target, format)
    require_out_apart(target, release.settings(), places_of(release.folder))
    if out is None:  # what cannot be certified is refused before it is drawn
        release.certificate.after_scan(IMAGES, with_traces=secrets.has_traces)
    pixels = _sampled(job, ranks, progress)
    names = None if job.classes is None else job.classes.names
    pixels, labels, as_asked = _labelled(job, pixels, progress)
    card = ImagesCard(
        certificate=release.certificate.to_dict(),
        request=job.request,
        labels=labels,
        as_asked=as_asked,
        size=pixels.shape[1:],
        format=format,
        certified=out is None,
        compared=secrets.has_traces,
    )
    secrets = secrets.but_for(card.numbers)
    check = leak_check(release, secrets)
    if out is None:
        built = kept.building
        build_images(pixels, labels, names, built, format=format, card=card.text())
        check(built)
        kept.place(built, record, card.numbers)
        _certify_images(release, secrets, progress)
    else:
        _require_certified(release)  # drawing takes long, and no certificate looks at these images after it

        def checked(built: Path) -> None:
            check(built)
            kept.note_elsewhere(target, built, record)

        write_images(pixels, labels, names, target, format=format, card=card.text(), check=checked)
    clear_parts(release.folder)
    return target


def _labelled(
    job: ImageJob, pixels: np.ndarray, progress: Progress
) -> tuple[np.ndarray, np.ndarray | None, int | None]:
    """The images that are kept; int64 `[count]`, their labels; and how many of them are as asked.

    Labels are the teacher's, or where there is none what was asked for, and then nobody counts.
    """
    asked = job.labels
    if job.teacher is None or asked is None:
        return pixels, asked, None
    answers, weights = job.teacher.judged(pixels)
    classes = np.unique(asked)
    if job.candidates > 1 and weights is not None:
        chosen = _chosen(job, answers, weights, progress)
        pixels, answers, asked = pixels[chosen], answers[chosen], asked[chosen]
    labels = np.where(answers < 0, asked, answers)
    as_asked = int((answers == asked).sum())
    progress(message=f"the teacher sees in {as_asked} of {len(asked)} images the class that was asked for")
    if (unknown := int((answers < 0).sum())) > 0:
        progress(message=f"of {counted(unknown, 'image')} it knows no class: they keep what was asked for")
    given = [int((labels == label).sum()) for label in classes]
    if min(given) < RARE * len(asked) / len(given):
        progress(
            message=f"some class is the label of {counted(min(given), 'image')} alone: the teacher may not "
            "know what to make of these images; --teacher off keeps the classes that were asked for"
        )
    return pixels, labels, as_asked


def _chosen(job: ImageJob, answers: np.ndarray, weights: np.ndarray, progress: Progress) -> np.ndarray:
    """int64 `[count]`: which of the images drawn are kept."""
    count, teacher = int(job.request["count"]), job.teacher
    wanted = labels_of(count, job.classes, job.request)
    assert wanted is not None
    assert teacher is not None
    shares = np.bincount(wanted, minlength=len(teacher.classes.labels)) / count
    chosen = chosen_images(weights * teacher.rarity(shares)[answers], count, job.settings.seed)
    different = len(np.unique(chosen))
    progress(message=f"the teacher keeps {different:,} of {len(answers):,} images")
    if different < count:
        progress(
            message=f"{counted(count - different, 'image')} of {count:,} are there more than once: raise "
            "generation.candidates"
        )
    return chosen


def _sampled(job: ImageJob, ranks: Ranks, progress: Progress) -> np.ndarray:
    """uint8 `[count, H, W, C]`; goes on after the parts that are there."""
    try:
        parts = job.parts()
        parts.drop_others()
        parts.missing()  # counts what is there
        told = _teller(parts, ranks, progress)
        make_share(parts, job.draw, ranks, told)
        make_rest(parts, job.draw, told)
        return parts.images()
    except GoneError as error:
        raise RunFolderError(
            "the images made so far were deleted meanwhile", hint="run the same command again"
        ) from error


def _teller(parts: Parts, ranks: Ranks, progress: Progress) -> Callable[[], None]:
    """Tells how many images there are, and the seconds that one more took."""
    before = [time.monotonic(), parts.made]

    def told() -> None:
        if ranks.several:
            parts.missing()  # looks for what the others made
        now, made = time.monotonic(), parts.made
        if made > before[1]:
            seconds = (now - before[0]) / (made - before[1])
            progress(step=made, steps=parts.count, unit="images", seconds=seconds)
            before[:] = now, made

    return told


def _certify_images(release: Release, secrets: Secrets, progress: Progress) -> None:
    certify_again(release, secrets, progress, IMAGES)
    if REPORT in release.certificate.files:
        progress(message=f"{REPORT} does not show these images yet: `dp-diffusers report` writes it again")
