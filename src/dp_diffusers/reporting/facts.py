"""A release at a glance, as plain data: what a page shows, and nothing that a certificate could not say.

Guarantees:
- everything comes from the certificate and from the synthetic images, but for two things that are asked for:
  scores, which epsilon does not cover, and an audit, which reads no private image;
- sentences are those of the certificate, not words of its own.
May import privacy/ and what reads images; never torch.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from dp_diffusers.auditing.results import AuditResult
from dp_diffusers.cards.model_card import certified_rows
from dp_diffusers.drawing.kept_images import FOLDER as IMAGES
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.explanation import BELIEF
from dp_diffusers.reporting.audits import audit_counts, require_same_training
from dp_diffusers.reporting.measured import Measured, measured_of
from dp_diffusers.reporting.pictures import Pictures, pictures_of
from dp_diffusers.reporting.scores import ShownScores, shown_scores
from dp_diffusers.reporting.spending import Spending, spending_of
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.run.kept_scores import damaged, kept_scores

FILE: Final = "report.html"
PRIORS: Final = (0.01, 0.1, 0.5)
_TOPICS: Final = ("epsilon_and_delta", "unit_of_privacy", "neighbouring_relation", "scope")
_MOST_FILES: Final = 12  # of a folder, before it becomes one line


@dataclass(frozen=True, kw_only=True)
class Report:
    """name: of the run. certificate: its document. scores: None where there are none to show.

    measured: what they were measured with, for a comparison; not part of what a page shows.
    """

    name: str
    certificate: Mapping[str, Any]
    pictures: Pictures | None = None
    scores: ShownScores | None = None
    measured: Measured | None = None
    audit: AuditResult | None = None

    @classmethod
    def of(
        cls, run: str | Path | RunFolder, *, scores: bool = False, audit: AuditResult | None = None
    ) -> Report:
        """What there is to say of a finished run folder.

        scores: also what `evaluate` found on real images, which epsilon does not cover. audit: of its recipe.
        Raises `RunFolderError` for no finished run, `VerificationError` if its certificate was changed,
        `ParameterError` for an audit of another training.
        """
        folder = run if isinstance(run, RunFolder) else RunFolder(Path(run))
        folder.require_finished()
        certificate = Certificate.read(folder.release).to_dict()
        if audit is not None:
            require_same_training(audit, certificate, _strategy(folder))
        shown, measured = _scores(folder) if scores else (None, None)
        return cls(
            name=folder.root.resolve().name,
            certificate=certificate,
            pictures=pictures_of(folder.release / IMAGES, (certificate["classes"] or {}).get("names")),
            scores=shown,
            measured=measured,
            audit=audit,
        )

    @cached_property
    def spending(self) -> Spending | None:
        """What was spent step by step, computed when first asked for; None where nothing is promised."""
        return spending_of(self.certificate)

    @property
    def not_private(self) -> bool:
        """Whether nothing is promised to anyone."""
        return bool(self.certificate["not_private"])

    @property
    def from_votes(self) -> bool:
        """Whether no model was trained: private images voted (Private Evolution)."""
        return any(entry["name"] == "pe" for entry in self.certificate["mechanisms"])

    @property
    def base(self) -> str:
        """The public model, as the certificate names it."""
        return str(self.certificate["base_model"]["id"])

    @property
    def officer(self) -> list[tuple[str, str]]:
        """The promise in words: (question, answer) of the certificate's statements."""
        known = {
            entry["topic"]: (entry["question"], entry["answer"]) for entry in self.certificate["statements"]
        }
        return [known[topic] for topic in _TOPICS if topic in known]

    @property
    def belief(self) -> str:
        """What somebody may believe of one unit: the end of a sentence."""
        return BELIEF.get(str(self.certificate["adjacency"]), "being in the data")

    @property
    def beliefs(self) -> list[tuple[float, float]]:
        """(probability believed before, the most it can become): exceeded by at most delta on average.

        With prior p and ceiling m the mean excess is at most (1 - m) p (P[S] - e^epsilon Q[S]) over the set S
        of releases that exceed it, P and Q with and without the unit, and so at most delta.
        """
        if self.not_private:
            return []
        epsilon = float(self.certificate["epsilon"])
        return [(prior, belief_after(prior, epsilon)) for prior in PRIORS]

    @property
    def numbers(self) -> list[tuple[str, Any]]:
        """The certificate's numbers, for an engineer."""
        known = self.certificate
        promised = ("epsilon", "delta", "unit", "adjacency")
        rows = [(name, known[name]) for name in promised if known[name] is not None]
        rows += [(name, value) for name, value in certified_rows(known) if value is not None]
        ledger = {f"ledger: {name}": value for name, value in known["ledger"].items()}
        rows += [(name, value) for name, value in ledger.items() if value is not None]
        library = known["accountant"]["library"]
        return [*rows, *([("accountant", library)] if library else []), ("software", known["software"])]

    @property
    def assumptions(self) -> list[tuple[str, str]]:
        """(topic, sentence) of what is taken for granted."""
        pairs = [sentence.partition(": ") for sentence in self.certificate["assumptions"]]
        return [(topic, text) if text else ("", topic) for topic, _, text in pairs]

    @property
    def files(self) -> list[tuple[str, str | None]]:
        """Path and SHA-256 of the files, a large folder as one line without; this page is not among them."""
        listed = {name: value for name, value in self.certificate["files"].items() if name != FILE}
        return list(_by_folder(listed))

    @property
    def public_counts(self) -> list[Any]:
        """Counts on the page that are of synthetic and public images or of canaries, none of private ones."""
        shown = [] if self.pictures is None else [self.pictures.count]
        return [*shown, *([] if self.scores is None else self.scores.counts), *audit_counts(self.audit)]

    def to_dict(self) -> dict[str, Any]:
        """Everything that the page shows, for JSON."""
        parts = {name: getattr(self, name) for name in ("spending", "pictures", "scores", "audit")}
        return {
            "name": self.name,
            "not_private": self.not_private,
            "promise": [answer for _, answer in self.officer],
            "numbers": dict(self.numbers),
            "beliefs": [{"before": before, "at_most": after} for before, after in self.beliefs],
            **{name: None if part is None else part.to_dict() for name, part in parts.items()},
            "files": dict(self.files),
            "certificate": dict(self.certificate),
        }

    def to_html(self) -> str:
        """The page: one file that needs no other."""
        from dp_diffusers.reporting.page import report_page

        return report_page(self)

    def _repr_html_(self) -> str:
        return framed(self.to_html())


