"""Reports: what they hold, what they must not, and the certificate around them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_support import HOSTILE, make_run, score

import dp_diffusers as dpd
from certificate_support import read
from dp_diffusers.cli.main import main
from dp_diffusers.data.traces import Traces
from dp_diffusers.errors import InputError, ParameterError, VerificationError
from dp_diffusers.reporting import Report, report, writing
from dp_diffusers.reporting import facts as facts_module
from dp_diffusers.reporting.comparing import compared
from dp_diffusers.reporting.facts import belief_after
from dp_diffusers.reporting.page import told
from dp_diffusers.reporting.scores import ShownScores
from dp_diffusers.reporting.writing import LEFT_OUT
from dp_diffusers.rounding import rounded_up_text
from dp_diffusers.run.run_secrets import TRACES


class Page(HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._unseen = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._unseen += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        self.text += "" if self._unseen else data

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def problems(text: str) -> list[str]:
    """What keeps a page from being one file that everyone can read."""
    page, found = Page(text), []
    addresses = [
        each[name] or "" for _, each in page.tags for name in ("src", "href", "xlink:href") if name in each
    ]
    found += [f"leads to {address[:40]}" for address in addresses if not address.startswith(("data:", "#"))]
    found += (
        ["@import or url() in its style"] if re.search(r"@import|url\(", text.split("</style>")[0]) else []
    )
    found += [f"no alt text: {each}" for each in page.all("img") if not each.get("alt")]
    found += [
        f"a th without scope: {each}" for each in page.all("th") if each.get("scope") not in ("col", "row")
    ]
    boxes = [each for each in page.all("div") if each.get("class") == "scroll"]
    found += [
        f"a box that no key scrolls: {each}"
        for each in boxes
        if (each.get("tabindex"), each.get("role")) != ("0", "region") or not each.get("aria-label")
    ]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    if levels[:1] != [1] or levels.count(1) != 1 or any(b > a + 1 for a, b in pairwise(levels)):
        found.append(f"headings {levels}")
    names = [each["id"] for _, each in page.tags if "id" in each]
    found += ["an id is given twice"] if len(set(names)) < len(names) else []
    found += [f"nothing is called {a}" for a in addresses if a.startswith("#") and a[1:] not in names]
    found += ["no language"] if page.all("html")[0].get("lang") != "en" else []
    found += ["tables without captions"] if len(page.all("table")) != len(page.all("caption")) else []
    found += ["too large"] if len(text.encode()) >= 3_000_000 else []
    found += ["a script of another"] if len(page.all("script")) != 1 else []
    return found


def test_guarantee_the_page_is_in_the_release_and_certified(shown: Path) -> None:
    release = shown / "release"
    assert dpd.Certificate.verify(release).valid
    assert "report.html" in dpd.Certificate.read(release).files
    assert problems((release / "report.html").read_text()) == []


def test_guarantee_a_page_says_what_was_not_compared_with_private_images(shown: Path, tmp_path: Path) -> None:
    """Nothing was noted beside this run, and it has images, made before, and the page."""
    release = shown / "release"
    said = "no traces of the private images were left to compare with when this was added: report.html"
    assert said in (release / "report.html").read_text()
    assert "Leak scan: " + said in str(read(release)["assumptions"])
    assert read(release)["scanned_without_traces"] == ["report.html"]
    run = make_run(tmp_path / "noted")
    traces = Traces(names=set(), ids=set(), paths=set())
    traces.counts = {4321}
    traces.save(run / "private" / TRACES)
    assert said not in report(run).read_text()
    assert "scanned_without_traces" not in read(run / "release")


@pytest.mark.slow
def test_guarantee_the_page_in_a_release_has_no_scores_unless_asked_for(shown: Path, tmp_path: Path) -> None:
    text = Page((shown / "release" / "report.html").read_text()).text
    assert "91.2" not in text
    assert "Not covered by ε." not in text
    beside = Page(report(shown, out=tmp_path / "page.html").read_text()).text
    assert "91.2" in beside
    assert "Not covered by ε." in beside
    assert "secret-name" not in beside
    run = make_run(tmp_path / "asked")
    with pytest.raises(ParameterError, match="no scores"):
        report(run, scores=True)
    score(run)
    said: list[str] = []
    report(run, scores=True, progress=lambda message: said.append(message))
    text = Page((run / "release" / "report.html").read_text()).text
    assert "91.2" in text
    assert "Not covered by ε." in text
    assert "Another set of real images of this size would give other numbers" in text
    assert any("does not cover" in line for line in said)
    assert dpd.Certificate.verify(run / "release").valid


def real_images_in_the_release(run: Path) -> bool:
    """The property: a figure that `evaluate --real` made is in the release, or a count of real images."""
    report(run, scores=True)
    text = (run / "release" / "report.html").read_text()
    return any(
        figure in text for figure in ("real images, not private", "97.5", "86.8", "label fidelity", "4,321")
    )


@pytest.mark.slow
def test_guarantee_nothing_by_real_images_to_train_on_gets_into_a_release(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    score(run, note="4,321 real images are in the reference too")
    said: list[str] = []
    assert not real_images_in_the_release(run)
    report(run, scores=True, progress=lambda message: said.append(message))
    assert LEFT_OUT in said
    assert "91.2" in Page((run / "release" / "report.html").read_text()).text
    elsewhere = report(run, out=tmp_path / "page.html").read_text()
    assert "real images, not private" in elsewhere
    assert "86.8" in elsewhere
    assert "4,321" not in elsewhere


@pytest.mark.slow
@pytest.mark.planted
def test_planted_real_images_in_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    score(run)
    monkeypatch.setattr(ShownScores, "without_real", lambda self: self)
    assert real_images_in_the_release(run), "the planted defect must be visible"


@pytest.mark.slow
def test_further_measures_are_shown_and_no_count_of_real_images(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=("plain", HOSTILE))
    score(run)
    text = report(run, out=tmp_path / "page.html").read_text()
    page = Page(text)
    assert "A classifier (small CNN) learns" in page.text
    assert "Distances, by pixels-4" in page.text
    assert "KID × 1,000" in page.text
    for shown in ("12.5", "3.50", "40.25", "real images, not private", "86.8", "3.2", "0.81", "88.5 to 91.5"):
        assert shown in page.text
    assert "FID" not in page.text, "a Fréchet distance by another extractor"
    assert "74321" not in text
    assert problems(text) == []


@pytest.mark.slow
def test_accuracies_by_two_classifiers_are_refused_side_by_side(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other")
    score(one)
    report(one, other, out=tmp_path / "page.html")
    score(other, classifier="wrn-40-4")
    with pytest.raises(ParameterError, match="by small CNN and by wrn-40-4 cannot be compared"):
        report(one, other, out=tmp_path / "page.html")


@pytest.mark.slow
def test_scores_of_other_images_are_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", format="imagefolder", names=("a", "b"))
    score(run)
    assert Report.of(run, scores=True).scores is not None
    (run / "private" / "evaluation.json").write_text(
        (run / "private" / "evaluation.json").read_text().replace('"images": "', '"images": "0')
    )
    assert Report.of(run, scores=True).scores is None


@pytest.mark.slow
def test_guarantee_a_changed_page_is_a_negative_verdict_and_written_again(
    shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(shown, tmp_path / "run"))
    assert main(["report", str(run), "--json"]) == 0
    page = run / "release" / "report.html"
    assert json.loads(capsys.readouterr().out)["report"] == str(page)
    before = page.read_bytes()
    page.write_text(page.read_text().replace("What is promised", "What is not promised"))
    assert main(["certificate", "verify", str(run)]) == 4
    assert main(["report", str(run)]) == 0
    assert page.read_bytes() == before
    assert main(["certificate", "verify", str(run)]) == 0


@pytest.mark.slow
def test_a_changed_release_gets_no_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "release" / "adapter" / "adapter_model.safetensors").write_bytes(b"others")
    before = (run / "release" / "certificate.json").read_bytes()
    with pytest.raises(VerificationError, match="was changed"):
        report(run)
    assert not (run / "release" / "report.html").exists()
    assert (run / "release" / "certificate.json").read_bytes() == before


def test_the_same_call_again_changes_nothing_and_keeps_the_signature(shown: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in (shown / "release").rglob("*")}
    report(shown)
    assert {path: path.stat().st_mtime_ns for path in (shown / "release").rglob("*")} == files


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["names", "captions", "picture"])
def test_guarantee_nothing_private_gets_into_a_page(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private word, and a private image, are put where the page takes its facts from."""
    run = make_run(tmp_path / "run", names=("CANARY-patient-7", "b"), images=4)
    traces = Traces(names=set(), ids=set(), paths=set())
    if kind == "picture":
        traces.add_pixels(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8))
    else:
        getattr(traces, kind).add("CANARY-patient-7" if kind == "names" else "base <b>")
    traces.save(run / "private" / TRACES)
    monkeypatch.setattr("dp_diffusers.release._public_words", lambda certificate: [])
    with pytest.raises(VerificationError, match=r"nothing was certified: report\.html holds"):
        report(run)
    assert not (run / "release" / "report.html").exists()
    assert dpd.Certificate.verify(run / "release").valid


