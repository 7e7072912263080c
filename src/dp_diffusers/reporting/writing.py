"""Writes a report: into a release, where the certificate lists it, or elsewhere for its owner.

Guarantees:
- a release that does not verify gets no report, and one with a report verifies before the call says done;
- what goes into a release is looked through for everything private first, and has no scores unless they are
  asked for: they were measured on real images, and epsilon does not cover them; what comes from real images
  to train on, which may be the run's own, is never among them;
- a file outside a release changes nothing in it, and none is written into a release that does not list it.
May import what `release` does.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dp_diffusers.errors import InputError, ParameterError, VerificationError
from dp_diffusers.leaks.scan import FOUND, require_no_leak
from dp_diffusers.privacy.canonical import sha256_of_text
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.files import sha256_of_file
from dp_diffusers.release import Release, certify_again, known_secrets
from dp_diffusers.reporting.audits import read_audit
from dp_diffusers.reporting.comparing import compared
from dp_diffusers.reporting.facts import FILE, Report
from dp_diffusers.run.out_apart import lies_in_release
from dp_diffusers.whole_files import write_text

Progress = Callable[..., None]
LEFT_OUT: Final = (
    "left out of the release: the row and the figures that come from real images to train on (--real), which "
    "may be the run's own; a page elsewhere (--out) shows them"
)


def _silent(**_: Any) -> None:
    """Progress that nobody sees."""


def report(
    *runs: Release | str | Path,
    out: str | Path | None = None,
    scores: bool = False,
    audit: str | Path | None = None,
    progress: Progress = _silent,
) -> Path:
    """Writes one HTML page that needs no other file; returns its path.

    Args:
        runs: a finished run (a release, or the run folder of one); several, to compare them.
        out: where to write; None: `release/report.html` of the one run, whose certificate then lists it. A
            page elsewhere changes nothing in a release and shows the scores too, where `evaluate` left some.
        scores: puts them into the release as well, but for what `evaluate --real` read. Epsilon does not
            cover them.
        audit: `audit.json`, or its folder, of the run's recipe.
        progress: called with `message`.

    Raises `VerificationError` for a release that does not verify, or where something private would get into
    it; `ParameterError` for an `out` that is missing or lies in a release, or an audit of another training;
    `RunFolderError` for a run that has not finished.
    """
    opened = [run if isinstance(run, Release) else Release.open(run) for run in runs]
    if not opened:
        raise ParameterError("no run to report on")
    if out is None and len(opened) > 1:
        raise ParameterError(
            "a comparison of several runs belongs to no release", hint="say where to write: --out FILE"
        )
    if len(opened) > 1 and audit is not None:
        raise ParameterError("an audit is shown with one run", hint="leave --audit out, or give one run")
    if out is not None:
        _require_elsewhere(Path(out))
    if audit is not None:
        read_audit(audit)  # refused before the releases are verified, which takes longer
    for release in opened:
        _require_valid(release)
    if out is None:
        return _into_release(opened[0], scores=scores, audit=audit, progress=progress)
    return _elsewhere(opened, Path(out), audit=audit, progress=progress)


def _require_valid(release: Release) -> None:
    """Raises `VerificationError` unless the release verifies, whatever its report is now."""
    found = Certificate.verify(release.path)
    wrong = [problem for problem in found.problems if not problem.startswith(f"{FILE} ")]
    if wrong:
        raise VerificationError(
            f"{release.path} does not verify: {'; '.join(wrong)}",
            hint="`dp-diffusers certificate verify` lists what is wrong",
        )


def _require_elsewhere(out: Path) -> None:
    """Raises `ParameterError` for a place that is no page's, or lies in a release, whosever it is."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ParameterError(f"expected --out to end in .html, got {out.name!r}")
    if lies_in_release(out):
        raise ParameterError(
            f"{out} lies in a release, whose certificate would not list it",
            hint="leave --out out to write report.html into the run's own release, or choose another place",
        )


def _elsewhere(releases: list[Release], out: Path, *, audit: Any, progress: Progress) -> Path:
    found = None if audit is None else read_audit(audit)
    reports = [Report.of(release.folder, scores=True, audit=found) for release in releases]
    if any(report.scores is not None for report in reports):
        progress(
            message="the page shows scores of real images, which ε does not cover: it is not for release"
        )
    page = reports[0] if len(reports) == 1 else compared(reports)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, page.to_html())
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}", hint="choose another --out") from error
    return out


def _into_release(release: Release, *, scores: bool, audit: Any, progress: Progress) -> Path:
    release.folder.create()
    with release.folder.lock():
        release.certificate = Certificate.read(release.path)  # another process may have added images
        release.certificate.require_listed(release.path, replaced=[FILE])
        found = None if audit is None else read_audit(audit)
        facts = Report.of(release.folder, scores=scores, audit=found)
        if scores and facts.scores is None:
            place = shlex.quote(str(release.path / "images"))
            raise ParameterError(
                "there are no scores of the images in this release",
                hint=f"`dp-diffusers evaluate {place} --reference PATH` measures them",
            )
        if facts.scores is not None:
            progress(message="the release tells scores of real images, which ε does not cover")
            if facts.scores.by_real:
                progress(message=LEFT_OUT)
            facts = replace(facts, scores=facts.scores.without_real())
        return _placed(release, facts, progress)


def _placed(release: Release, facts: Report, progress: Progress) -> Path:
    """The page in the release and in its certificate, or neither changed where both hold it already."""
    target = release.path / FILE
    page = facts.to_html()
    before = release.certificate.files.get(FILE)
    if before == sha256_of_text(page) and target.is_file() and sha256_of_file(target) == before:
        progress(message=f"{target} is up to date")
        return target
    secrets = known_secrets(release, public=map(str, facts.public_counts))
    if not secrets.has_traces:
        progress(message="nothing private was noted beside this release, so the scan knows less")
    certificate = release.certificate.after_scan(FILE, with_traces=secrets.has_traces)
    page = replace(facts, certificate=certificate.to_dict()).to_html()  # says so as the certificate will
    nothing = release.folder.private / "report.new"  # an empty folder: only the page is looked through
    nothing.mkdir(exist_ok=True)
    try:
        require_no_leak(nothing, secrets, release.folder.private / FOUND, also={FILE: page.encode()})
    finally:
        nothing.rmdir()
    old = target.read_bytes() if target.is_file() else None
    write_text(target, page)
    try:
        certify_again(release, secrets, progress, FILE)
    except BaseException:  # the certificate is as it was, so the folder has to be
        target.unlink() if old is None else target.write_bytes(old)
        raise
    _require_valid(release)
    return target
