"""A certificate says what plan and ledger say, and `verify` notices everything that does not follow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import dp_accounting
import pytest
from dp_accounting import pld

from certificate_support import consistent, forge, read
from dp_diffusers.errors import (
    DPDiffusersError,
    GuaranteeError,
    ParameterError,
    RunFolderError,
    VerificationError,
)
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.plan import Plan
from dp_diffusers.privacy import certificate as certificate_module
from dp_diffusers.privacy import verification
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.ledger import Ledger

BASE = {"id": "public-digits", "sha256": "0" * 64}
KEYS = [
    *("schema", "software", "unit", "adjacency", "epsilon", "delta", "accountant", "mechanisms", "ledger"),
    *("files", "base_model", "adapter", "not_private", "assumptions", "signature"),
]


def make_files(folder: Path) -> None:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "README.md").write_text("card")


def drafted(plan: Plan, lane: bytes, *, charged: int = 30, not_private: bool = False) -> Certificate:
    with Ledger.open(":memory:") as ledger:
        account = ledger.reserve(plan)
        account.open_lane(SimpleNamespace(lane=lane, not_private=not_private))
        for step in range(charged):
            account.charge(step)
        account.settle(unseen=charged < 30)
        return Certificate.draft(
            plan=plan, account=account, base_model=BASE, adapter={"trainable_parameters": 12}
        )


@pytest.fixture(scope="module")
def draft(plan: Plan) -> Certificate:
    return drafted(plan, b"0123456789abcdef")


@pytest.fixture
def release(tmp_path: Path, draft: Certificate) -> Path:
    make_files(tmp_path / "release")
    draft.issue(tmp_path / "release")
    return tmp_path / "release"


def test_schema_1(release, plan):
    document = read(release)
    assert [key for key in KEYS if key not in document] == []
    assert (document["schema"], document["unit"], document["adjacency"]) == (1, "image", "add_remove")
    assert document["not_private"] is False
    (entry,) = document["mechanisms"]
    assert (entry["name"], entry["steps_planned"], entry["steps_charged"]) == ("dpsgd", 30, 30)
    assert entry["noise_multiplier"] == plan.noise_multiplier
    assert entry["clip_norm"] == 1.0
    assert set(document["ledger"]) >= {"spent_epsilon", "cap_epsilon", "head"}
    assert set(document["files"]) == {
        "README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    assert document["adapter"]["trainable_parameters"] == 12
    assert document["adapter"]["sha256"] == document["files"]["adapter/adapter_model.safetensors"]
    topics = " ".join(document["assumptions"])
    for topic in ("Unit of privacy", "Labels", "Randomness", "Trust", "Side channels", "Floating point"):
        assert topic in topics


def test_a_fresh_release_is_valid(release, plan):
    found = Certificate.verify(release)
    assert found.problems == ()
    assert found.valid
    assert found.epsilon == pytest.approx(plan.epsilon, rel=1e-9)


def test_dp_accounting_alone_gives_the_same_epsilon(release):
    document = read(release)
    (entry,) = document["mechanisms"]
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    gaussian = dp_accounting.GaussianDpEvent(entry["noise_multiplier"])
    sampled = dp_accounting.PoissonSampledDpEvent(entry["sampling_probability"], gaussian)
    accountant.compose(dp_accounting.SelfComposedDpEvent(sampled, entry["steps_charged"]))
    assert accountant.get_epsilon(document["delta"]) == pytest.approx(document["epsilon"], rel=0.01)


def test_verifying_needs_no_torch(release):
    code = (
        "import sys; from dp_diffusers.privacy.certificate import Certificate; "
        "found = Certificate.verify(sys.argv[1]); assert found.valid, found.problems; "
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    outcome = subprocess.run([sys.executable, "-c", code, str(release)], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


def change_nothing_but(document: dict, path: str, value: object) -> None:
    *parents, last = path.split("/")
    for part in parents:
        document = document[int(part) if part.isdigit() else part]
    document[last] = value


NUMBERS = {
    "epsilon": [0.99, 1.2, None, "1", float("nan")],
    "delta": [1e-6, 1e-3, 0.0, None],
    "mechanisms": [[], [{"name": "laplace"}], [{}], 3],
    "mechanisms/0/steps_charged": [29, 31, 0, 10**12, "30", None],
    "mechanisms/0/noise_multiplier": [9.0, 0.01, 0, "x", None],
    "mechanisms/0/sampling_probability": [0.05, 0.2, 1.7, None],
    "mechanisms/0/expected_units": [501, 0, "x"],
    "mechanisms/0/population": [10**6, 499, 0],
    "ledger/spent_epsilon": [9.0, None, "x"],
    "ledger/head": [None, "abc"],
    "ledger": [{}, None],
    "base_model": [{}, []],
    "adapter": [{"sha256": "0" * 64}],
    "adjacency": ["replace", None, 3],
    "schema": [2, None],
    "files": [{}, []],
    "not_private": [True, "no"],
    "assumptions": [None],
}
FALSEHOODS = [(path, value) for path, values in NUMBERS.items() for value in values]


@pytest.mark.parametrize(("path", "value"), FALSEHOODS, ids=lambda value: str(value))
def test_guarantee_numbers_that_do_not_follow(release, path, value):
    document = read(release)
    change_nothing_but(document, path, value)
    forge(release, document)
    found = Certificate.verify(release)
    assert not found.valid
    assert found.problems
    assert all("\n" not in problem for problem in found.problems)


@pytest.mark.planted
def test_planted_verification_that_believes_the_claim(release, monkeypatch):
    document = read(release)
    document["epsilon"] = 0.5
    forge(release, consistent(document))
    assert not Certificate.verify(release).valid
    monkeypatch.setattr(verification.accountant, "epsilon", lambda *_, **__: 0.5)
    assert Certificate.verify(release).valid, "only the recomputation stands between the claim and validity"


def test_guarantee_numbers_on_which_the_accountants_disagree_are_no_certificate(release, plan, monkeypatch):
    monkeypatch.setattr(verification.accountant, "epsilon_rdp", lambda *_: 0.1)
    found = Certificate.verify(release)
    assert not found.valid
    assert "the accountants disagree" in found.problems[0]
    with pytest.raises(DPDiffusersError, match="the accountants disagree"):
        drafted(plan, b"0123456789abcdef")


def test_guarantee_files(release):
    weights = release / "adapter" / "adapter_model.safetensors"
    cases = {
        "adapter/adapter_model.safetensors was changed": lambda: weights.write_bytes(b"other"),
        "adapter/adapter_model.safetensors is missing": weights.unlink,
        "extra.txt is not listed in the certificate": lambda: (release / "extra.txt").touch(),
        "README.md is not a plain file": lambda: (
            (release / "README.md").unlink(),
            (release / "README.md").symlink_to("/etc/hostname"),
        ),
    }
    for problem, damage in cases.items():
        damage()
        assert problem in Certificate.verify(release).problems


def test_path_out_of_the_release_is_missing(release, tmp_path):
    (tmp_path / "secret").write_text("x")
    document = read(release)
    document["files"]["../secret"] = "0" * 64
    forge(release, document)
    assert "../secret is missing" in Certificate.verify(release).problems


def test_no_certificate_or_a_damaged_one(tmp_path):
    assert not Certificate.verify(tmp_path / "nowhere").valid
    for text in ("", "[]", '{"schema": 1}', "\x00"):
        (tmp_path / "certificate.json").write_text(text)
        found = Certificate.verify(tmp_path)
        assert (found.valid, found.epsilon) == (False, None)
        assert found.problems


def test_reissue_adds_and_refuses_changes(release):
    certificate = Certificate.from_json((release / "certificate.json").read_text())
    (release / "images").mkdir()
    (release / "images" / "0.parquet").write_bytes(b"images")
    added = certificate.reissue(release, replaced=["images"])
    assert "images/0.parquet" in added.files
    assert Certificate.verify(release).valid
    assert added.reissue(release) == added
    (release / "images" / "0.parquet").write_bytes(b"others")
    with pytest.raises(VerificationError, match=r"images/0\.parquet was changed"):
        added.reissue(release)
    added.reissue(release, replaced=["images"])
    assert Certificate.verify(release).valid
    (release / "README.md").unlink()
    with pytest.raises(VerificationError, match="README"):
        added.reissue(release, replaced=["images"])


@pytest.mark.slow
def test_guarantee_what_was_scanned_without_traces_is_said_until_a_scan_with_them(release):
    certificate = Certificate.read(release)
    (promise,) = [line for line in certificate.assumptions if line.startswith("Leak scan: ")]
    assert "the release was compared with the private images before it was certified" in promise
    for name in ("images", "report.html"):
        (release / name).write_bytes(b"more")
        certificate = certificate.after_scan(name, with_traces=False).reissue(release, replaced=[name])
    assert certificate.to_dict()["scanned_without_traces"] == ["images", "report.html"]
    (said,) = [line for line in certificate.assumptions if line.startswith("Leak scan: ")]
    assert "left to compare with when this was added: images and report.html." in said
    assert Certificate.verify(release).problems == ()
    forge(release, {**certificate.to_dict(), "scanned_without_traces": ["images"]})
    assert "do not follow" in " ".join(Certificate.verify(release).problems)
    for wrong in (["adapter.zip"], "images", [1], None, {}, [], ["images", "images"]):
        forge(release, {**certificate.to_dict(), "scanned_without_traces": wrong})
        assert "scanned_without_traces names what" in " ".join(Certificate.verify(release).problems)
    again = certificate.after_scan("images", with_traces=True)
    assert "scanned_without_traces" not in again.to_dict()
    assert promise in again.assumptions


def test_guarantee_sentences_of_another_version_are_not_put_right(release):
    """It still says what it said, and nothing is issued that no version verifies."""
    document = read(release)
    other = Certificate.from_dict(
        {**document, "software": "dp-diffusers 0.0.9", "assumptions": ["Other: words."]}
    )
    assert other.after_scan("images", with_traces=True) == other
    with pytest.raises(VerificationError, match=r"it names dp-diffusers 0\.0\.9") as refused:
        other.after_scan("images", with_traces=False)
    assert "private folder" in refused.value.hint
    named = Certificate.from_dict({**other.to_dict(), "scanned_without_traces": ["images"]})
    assert named.after_scan("images", with_traces=True) == named, "which stays true, if it says too little"


STRAYS = ("notes.txt", "adapter/patients.csv", "images2/0.png", "images.txt", ".hidden", "empty/")


@pytest.mark.parametrize("stray", STRAYS)
def test_guarantee_what_nobody_announced_is_not_certified(release, stray):
    certificate, before = Certificate.read(release), (release / "certificate.json").read_bytes()
    (release / "images").mkdir()
    (release / "images" / "0.parquet").write_bytes(b"images")
    path = release / stray
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if stray.endswith("/") else path.write_text("patient 17")
    with pytest.raises(VerificationError, match=f"{stray.rstrip('/')} is not listed") as caught:
        certificate.reissue(release, replaced=["images"])
    assert "move it away" in caught.value.hint
    assert (release / "certificate.json").read_bytes() == before


@pytest.mark.planted
def test_planted_certificate_of_whatever_lies_there(release, monkeypatch):
    certificate = Certificate.read(release)
    (release / "notes.txt").write_text("patient 17")
    monkeypatch.setattr(certificate_module, "unlisted", lambda folder, listed: [])
    assert "notes.txt" in certificate.reissue(release).files, "a stray file would be certified"


def test_what_the_check_refuses_is_not_issued(release):
    certificate, before = Certificate.read(release), (release / "certificate.json").read_bytes()
    seen = []

    def check(text):
        seen.append(text)
        raise VerificationError("no")

    for issue in (certificate.issue, certificate.reissue):
        with pytest.raises(VerificationError, match="no"):
            issue(release, check=check)
    assert seen == [before.decode()] * 2
    assert (release / "certificate.json").read_bytes() == before


def test_links_are_not_certified(tmp_path, draft):
    make_files(tmp_path / "release")
    (tmp_path / "release" / "link").symlink_to("README.md")
    with pytest.raises(RunFolderError, match="link"):
        draft.issue(tmp_path / "release")


def test_round_trip_keeps_fields_of_later_versions(draft):
    document = {**draft.to_dict(), "added_later": {"x": 1}}
    again = Certificate.from_json(json.dumps(document))
    assert again.to_dict() == document
    with pytest.raises(ParameterError, match="schema 1"):
        Certificate.from_json(json.dumps({**document, "schema": 2}))


def test_redone_and_given_up_steps_are_what_was_charged(plan):
    fewer = drafted(plan, b"0123456789abcdef", charged=10)
    assert fewer.mechanisms[0]["steps_charged"] == 10
    assert 0 < fewer.epsilon < 0.8 * plan.epsilon


def test_test_keys_make_it_not_private(plan, tmp_path):
    certificate = drafted(plan, b"0123456789abcdef", not_private=True)
    assert certificate.not_private
    assert certificate.epsilon is None
    assert "keys for tests" in certificate.assumptions[0]
    make_files(tmp_path / "release")
    certificate.issue(tmp_path / "release")
    assert Certificate.verify(tmp_path / "release").valid


def test_without_privacy(tmp_path):
    plan = Plan.calibrate(None, NonPrivate(steps=3, expected_units=2, population=10))
    certificate = Certificate.draft(
        plan=plan, account=None, base_model=BASE, adapter={"trainable_parameters": 1}
    )
    make_files(tmp_path / "release")
    document = certificate.issue(tmp_path / "release").to_dict()
    assert (document["not_private"], document["epsilon"], document["mechanisms"][0]["name"]) == (
        True,
        None,
        "none",
    )
    assert Certificate.verify(tmp_path / "release").valid


def test_drafts_that_could_say_too_little_are_refused(plan):
    facts = {"base_model": BASE, "adapter": {"trainable_parameters": 1}}
    with pytest.raises(GuaranteeError, match="without its ledger"):
        Certificate.draft(plan=plan, account=None, **facts)
    with Ledger.open(":memory:") as ledger:
        account = ledger.reserve(plan)
        with pytest.raises(GuaranteeError, match="not settled"):
            Certificate.draft(plan=plan, account=account, **facts)
        account.settle()
        with pytest.raises(GuaranteeError, match="charged nothing"):
            Certificate.draft(plan=plan, account=account, **facts)