@pytest.mark.slow
def test_a_report_that_is_not_certified_leaves_the_release_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    report(run)
    before = {path: path.read_bytes() for path in (run / "release").rglob("*") if path.is_file()}
    score(run)
    with monkeypatch.context() as patched:
        patched.setattr("dp_diffusers.release.require_no_leak", _refuse)
        with pytest.raises(VerificationError):
            report(run, scores=True)
    assert {path: path.read_bytes() for path in (run / "release").rglob("*") if path.is_file()} == before


def _refuse(*_: Any, **__: Any) -> None:
    raise VerificationError("no")


@pytest.mark.slow
def test_class_names_and_bases_are_escaped(shown: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other <i>")
    for text in (
        (shown / "release" / "report.html").read_text(),
        report(shown, out=tmp_path / "with-scores.html").read_text(),
        report(shown, other, out=tmp_path / "two.html").read_text(),
    ):
        assert HOSTILE not in text
        assert "base <b>" not in text
        assert "&lt;script&gt;alert(" in text
        assert problems(text) == []


def test_a_run_without_privacy_says_so_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", private=False)
    page = Page(report(run).read_text())
    assert page.text.strip().startswith("NOT PRIVATE")
    assert "alarm" in [each.get("class") for each in page.all("p")]
    assert page.text.index("NOT PRIVATE") < page.text.index("What is promised")
    assert "The bound holds" not in page.text
    assert "Before you say yes" not in page.text


def test_what_to_ask_follows_from_the_unit(shown: Path) -> None:
    facts = Report.of(shown)
    assert "an image, not a person" in facts.to_html()
    patients = replace(facts, certificate={**facts.certificate, "unit": "patient_id"})
    assert "<code>patient_id</code> names each person once" in patients.to_html()
    voted = [{**dict(entry), "name": "pe"} for entry in facts.certificate["mechanisms"]]
    evolved = replace(facts, certificate={**facts.certificate, "mechanisms": voted})
    assert "Fine-tuned" not in evolved.to_html()


def test_the_words_are_those_of_the_certificate(shown: Path) -> None:
    known = dpd.Certificate.read(shown / "release")
    text = " ".join(Page((shown / "release" / "report.html").read_text()).text.split())
    for sentence in [entry["answer"] for entry in known.statements]:
        assert sentence in text
    for sentence in known.assumptions:
        assert sentence in text
    assert known.epsilon is not None
    assert rounded_up_text(known.epsilon) in text
    assert str(known.mechanisms[0]["noise_multiplier"])[:6] in text


def test_spending_ends_at_the_certified_epsilon_and_never_falls(shown: Path) -> None:
    found = Report.of(shown).spending
    assert found is not None
    assert found.epsilons[-1] == found.epsilon == dpd.Certificate.read(shown / "release").epsilon
    assert list(found.epsilons) == sorted(found.epsilons)
    assert (found.epsilons[0], found.shares[-1], found.cap) == (0.0, 1.0, 3.0)
    page = Report.of(shown).to_html()
    assert "of the cap, this run alone" not in page, "it is at another delta than the cap may be"
    assert "ε step by step, at δ 0.001" in page
    told = r"stood at ε [\d.]+ at δ 0\.001 when this run ended, [\d.]+ % of its cap of ε 3 at δ 0\.001"
    assert re.search(told, page)
    assert "cap of the ledger: 3</text>" in page


def test_a_total_at_another_delta_is_told_and_not_drawn(shown: Path) -> None:
    facts = Report.of(shown)
    assert facts.spending is not None
    facts.__dict__["spending"] = replace(facts.spending, cap_delta=9e-3, spent_delta=9e-3)
    page = facts.to_html()
    assert "of its cap of ε 3 at δ 0.009" in page
    assert "cap of the ledger: 3</text>" not in page
    assert "the cap of the ledger is 3 at delta 0.009" in page
    facts.__dict__["spending"] = replace(facts.spending, cap_delta=None, spent_delta=None)
    assert "of its cap of ε 3 at a δ that is not stated" in facts.to_html()


def test_guarantee_no_page_shows_less_than_the_bound(shown: Path) -> None:
    facts = Report.of(shown)
    assert facts.spending is not None
    certificate = {**facts.certificate, "epsilon": 1.23434, "ledger": {"spent_epsilon": 1.67034}}
    low = replace(facts, certificate=certificate)
    low.__dict__["spending"] = replace(
        facts.spending, epsilon=1.23434, spent=1.67034, shares=(0.0, 1.0), epsilons=(0, 1.23434)
    )
    assert "1.671" in low.to_html()
    for page in (low.to_html(), compared([low, low]).to_html()):
        text = re.sub(r'data-value="[^"]*"', "", page)
        assert "1.235" in text
        assert not re.search(r"\b1\.(23|234|2343|67|670|6703)\b", text)


def test_guarantee_no_number_of_a_certificate_promises_more_than_there_is() -> None:
    assert told(2.29944446, "epsilon") == "2.29945"
    assert told(0.00012344446, "ledger: spent_delta") == "0.000123445"
    assert told(1.23456789, "dpsgd: noise_multiplier") == "1.23456"
    assert (told(1.23456789, "clip_norm"), told(7, "epsilon"), told("sum", "rule")) == ("1.23457", "7", "sum")


def test_beliefs_are_bayes() -> None:
    for prior in (0.01, 0.5):
        odds = prior / (1 - prior) * np.exp(2.0)
        assert belief_after(prior, 2.0) == pytest.approx(odds / (1 + odds))


@pytest.mark.slow
def test_a_comparison_says_what_does_not_compare(shown: Path, tmp_path: Path) -> None:
    open_run = make_run(tmp_path / "open", private=False)
    page = Page(report(shown, open_run, out=tmp_path / "two.html").read_text())
    assert "NOT PRIVATE: B (open)" in page.text
    assert "noise_multiplier" in page.text
    with pytest.raises(ParameterError, match="belongs to no release"):
        report(shown, open_run)


@pytest.mark.slow
def test_a_page_goes_into_no_other_release_either(shown: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other")
    for name in ("page.html", "images/page.html", "new/page.html"):
        with pytest.raises(ParameterError, match="lies in a release"):
            report(shown, out=other / "release" / name)
    assert dpd.Certificate.verify(other / "release").valid


def test_what_is_wrong_with_an_out_is_said_before_anything_is_verified(
    shown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_require_valid", lambda release: pytest.fail("verified first"))
    for out in (shown / "release" / "page.html", tmp_path / "page.txt"):
        with pytest.raises(ParameterError):
            report(shown, out=out)
    with pytest.raises(ParameterError, match="belongs to no release"):
        report(shown, shown)
    with pytest.raises(InputError, match="cannot read"):
        report(shown, out=tmp_path / "page.html", audit=tmp_path / "none")


def test_a_comparison_computes_no_curve(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "spending_of", lambda certificate: pytest.fail("computed"))
    one = Report.of(shown)
    assert "2 releases compared" in compared([one, one]).to_html()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["release/other.html", "page.txt"])
def test_a_page_goes_nowhere_that_would_break_a_release(shown: Path, name: str) -> None:
    with pytest.raises(ParameterError):
        report(shown, out=shown / name)
    assert dpd.Certificate.verify(shown / "release").valid


@pytest.mark.slow
def test_images_in_folders_many_classes_and_large_ones_stay_small(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        images=300,
        side=200,
        names=tuple(f"c{place}" for place in range(30)),
        format="imagefolder",
    )
    found = Report.of(run)
    assert found.pictures is not None
    assert (len(found.pictures.classes), found.pictures.all_classes, found.pictures.count) == (24, 30, 300)
    assert ("images/…", None) in found.files
    assert problems(found.to_html()) == []
    assert "The first 24 classes of 30." in Page(found.to_html()).text


@pytest.mark.slow
def test_a_list_of_images_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=("a", "b"), format="imagefolder")
    (tmp_path / "private.png").write_bytes(b"x")
    listing = run / "release" / "images" / "metadata.csv"
    listing.write_text(listing.read_text().replace("a/000000.png", "../../../private.png"))
    with pytest.raises(VerificationError, match="lies outside"):
        Report.of(run)


@pytest.mark.slow
def test_notebooks_show_a_page_in_a_frame(shown: Path) -> None:
    for shown_in_cell in (Report.of(shown), dpd.Release.open(shown)):
        (frame,) = Page(shown_in_cell._repr_html_()).all("iframe")
        assert (frame["srcdoc"] or "").startswith("<!doctype html>")
    document: dict[str, Any] = Report.of(shown, scores=True).to_dict()
    json.dumps(document)
    assert document["scores"]["rows"][0]["mean"] == 91.25


@pytest.mark.planted
@pytest.mark.parametrize(
    "defect",
    [
        '<img src="https://example.org/x.png" alt="x">',
        '<img src="data:,">',
        "<h5>deep</h5>",
        "<th>bare</th>",
        '<div class="scroll"></div>',
    ],
)
def test_planted_defects_of_a_page_are_seen(shown: Path, defect: str) -> None:
    text = (shown / "release" / "report.html").read_text()
    assert problems(text.replace("</main>", f"{defect}</main>"))
