"""Checks a release against its certificate, with nothing but dp_accounting and the files.

Guarantee: a release is called valid only if every number of the certificate follows from its mechanisms, its
sentences from those numbers, and every file is listed and unchanged; epsilon is computed again, never copied;
who issued it is said only where the signer's key is given. Imports the accountant, never torch. Source: the
contract of the certificate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dp_diffusers.errors import DPDiffusersError
from dp_diffusers.privacy import accountant, signature
from dp_diffusers.privacy.budget import is_visible
from dp_diffusers.privacy.cap_words import epsilon_at
from dp_diffusers.privacy.certificate import ADAPTER_FILE, POPULATION_FILE, TEACHER_FILE, Certificate
from dp_diffusers.privacy.certificate_text import document_in, problems_of_text
from dp_diffusers.privacy.certified_numbers import software
from dp_diffusers.privacy.events import (
    AnyRecord,
    HistogramQuery,
    MomentsQuery,
    Record,
    TeacherQuery,
    record_from_dict,
)
from dp_diffusers.privacy.files import CERTIFICATE_NAME, changed, read_whole, unlisted
from dp_diffusers.privacy.ledger_checks import ROUNDED_UP, is_number, is_sha256, problems_of_ledger
from dp_diffusers.privacy.record_checks import MOST_STEPS, TRAIN, problems_beside, problems_of_record
from dp_diffusers.privacy.sentences import facts_of
from dp_diffusers.privacy.teacher_features import NETWORK_FILE, is_own
from dp_diffusers.rounding import rounded_up_text

NOT_PRIVATE: Final = "NOT PRIVATE: trained without noise or with test keys; it may reveal its training images"
_MALFORMED: Final = (TypeError, ValueError, KeyError, OverflowError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found: `epsilon` is the recomputed one, None if it could not be or nothing is promised.

    `not_private`, `delta`, `unit`, `adjacency` and `signature` are what the certificate says; None where
    it has none. `signer_known`: it is signed, and with the key that was given.
    """

    valid: bool
    epsilon: float | None
    problems: tuple[str, ...]
    not_private: bool | None = None
    delta: float | None = None
    unit: str | None = None
    adjacency: str | None = None
    signature: Mapping[str, str] | None = None
    signer_known: bool = False

    def explain(self) -> str:
        """The verdict, and what the release promises if it is valid."""
        if not self.valid:
            return "not valid"
        return "\n".join(["valid", promise(self), signature.explain(self.signature, known=self.signer_known)])


def promise(valid: Verification | Certificate) -> str:
    """What a valid release promises, in one line: its bound and whom it protects, or `NOT PRIVATE`."""
    if valid.not_private:
        return NOT_PRIVATE
    assert valid.epsilon is not None  # what is valid has one
    assert valid.delta is not None
    bound = epsilon_at(rounded_up_text(valid.epsilon), valid.delta)
    return visible(f"{bound} per {valid.unit}, adjacency {valid.adjacency}")


