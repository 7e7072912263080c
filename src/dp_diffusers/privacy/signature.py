"""Ed25519 keys and signatures of certificates: who issued it, where a digest says only that it is whole.

Guarantees:
- a private key is written with mode 0600, never into a release, and no file is overwritten;
- a signature covers the canonical JSON of all fields but `signature` itself, the digest among them.
Imports cryptography inside functions only, so that unsigned certificates need none. Source: RFC 8032.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dp_diffusers.errors import InputError, ParameterError, RunFolderError
from dp_diffusers.privacy.canonical import canonical_json
from dp_diffusers.privacy.files import CERTIFICATE_NAME

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ALGORITHM: Final = "ed25519"
PASSPHRASE: Final = "DP_DIFFUSERS_KEY_PASSPHRASE"
UNSIGNED: Final = "unsigned: shows consistency, not who issued it"
_FIELDS: Final = ["algorithm", "public_key", "value"]
_NEW_KEY: Final = "`dp-diffusers certificate keygen KEYFILE` makes a key"


def generate_key(path: Path) -> Path:
    """Writes a new private key to `path` (PEM, mode 0600) and its public key beside it.

    A passphrase in the environment variable `DP_DIFFUSERS_KEY_PASSPHRASE` encrypts the private key. Returns:
    the public key's file, `path` with `.pub` added. Raises `ParameterError` if either file is there already
    or would lie in a release, `RunFolderError` where they cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if any(os.path.lexists(above / CERTIFICATE_NAME) for above in path.resolve().parents):
        raise ParameterError(f"{path} lies in the release", hint="a private key stays outside it")
    public = path.with_name(path.name + ".pub")
    for file in (path, public):
        if file.exists() or file.is_symlink():
            raise ParameterError(f"{file} is there already", hint="a key is never overwritten: give another")
    key, secret = Ed25519PrivateKey.generate(), _passphrase()
    locked = pem.BestAvailableEncryption(secret) if secret else pem.NoEncryption()
    _create(path, key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, locked), 0o600)
    shown = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    _create(public, shown, 0o644)
    return public


def signed(document: Mapping[str, Any], key: Path) -> dict[str, str]:
    """The `signature` of a certificate's document. Raises `InputError` for a key that cannot be used."""
    private = _private_key(key)
    value = private.sign(_message(document)).hex()
    public = private.public_key().public_bytes_raw().hex()
    return {"algorithm": ALGORITHM, "public_key": public, "value": value}


def public_key_in(path: Path) -> str:
    """The key in a PEM file of a public key, in hexadecimal. Raises `InputError` where there is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    text = _read(path)
    try:
        key = load_pem_public_key(text)
    except Exception as error:
        hint = "the public key is the file that ends in .pub" if b"PRIVATE" in text else _NEW_KEY
        raise InputError(f"{path} is not a public key in PEM form", hint=hint) from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} is not an ed25519 key", hint=_NEW_KEY)
    return key.public_bytes_raw().hex()


def problem_of(document: Mapping[str, Any], expected: str | None = None) -> str | None:
    """What is wrong with a document's signature, if anything.

    `expected`: the signer's public key, in hexadecimal; None takes whoever signed, and nobody as well.
    """
    signature = document.get("signature")
    if signature is None:
        return None if expected is None else "the certificate is not signed"
    if not _is_whole(signature):
        return "the signature is damaged"
    if not _holds(document, signature):
        return "the signature does not belong to this certificate"
    if expected is not None and signature["public_key"] != expected:
        return "the certificate is signed with another key"
    return None


def explain(signature: Mapping[str, str] | None, *, known: bool) -> str:
    """One line for a reader. `known`: the signer's key was given, and it is the one."""
    if signature is None:
        return UNSIGNED
    if known:
        return "signed with the key that was given"
    return (
        f"signed with the unknown key {signature['public_key'][:16]}…: whole since then, by whom is open "
        "(--public-key checks it)"
    )


def _is_whole(signature: Any) -> bool:
    """Whether it is of the one known form; nothing in it is covered by anything else."""
    if not isinstance(signature, dict) or list(signature) != _FIELDS:
        return False
    lengths = {"public_key": 64, "value": 128}
    texts = all(_is_hex(signature[name], length) for name, length in lengths.items())
    return texts and signature["algorithm"] == ALGORITHM


def _is_hex(value: Any, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and set(value) <= set("0123456789abcdef")


def _holds(document: Mapping[str, Any], signature: Mapping[str, str]) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature["public_key"]))
        key.verify(bytes.fromhex(signature["value"]), _message(document))
    except (InvalidSignature, ValueError):
        return False
    return True


def _message(document: Mapping[str, Any]) -> bytes:
    return canonical_json({name: document[name] for name in document if name != "signature"}).encode()


def _private_key(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = _read(path)
    secret = _passphrase() if b"ENCRYPTED" in text else None
    if b"ENCRYPTED" in text and secret is None:
        raise InputError(
            f"{path} is encrypted", hint=f"put its passphrase into the environment variable {PASSPHRASE}"
        )
    try:
        key = load_pem_private_key(text, password=secret)
    except Exception as error:
        wrong = "cannot be opened with this passphrase" if secret else "is not a private key in PEM form"
        raise InputError(f"{path} {wrong}", hint=_NEW_KEY) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is not an ed25519 key", hint=_NEW_KEY)
    return key


def _passphrase() -> bytes | None:
    return os.environ.get(PASSPHRASE, "").encode() or None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the key {path}: {error.strerror}", hint=_NEW_KEY) from error


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise RunFolderError(
            f"cannot write {path}: {error.strerror}", hint="choose another folder"
        ) from error
