"""Signatures of certificates: against OpenSSL's command line, and with every way to get the signer wrong."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from certificate_support import forge, read
from dp_diffusers.errors import InputError, ParameterError, VerificationError
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.plan import Plan
from dp_diffusers.privacy import signature
from dp_diffusers.privacy.canonical import canonical_json
from dp_diffusers.privacy.certificate import Certificate

BASE = {"id": "base", "sha256": "0" * 64}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release without privacy: nothing has to be computed again."""
    folder = tmp_path / "release"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    plan = Plan.calibrate(None, NonPrivate(steps=1, expected_units=1, population=3))
    facts = {"base_model": BASE, "adapter": {"trainable_parameters": 1}}
    Certificate.draft(plan=plan, account=None, **facts).issue(folder)
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    signature.generate_key(tmp_path / "key")
    return tmp_path / "key"


def sign(release: Path, key: Path) -> Certificate:
    return Certificate.read(release).sign(release, key)


def test_keys(key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(signature.public_key_in(Path(f"{key}.pub"))) == 64
    for taken in (key, key.with_suffix(".other")):
        Path(f"{taken}.pub").touch()
        before = key.read_bytes()
        with pytest.raises(ParameterError, match="is there already"):
            signature.generate_key(taken)
        assert key.read_bytes() == before
    assert not key.with_suffix(".other").exists()


def test_a_signed_release_is_valid_and_its_signer_known(release: Path, key: Path) -> None:
    signed = sign(release, key)
    assert Certificate.read(release) == signed
    found = Certificate.verify(release)
    assert (found.valid, found.signer_known) == (True, False)
    assert "unknown key" in found.explain()
    found = Certificate.verify(release, public_key=f"{key}.pub")
    assert (found.valid, found.signer_known) == (True, True)
    assert found.explain().endswith("signed with the key that was given")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_openssl_agrees(release: Path, key: Path, tmp_path: Path) -> None:
    sign(release, key)
    document = read(release)
    value = document.pop("signature")["value"]
    (tmp_path / "message").write_text(canonical_json(document))
    (tmp_path / "value").write_bytes(bytes.fromhex(value))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", f"{key}.pub", "-rawin"]
    command += ["-in", str(tmp_path / "message"), "-sigfile", str(tmp_path / "value")]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    (tmp_path / "message").write_text(canonical_json({**document, "software": "other"}))
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_guarantee_the_signer(release: Path, key: Path, tmp_path: Path) -> None:
    """Each way in which the certificate is not the signer's is a problem."""
    signature.generate_key(tmp_path / "other")
    expected = f"{key}.pub"
    assert Certificate.verify(release, public_key=expected).problems == ("the certificate is not signed",)
    sign(release, tmp_path / "other")
    problems = Certificate.verify(release, public_key=expected).problems
    assert problems == ("the certificate is signed with another key",)
    sign(release, key)
    document = read(release)
    forge(release, {**document, "software": "other"})  # the digest fits, the signature is of before
    for public in (expected, None):
        assert (
            "the signature does not belong to this certificate"
            in Certificate.verify(release, public_key=public).problems
        )
    claimed = {
        **document["signature"],
        "public_key": signature.public_key_in(tmp_path / "other.pub"),
    }
    forge(release, {**document, "signature": claimed})
    assert not Certificate.verify(release).valid


@pytest.mark.planted
def test_planted_signature_that_nobody_checks(
    release: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(release, key)
    forge(release, {**read(release), "software": "other"})
    assert not Certificate.verify(release, public_key=f"{key}.pub").valid
    monkeypatch.setattr(signature, "_holds", lambda document, given: True)
    assert Certificate.verify(release, public_key=f"{key}.pub").valid


def malformed(whole: dict[str, str]) -> Iterator[object]:
    yield from ("ed25519", [], {}, 3)
    yield from ({**whole, name: value} for name in whole for value in (None, "", "zz", whole[name] + "0"))
    yield {**whole, "value": whole["value"].upper()}
    yield {**whole, "comment": "approved"}
    yield dict(reversed(whole.items()))


def test_signatures_of_no_known_form_are_damaged(release: Path, key: Path) -> None:
    sign(release, key)
    document = read(release)
    for value in malformed(document["signature"]):
        forge(release, {**document, "signature": value})
        found = Certificate.verify(release)
        assert not found.valid, value
        assert found.problems


def test_adding_files_drops_the_signature(release: Path, key: Path) -> None:
    signed = sign(release, key)
    (release / "images").write_bytes(b"x")
    assert signed.reissue(release, replaced=["images"]).signature is None
    assert Certificate.verify(release).valid


def test_only_what_verifies_is_signed(release: Path, key: Path) -> None:
    certificate = Certificate.read(release)
    (release / "more").touch()
    with pytest.raises(VerificationError, match="more is not listed"):
        certificate.sign(release, key)
    (release / "more").unlink()
    inside = shutil.copy(key, release / "key")
    with pytest.raises(ParameterError, match="lies in the release"):
        certificate.sign(release, inside)


def test_encrypted_keys_take_their_passphrase_from_the_environment(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(signature.PASSPHRASE, "open sesame")
    signature.generate_key(tmp_path / "locked")
    assert b"ENCRYPTED" in (tmp_path / "locked").read_bytes()
    sign(release, tmp_path / "locked")
    assert Certificate.verify(release, public_key=tmp_path / "locked.pub").valid
    monkeypatch.setenv(signature.PASSPHRASE, "wrong")
    with pytest.raises(InputError, match="cannot be opened with this passphrase"):
        sign(release, tmp_path / "locked")
    monkeypatch.delenv(signature.PASSPHRASE)
    with pytest.raises(InputError, match="is encrypted") as caught:
        sign(release, tmp_path / "locked")
    assert signature.PASSPHRASE in str(caught.value.hint)


def test_keys_that_are_none(release: Path, key: Path, tmp_path: Path) -> None:
    elliptic = ec.generate_private_key(ec.SECP256R1())
    private = elliptic.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    public = elliptic.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    raw = Ed25519PrivateKey.generate().private_bytes_raw()
    for content in (private, b"", raw, b"-----BEGIN PRIVATE KEY-----", Path(f"{key}.pub").read_bytes()):
        (tmp_path / "no key").write_bytes(content)
        with pytest.raises(InputError):
            sign(release, tmp_path / "no key")
    for content in (public, b"", key.read_bytes()):
        (tmp_path / "no key").write_bytes(content)
        with pytest.raises(InputError):
            Certificate.verify(release, public_key=tmp_path / "no key")
    with pytest.raises(InputError, match="cannot read the key"):
        sign(release, tmp_path / "nowhere")
