"""`certificate keygen`, `sign` and `verify --public-key` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dp_diffusers.cli.main import main
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.certificate import Certificate


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "release"
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
    signer = json.loads(out)["public_key"]
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
