"""No byte of a release changes unseen: each of the certificate's, and some of every other file."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from certificate_support import consistent, forge, read
from dp_diffusers.errors import VerificationError
from dp_diffusers.plan import Plan
from dp_diffusers.privacy import certificate_text, verification
from dp_diffusers.privacy.assumptions import assumptions_of
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.signature import generate_key
from dp_diffusers.privacy.statements import statements_of

FILES = {
    "adapter/adapter_model.safetensors": bytes(range(256)) * 8,
    "adapter/adapter_config.json": b'{"r": 8}',
    "images/data/train-00000-of-00001.parquet": os.urandom(700),
    "README.md": b"card\n",
}


@pytest.fixture(scope="module")
def issued(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that is never written to."""
    release = tmp_path_factory.mktemp("issued") / "release"
    for name, content in FILES.items():
        (release / name).parent.mkdir(parents=True, exist_ok=True)
        (release / name).write_bytes(content)
    with Ledger.open(":memory:") as ledger:
        account = ledger.reserve(plan)
        account.open_lane(SimpleNamespace(lane=b"0123456789abcdef", not_private=False))
        for step in range(plan.mechanism.steps):
            account.charge(step)
        account.settle()
        base = {"id": "public-digits", "sha256": "0" * 64}
        draft = Certificate.draft(
            plan=plan, account=account, base_model=base, adapter={"trainable_parameters": 12}
        )
    draft.issue(release)
    return release


@pytest.fixture
def release(issued: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(issued, tmp_path / "release"))


def flips(content: bytes, masks: Callable[[int], Iterator[int] | list[int]]) -> Iterator[bytes]:
    for place in range(len(content)):
        for mask in masks(place):
            yield content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


