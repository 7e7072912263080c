"""`certificate keygen`, `sign` and `verify --public-key` on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dp_diffusers.cli import certificates
from dp_diffusers.cli.main import main
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.run.folder import RunFolder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "release"
    (tmp_path / "run" / "private").mkdir(parents=True)
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    plan = Plan.calibrate(None, NonPrivate(steps=1, expected_units=1, population=3))
    facts = {"base_model": {"id": "base", "sha256": "0" * 64}, "adapter": {"trainable_parameters": 1}}
    Certificate.draft(plan=plan, account=None, **facts).issue(folder)
    return folder


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_key_signs_and_its_public_part_verifies(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, public = tmp_path / "officer", tmp_path / "officer.pub"
    assert called(capsys, "certificate", "keygen", key)[0] == 0
    code, _, said = called(capsys, "certificate", "keygen", key)
    assert (code, "is there already" in said) == (2, True)
    assert called(capsys, "certificate", "verify", release, "--public-key", public)[0] == 4
    code, out, _ = called(capsys, "certificate", "sign", release.parent, "--key", key, "--json")
    assert code == 0
    document = json.loads(out)
    signer = document["public_key"]
    assert (document["not_private"], document["epsilon"]) == (True, None)
    code, out, _ = called(capsys, "certificate", "sign", release, "--key", key)
    promised, signed, _ = out.splitlines()
    assert promised == called(capsys, "certificate", "verify", release)[1].splitlines()[1]
    assert promised.startswith("NOT PRIVATE: "), "a signature names what it is under"
    assert signed.startswith("signed with the key ")
    code, out, _ = called(capsys, "certificate", "verify", release, "--public-key", public, "--json")
    document = json.loads(out)
    assert (code, document["signed_by"], document["signer_known"]) == (0, signer, True)
    code, out, _ = called(capsys, "certificate", "verify", release)
    assert code == 0
    assert "by whom is open" in out
    assert key.read_text().splitlines()[1] not in out


def test_the_wrong_signer_is_a_negative_verdict(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        called(capsys, "certificate", "keygen", tmp_path / name)
    called(capsys, "certificate", "sign", release, "--key", tmp_path / "one")
    code, out, said = called(capsys, "certificate", "verify", release, "--public-key", tmp_path / "two.pub")
    assert (code, out) == (4, "not valid\n")
    assert "signed with another key" in said
    assert called(capsys, "certificate", "sign", release, "--key", tmp_path / "none")[0] == 2
    (release / "more").touch()
    assert called(capsys, "certificate", "sign", release, "--key", tmp_path / "one")[0] == 4
    (release / "more").unlink()
    assert called(capsys, "certificate", "verify", release, "--public-key", tmp_path / "none")[0] == 2


def nested(release: Path) -> Path:
    """A changed release that carries its signed original where a run folder has its release."""
    original = shutil.copytree(release, release.parent / "original")
    (release / "adapter" / "adapter_model.safetensors").write_bytes(b"of a forger")
    original.rename(release / "release")
    return release


@pytest.mark.parametrize("disguise", ["private", "recipe.yaml"])
def test_guarantee_the_release_that_is_named_is_the_one_that_is_verified(
    release: Path, tmp_path: Path, disguise: str, capsys: pytest.CaptureFixture[str]
) -> None:
    called(capsys, "certificate", "keygen", tmp_path / "key")
    called(capsys, "certificate", "sign", release, "--key", tmp_path / "key")
    forged = nested(release)
    (forged / disguise).mkdir() if disguise == "private" else (forged / disguise).touch()
    with_key = ("--public-key", tmp_path / "key.pub")
    code, out, said = called(capsys, "certificate", "verify", forged, *with_key, "--json")
    assert (code, json.loads(out)["release"]) == (4, str(forged))
    assert not Certificate.verify(forged).valid
    assert "adapter/adapter_model.safetensors was changed" in said
    assert called(capsys, "certificate", "sign", forged, "--key", tmp_path / "key")[0] == 4
    code, out, _ = called(capsys, "certificate", "verify", forged.parent, *with_key)
    assert (code, out) == (4, "not valid\n")


def test_a_folder_that_is_no_run_is_not_looked_into(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = called(capsys, "certificate", "verify", release.parent)
    assert (code, out.splitlines()[-1]) == (0, f"release: {release}")
    assert Certificate.verify(release.parent).valid, "Python takes a run folder as well"
    (release.parent / "private").rmdir()
    assert called(capsys, "certificate", "verify", release.parent)[0] == 4
    assert not Certificate.verify(release.parent).valid
    (release.parent / "recipe.yaml").touch()
    assert called(capsys, "certificate", "verify", release.parent)[0] == 0
    (release.parent / "certificate.json").symlink_to("nowhere")
    assert called(capsys, "certificate", "verify", release.parent)[0] == 4


@pytest.mark.parametrize("left", ["nothing", "an adapter", "no folder"])
def test_a_run_that_has_not_finished_has_no_verdict(
    release: Path, left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, certificate = release.parent, release / "certificate.json"
    certificate.unlink() if left == "an adapter" else shutil.rmtree(release)
    if left == "nothing":
        release.mkdir()
    (run / "private" / "run.json").write_text("{}")
    for verb in (("verify",), ("sign", "--key", "none")):
        code, out, said = called(capsys, "certificate", verb[0], run, *verb[1:])
        assert (code, out) == (2, "")
        assert "has not finished" in said
        assert "hint: `dp-diffusers train` with its recipe" in said
    (run / "private" / "run.json").write_text('{"done": true}')
    code, out, _ = called(capsys, "certificate", "verify", run)
    assert (code, out) == (4, "not valid\n"), "a certificate that was taken away is no unfinished training"


def test_the_hint_of_a_folder_within_a_release_names_the_release(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (release / "images" / "data").mkdir(parents=True)
    for inside in ("images", "images/data", "adapter"):
        code, _, said = called(capsys, "certificate", "verify", release / inside)
        assert code == 4
        assert f"hint: {release / inside} lies in a release: verify {release}" in said


def test_the_hint_of_a_merged_model_is_the_release_that_is_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "merged_from.json").write_text("{}")
    code, _, said = called(capsys, "certificate", "verify", tmp_path / "merged")
    assert code == 4
    assert "hint: a merged model has no certificate: verify the release that it was made from" in said


@pytest.mark.parametrize(("verb", "past"), [("settle", "settled"), ("abandon", "abandoned")])
def test_a_run_that_was_closed_is_not_sent_to_train(
    tmp_path: Path, verb: str, past: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = tmp_path / "our data.ledger", RunFolder(tmp_path / "run")
    plan = Plan.calibrate(Budget(1.0, 1e-4), DPSGD(steps=2, expected_units=500, population=1000))
    with Ledger.open(path) as ledger:
        account = ledger.reserve(plan, run_id="mine")
        account.open_lane(RunKeys.fresh())
        account.charge(0)
    run.create()
    run.write("run.json", {"run_id": "mine"})
    run.recipe.write_text(f"base: b\nbudget: {{ledger: {path}}}\n")
    assert "begins, or goes on with it" in called(capsys, "certificate", "verify", run.root)[2]
    with Ledger.open(path) as ledger:
        getattr(ledger, verb)("mine", stopped_elsewhere=True)
    before = path.read_bytes()
    code, out, said = called(capsys, "certificate", "verify", run.root)
    assert (code, out) == (2, "")
    assert f"was {past} in the ledger {path} after 1 of 2 steps" in said
    assert "another --out" in said
    assert "goes on with it" not in said
    assert path.read_bytes() == before
    run.recipe.write_text("base: b\n")  # of a call in Python: nobody knows its ledger
    assert "unless it was closed in its ledger" in called(capsys, "certificate", "verify", run.root)[2]


@pytest.mark.planted
def test_planted_release_within_a_release(
    release: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = nested(release)
    assert called(capsys, "certificate", "verify", forged)[0] == 4
    monkeypatch.setattr(certificates, "_release", lambda path: path / "release")
    code, out, _ = called(capsys, "certificate", "verify", forged)
    assert (code, out.splitlines()[0]) == (0, "valid"), "the original would answer for the forgery"


@pytest.mark.parametrize("place", ["key", "adapter/key", "keys/deeper/key"])
def test_guarantee_no_key_is_made_in_a_release(
    release: Path, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (release / "keys" / "deeper").mkdir(parents=True)
    for path in (release / place, release.parent / "keys" / ".." / "release" / place):
        code, _, said = called(capsys, "certificate", "keygen", path)
        assert (code, "lies in the release" in said) == (2, True)
    monkeypatch.chdir((release / place).parent)
    assert called(capsys, "certificate", "keygen", "key")[0] == 2
    assert not list(release.rglob("key*.pub"))


def test_guarantee_a_certificate_writes_no_lines_of_its_own_on_a_terminal(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (release / "a\nvalid\x1b[8m").write_text("not listed")
    code, out, said = called(capsys, "certificate", "verify", release)
    assert (code, out.splitlines()) == (4, ["not valid"])
    assert r"a\nvalid\x1b[8m is not listed" in said
    assert "hint: only what was certified belongs in a release" in said
    assert "\x1b[8m" not in said