def visible(text: str) -> str:
    """One line of a terminal, whatever wrote it: what would break it, or cannot be seen, as an escape."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def verify_release(folder: Path, public_key: Path | None = None) -> Verification:
    """Every problem of the release in `folder`; never raises for what it finds there.

    `public_key`: PEM file of whoever must have signed; None takes any signature, and none. Raises
    `InputError` for a key file that cannot be used.
    """
    signer = None if public_key is None else signature.public_key_in(public_key)
    problems: list[str] = []
    try:
        text = read_whole(folder / CERTIFICATE_NAME)
        document = document_in(text)
        problems += problems_of_text(text, document)
        certificate = Certificate.from_dict(document)
    except DPDiffusersError as error:
        return _invalid(problems or [error.message])
    recomputed: float | None = None
    try:
        problems += filter(None, [signature.problem_of(document, signer)])
        recomputed, unfollowed = _epsilon(certificate)
        problems += [*unfollowed, *_ledger(certificate), *_hashes(certificate), *_scanned(certificate)]
    except (DPDiffusersError, *_MALFORMED) as error:
        lacking = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        problems.append(f"the certificate cannot be followed: {lacking}")
    try:
        problems += [*changed(folder, certificate.files), *unlisted(folder, certificate.files)]
    except OSError as error:
        problems.append(f"cannot read the files of {folder}: {error}")
    if not problems:
        problems += _sentences(certificate)
    return Verification(
        valid=not problems,
        epsilon=recomputed,
        problems=tuple(problems),
        not_private=certificate.not_private,
        delta=certificate.delta,
        unit=certificate.unit,
        adjacency=certificate.adjacency,
        signature=certificate.signature,
        signer_known=signer is not None and not problems,
    )


def _invalid(problems: list[str]) -> Verification:
    return Verification(valid=False, epsilon=None, problems=tuple(problems))


def _epsilon(certificate: Certificate) -> tuple[float | None, list[str]]:
    if certificate.not_private:
        wrong = certificate.epsilon is not None
        return None, ["the certificate says not private and gives an epsilon"] if wrong else []
    claimed, delta = certificate.epsilon, certificate.delta
    if not (is_number(claimed) and is_number(delta) and certificate.mechanisms):
        return None, ["epsilon, delta or the mechanisms are missing"]
    assert claimed is not None
    assert delta is not None
    records = [_charged(entry) for entry in certificate.mechanisms]
    problems = [text for record in records for text in problems_of_record(record, delta)]
    unit = certificate.unit
    if isinstance(unit, str) and not (unit.strip() and is_visible(unit)):
        problems.append(f"the unit {unit!r} names nothing that a reader can see")
    problems += [*_planned(certificate, records), *problems_beside(records), *_queries(certificate, records)]
    problems += _trained(certificate, records)
    if problems:
        return None, problems
    grid = _grid(certificate.accountant, records)
    recomputed = accountant.epsilon(records, delta, str(certificate.adjacency), grid=grid)
    accountant.cross_check(recomputed, records, delta, str(certificate.adjacency))
    if (method := accountant.method(records, delta)) != certificate.accountant.get("method"):
        problems.append(f"epsilon is by {method} for these numbers, the certificate says otherwise")
    # A claim may be rounded up a little, and never down.
    if not recomputed * (1 - 1e-6) <= claimed <= recomputed * ROUNDED_UP:
        problems.append(f"epsilon {claimed:.6g} does not follow: its mechanisms give {recomputed:.6g}")
    return recomputed, problems


def _charged(entry: Mapping[str, Any]) -> AnyRecord:
    return record_from_dict({**entry, "steps": entry["steps_charged"]})


def _planned(certificate: Certificate, records: Sequence[Record]) -> Iterator[str]:
    """Every mechanism was planned to be asked once or more, and the one that trains was carried out."""
    for entry, record in zip(certificate.mechanisms, records, strict=True):
        planned = entry.get("steps_planned")
        if isinstance(planned, bool) or not isinstance(planned, int) or not 1 <= planned <= MOST_STEPS:
            yield f"steps_planned {planned} is not in [1, {MOST_STEPS}]"
        elif record.name in TRAIN and record.steps < planned and not _may_end_early(certificate, records):
            yield f"{record.name} was charged {record.steps} of {planned} steps, and not ended unseen"


def _may_end_early(certificate: Certificate, records: Sequence[Record]) -> bool:
    """Unseen, or where a query that was asked again left room for fewer steps (see `limits.limit_after`)."""
    if certificate.ledger.get("ended_unseen") is True:
        return True
    asked = zip(certificate.mechanisms, records, strict=True)
    return any(record.name not in TRAIN and record.steps > entry["steps_planned"] for entry, record in asked)


def _trained(certificate: Certificate, records: Sequence[Record]) -> Iterator[str]:
    """What was released is what the mechanism that trains makes: an adapter, or a population."""
    votes = any(record.name == "pe" for record in records)
    made, numbers = ADAPTER_FILE in certificate.files, certificate.adapter.get("trainable_parameters")
    if votes and (made or numbers != 0 or POPULATION_FILE not in certificate.files):
        yield f"pe trains nothing and releases {POPULATION_FILE}: this release is another one"
    if not votes and not (made and is_number(numbers) and numbers >= 1):
        yield f"a training releases {ADAPTER_FILE}, of one number or more: this release is another one"


def _queries(certificate: Certificate, records: Sequence[Record]) -> Iterator[str]:
    """Released class proportions are those of a histogram that is among the mechanisms, once."""
    released = (certificate.classes or {}).get("proportions")
    asked = [record.classes for record in records if isinstance(record, HistogramQuery)]
    if released is not None and (not isinstance(released, list) or asked != [len(released)]):
        yield "the class proportions do not come from a histogram of the mechanisms"
    yield from _class_counts(certificate, records)
    yield from _teacher(certificate, records)
    yield from _warmup(certificate, records)


def _class_counts(certificate: Certificate, records: Sequence[Record]) -> Iterator[str]:
    """A query about classes asks about those of the release; moments of one kind where it has none."""
    labels = (certificate.classes or {}).get("labels")
    for record in records:
        if isinstance(record, HistogramQuery | TeacherQuery | MomentsQuery):
            alone = 1 if isinstance(record, MomentsQuery) else record.classes
            released = alone if labels is None else len(labels)
            if record.classes != released:
                yield f"{record.name} asked about {record.classes} classes, the release has {released}"


def _warmup(certificate: Certificate, records: Sequence[Record]) -> Iterator[str]:
    """A warm-up learns from a query among the mechanisms, of as many numbers."""
    told = certificate.further.get("warmup")
    asked_of = [query.dimensions for query in records if isinstance(query, MomentsQuery)]
    if asked_of != ([] if told is None else [told["dimensions"]]):
        yield "what the certificate says of a warm-up and its mechanisms do not belong together"


def _teacher(certificate: Certificate, records: Sequence[Record]) -> Iterator[str]:
    """A released classifier is made of a query among the mechanisms, of its directions and classes."""
    described = certificate.further.get("teacher")
    if (described is None) != (TEACHER_FILE not in certificate.files):
        yield f"{TEACHER_FILE} and what the certificate says of a teacher do not belong together"
    queries = [query for query in records if isinstance(query, TeacherQuery)]
    lost = certificate.further.get("lost_queries", [])
    if lost:  # of which nothing is released
        if lost != ["teacher"] or described is not None or len(queries) != 1:
            yield f"the queries {lost} are not lost ones of the mechanisms"
        return
    asked = [(query.dimensions, query.clusters, query.classes) for query in queries]
    told = len((certificate.classes or {}).get("labels") or ())
    expected = [] if described is None else [(described["dimensions"], described.get("clusters"), told)]
    if asked != expected:
        yield "the teacher does not come from a teacher's query of the mechanisms"


def _grid(stated: Mapping[str, Any], records: Sequence[Record]) -> float:
    """The stated grid where it is near ours: each gives an upper bound, the same one the same number."""
    ours, theirs = accountant.grid_for(records), stated.get("grid")
    if isinstance(theirs, float) and ours / 10 <= theirs <= ours * 10:
        return theirs
    return ours


def _ledger(certificate: Certificate) -> list[str]:
    if certificate.not_private:
        return []
    records = [_charged(entry) for entry in certificate.mechanisms]
    return list(problems_of_ledger(certificate, records))


def _hashes(certificate: Certificate) -> Iterator[str]:
    if not is_sha256(certificate.base_model.get("sha256")):
        yield "the base model's hash is missing"
    if certificate.adapter.get("sha256") != certificate.files.get(ADAPTER_FILE):
        yield f"the adapter's hash is not that of {ADAPTER_FILE}"
    teacher, released = certificate.further.get("teacher"), certificate.files.get(NETWORK_FILE)
    stated = (
        teacher.get("sha256") if teacher is not None and (released is not None or is_own(teacher)) else None
    )
    if stated != released:  # the user's own network is released, and no other is
        yield f"the hash of the teacher's features is not that of {NETWORK_FILE}"


def _scanned(certificate: Certificate) -> Iterator[str]:
    """What was scanned without traces of the private images is in the release."""
    if "scanned_without_traces" not in certificate.further:
        return
    named = certificate.further["scanned_without_traces"]
    tops = {name.partition("/")[0] for name in certificate.files}
    texts = isinstance(named, list) and named and all(isinstance(name, str) for name in named)
    if not texts or named != sorted(tops.intersection(named)):
        yield "scanned_without_traces names what is not in the release"


def _sentences(certificate: Certificate) -> list[str]:
    """Sentences are those that this version writes for these numbers."""
    follow = facts_of(certificate.to_dict()) is not None
    words = f"assumptions and statements do not follow from its numbers, as {software()} words them"
    return [] if follow else [words + _other_writer(certificate.software)]


def _other_writer(named: Any) -> str:
    """What to do where another version may have written the sentences, else ""."""
    version = isinstance(named, str) and re.fullmatch(r"dp-diffusers \d[0-9A-Za-z.+]{0,40}", named)
    return f": verify with {named}, which it names" if version and named != software() else ""