def unseen(release: Path, versions: Iterator[bytes], monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The versions of the certificate that pass, by their text alone, whatever numbers and files say."""
    monkeypatch.setattr(verification, "_epsilon", lambda certificate: (certificate.epsilon, []))
    monkeypatch.setattr(verification, "changed", lambda folder, listed: [])
    monkeypatch.setattr(verification, "unlisted", lambda folder, listed: [])
    passing = []
    for version in versions:
        (release / "certificate.json").write_bytes(version)
        if Certificate.verify(release).valid:
            passing.append(version)
    return passing


def one_bit(place: int) -> list[int]:
    return [1 << place % 8]


@pytest.mark.slow
def test_guarantee_every_byte_of_the_certificate(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (release / "certificate.json").read_bytes()
    assert Certificate.verify(release).valid
    some = itertools.islice(flips(content, one_bit), 0, None, 7)  # all of them: the slow test
    assert unseen(release, some, monkeypatch) == []


@pytest.mark.slow
def test_guarantee_every_single_byte_of_the_certificate(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte made another digit, another case of a letter, and no ASCII at all."""
    content = (release / "certificate.json").read_bytes()
    assert unseen(release, flips(content, lambda _: [0x01, 0x20, 0x80]), monkeypatch) == []


@pytest.mark.planted
def test_planted_certificate_without_a_digest(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "problems_of_text", lambda text, document: [])
    monkeypatch.setattr(verification, "_sentences", lambda certificate: [])
    content = (release / "certificate.json").read_bytes()
    sentence = content.index(b"Trust: ")
    changed = content[:sentence] + b"trust: " + content[sentence + 7 :]
    assert unseen(release, iter([changed]), monkeypatch) == [changed], "a changed sentence would pass"


def test_guarantee_every_byte_of_a_signature(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_key(tmp_path / "key")
    Certificate.read(release).sign(release, tmp_path / "key")
    content = (release / "certificate.json").read_bytes()
    start = content.index(b'"signature"')
    assert Certificate.verify(release).signature is not None
    assert (
        unseen(release, (content[:start] + tail for tail in flips(content[start:], one_bit)), monkeypatch)
        == []
    )


def spelled(release: Path) -> dict[str, bytes]:
    """The same document in other spellings, and documents that could be read in two ways."""
    text = (release / "certificate.json").read_text()
    document = json.loads(text)
    swapped = dict(sorted(document.items()))
    return {
        "no indent": json.dumps(document).encode(),
        "windows line ends": text.replace("\n", "\r\n").encode(),
        "old line ends": text.replace("\n", "\r").encode(),
        "no last line end": text[:-1].encode(),
        "one more": (text + "\n").encode(),
        "another order": certificate_text.text_of(swapped).encode(),
        "byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": text.encode("utf-16"),
        "an escape": text.replace("dp-diffusers", "dp\\u002ddiffusers", 1).encode(),
        "another float": text.replace('"delta": 0.0001', '"delta": 1e-4').encode(),
        "a key twice": text.replace('"schema": 1,', '"schema": 1,\n  "schema": 1,').encode(),
        "epsilon twice": text.replace('"epsilon":', '"epsilon": 0.1,\n  "epsilon":').encode(),
        "NaN": text.replace('"delta": 0.0001', '"delta": NaN').encode(),
        "infinite": text.replace('"delta": 0.0001', '"delta": 1e999').encode(),
        "a huge number": text.replace('"schema": 1', '"schema": 1' + "0" * 5000).encode(),
        "deep": b'{"schema": ' + b"[" * 100_000,
        "not an object": b"[1]",
        "nothing": b"",
        "no digest": without(text, f'  "digest": "{document["digest"]}",\n', "").encode(),
        "null digest": without(text, f'"{document["digest"]}"', "null").encode(),
    }


def without(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.slow
def test_guarantee_one_spelling(release: Path) -> None:
    for name, content in spelled(release).items():
        (release / "certificate.json").write_bytes(content)
        found = Certificate.verify(release)
        assert not found.valid, name
        assert all("\n" not in problem for problem in found.problems), name


def test_fields_that_look_like_others_are_refused(release: Path) -> None:
    document = read(release)
    forge(release, {**document, "еpsilon": 0.1})
    assert any("\\u0435psilon" in problem for problem in Certificate.verify(release).problems)
    forge(release, {**document, "of_a_later_version": 0.1})
    assert Certificate.verify(release).valid


@pytest.mark.parametrize("left_out", ["digest", "statements", "signature", "classes", "assumptions"])
def test_guarantee_no_field_may_be_left_out(release: Path, left_out: str) -> None:
    document = {name: value for name, value in read(release).items() if name != left_out}
    if "digest" in document:
        document["digest"] = certificate_text.digest_of(document)
    (release / "certificate.json").write_text(certificate_text.text_of(document))
    (problem,) = Certificate.verify(release).problems
    assert f"{left_out} missing" in problem or problem == f"the certificate's {left_out} is missing"
    if left_out == "digest":  # with all that came with it
        del document["statements"]
        (release / "certificate.json").write_text(certificate_text.text_of(document))
        assert not Certificate.verify(release).valid


SENTENCES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no assumptions": lambda document: document.update(assumptions=[]),
    "no statements": lambda document: document.update(statements=[]),
    "a dearer trust": lambda document: document["assumptions"].append("Trust: nobody."),
    "one left out": lambda document: document["assumptions"].pop(),
    "another unit": lambda document: document["statements"][1].update(answer="One person."),
    "facts that differ": lambda document: document.update(
        statements=statements_of(document, class_names_from_data=True, multi_owner=False)
    ),
    "of another epsilon": lambda document: document.update(
        statements=statements_of({**document, "epsilon": 0.1}, class_names_from_data=False, multi_owner=False)
    ),
    "a base without a name": lambda document: document["base_model"].pop("id"),
    "a unit that is none": lambda document: document.update(unit=3),
    "no list of answers": lambda document: document.update(statements=[3]),
}


@pytest.mark.parametrize("change", SENTENCES)
def test_guarantee_sentences_follow_from_the_numbers(release: Path, change: str) -> None:
    document = read(release)
    SENTENCES[change](document)
    forge(release, document)
    (problem,) = Certificate.verify(release).problems
    assert "do not follow from its numbers" in problem or "not a certificate" in problem


@pytest.mark.parametrize(
    ("named", "told"),
    [("dp-diffusers 99.1.0", True), ("dp-diffusers \x1b[2J 99", False), ("other 1.0", False), (3, False)],
)
def test_another_versions_sentences_are_for_that_version(release: Path, named: object, told: bool) -> None:
    document = read(release)
    document["software"] = named
    SENTENCES["another unit"](document)
    forge(release, document)
    (problem,) = Certificate.verify(release).problems
    assert problem.endswith(": verify with dp-diffusers 99.1.0, which it names") is told


@pytest.mark.planted
def test_planted_sentences_that_nobody_reads(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = read(release)
    document["assumptions"] = ["Trust: nobody."]
    forge(release, document)
    monkeypatch.setattr(verification, "_sentences", lambda certificate: [])
    assert Certificate.verify(release).valid, "a certificate could deny what its numbers say"


def test_facts_of_the_data_change_the_sentences_and_nothing_else(release: Path) -> None:
    document = read(release)
    assert consistent(document) == document
    facts = {"class_names_from_data": True, "multi_owner": True}
    document["assumptions"] = assumptions_of(document, **facts)
    document["statements"] = statements_of(document, **facts)
    forge(release, document)
    assert Certificate.verify(release).valid


def change_at(path: Path, place: int) -> Callable[[], Any]:
    def change() -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    return change


def damages(release: Path) -> dict[str, Callable[[], Any]]:
    """Ways to damage the files; every one is to be seen."""
    adapter, card = release / "adapter/adapter_model.safetensors", release / "README.md"
    config, images = release / "adapter/adapter_config.json", release / "images"
    return {
        "added": lambda: (release / "more").write_bytes(b"x"),
        "added below": lambda: (images / "more").write_bytes(b""),
        "added hidden": lambda: (release / ".hidden").write_bytes(b"x"),
        "empty folder": lambda: (release / "patient 17").mkdir(),
        "removed": card.unlink,
        "removed folder": lambda: shutil.rmtree(images),
        "renamed": lambda: card.rename(release / "README"),
        "case": lambda: card.rename(release / "Readme.md"),
        "swapped": lambda: (
            config.rename(release / "x"),
            card.rename(config),
            (release / "x").rename(card),
        ),
        "appended": lambda: card.write_bytes(card.read_bytes() + b"\n"),
        "cut": lambda: adapter.write_bytes(adapter.read_bytes()[:-1]),
        "empty": lambda: adapter.write_bytes(b""),
        "link to the same": lambda: (
            card.rename(release.parent / "card"),
            card.symlink_to(release.parent / "card"),
        ),
        "linked folder": lambda: (
            images.rename(release.parent / "images"),
            images.symlink_to(release.parent / "images"),
        ),
        "link added": lambda: (release / "link").symlink_to("README.md"),
        "pipe": lambda: (card.unlink(), os.mkfifo(card)),
        "linked certificate": lambda: (
            (release / "certificate.json").rename(release.parent / "c.json"),
            (release / "certificate.json").symlink_to(release.parent / "c.json"),
        ),
        "second certificate": lambda: shutil.copy(release / "certificate.json", images / "certificate.json"),
    }


def test_guarantee_every_damage_of_files(
    issued: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_epsilon", lambda certificate: (certificate.epsilon, []))
    for name in damages(issued):
        release = Path(shutil.copytree(issued, tmp_path / "case" / "release"))
        damages(release)[name]()
        found = Certificate.verify(release)
        assert not found.valid, name
        assert all("\n" not in problem for problem in found.problems), name
        shutil.rmtree(tmp_path / "case")


def test_guarantee_bytes_of_every_file(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_epsilon", lambda certificate: (certificate.epsilon, []))
    for name, content in FILES.items():
        for part in range(64):
            change = change_at(release / name, len(content) * part // 64)
            change()
            assert Certificate.verify(release).problems == (f"{name} was changed",)
            change()
    assert Certificate.verify(release).valid


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "images/../README.md", "./README.md", "README.md/"]
)
def test_listed_paths_that_are_no_plain_names_are_missing(release: Path, name: str) -> None:
    (release.parent / "outside").write_text("x")
    document = read(release)
    document["files"][name] = document["files"]["README.md"]
    forge(release, document)
    assert f"{name} is missing" in Certificate.verify(release).problems


def test_a_changed_certificate_is_not_issued_again(release: Path) -> None:
    path = release / "certificate.json"
    path.write_text(path.read_text().replace("Trust: central", "Trust: no"))
    with pytest.raises(VerificationError, match="its digest is another"):
        Certificate.read(release)


def test_without_a_signature_whoever_holds_the_files_can_issue_again(release: Path, tmp_path: Path) -> None:
    """What is not promised: a consistent forgery passes, and is called unsigned; so does a signed one without
    its signature, unless the signer's key is asked for.
    """
    generate_key(tmp_path / "key")
    Certificate.read(release).sign(release, tmp_path / "key")
    document = {**read(release), "signature": None}
    document["base_model"]["id"] = "another"
    forge(release, consistent(document))
    found = Certificate.verify(release)
    assert found.valid
    assert "not who issued it" in found.explain()
    found = Certificate.verify(release, public_key=tmp_path / "key.pub")
    assert found.problems == ("the certificate is not signed",)