def _scores(folder: RunFolder) -> tuple[ShownScores | None, Measured | None]:
    """What `evaluate` left, and what it was measured with. Raises `RunFolderError` for a damaged document."""
    document = kept_scores(folder)
    if document is None:
        return None, None
    try:
        shown = shown_scores(document)
        return shown, None if shown is None else measured_of(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder) from error


def _strategy(folder: RunFolder) -> str | None:
    """What was trained, by name; None where no recipe says so."""
    recipe = folder.settings() if folder.recipe.exists() else {}
    return (recipe.get("strategy") or {}).get("name")


def framed(page: str) -> str:
    """A whole page inside another one, as in a notebook."""
    return (
        f'<iframe title="report" srcdoc="{html.escape(page)}" sandbox="allow-scripts" '
        'style="width: 100%; height: 40rem; border: 0"></iframe>'
    )


def belief_after(prior: float, epsilon: float) -> float:
    """The most that a belief of `prior` (in (0, 1)) can become: its odds times e^epsilon."""
    return 1.0 / (1.0 + math.exp(-epsilon) * (1.0 - prior) / prior)


def _by_folder(files: Mapping[str, str]) -> list[tuple[str, str | None]]:
    tops = [name.rpartition("/")[0].split("/")[0] for name in files]
    crowded = {top for top in tops if top and tops.count(top) > _MOST_FILES}
    rows: dict[str, str | None] = {}
    for name, digest in files.items():
        top = name.split("/")[0]
        rows |= {f"{top}/…": None} if top in crowded and "/" in name else {name: digest}
    return list(rows.items())


def distinct_names(reports: Sequence[Report]) -> list[str]:
    """The names of runs, numbered where several share one."""
    names = [report.name for report in reports]
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]
