"""Verbs on a release's certificate: `certificate verify`, `certificate keygen`, `certificate sign`.

Guarantees that verifying changes nothing and needs neither torch nor a network, and that a private key is
neither shown nor overwritten. May import typer and pathlib at the top. The JSON documents are the contract.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dp_diffusers.cli.options import Json, Quiet, Verb
from dp_diffusers.cli.output import answer, complain, configure
from dp_diffusers.errors import ExitCode, InputError

if TYPE_CHECKING:
    from dp_diffusers.privacy.verification import Verification

certificate = typer.Typer(help="What a release certifies.", rich_markup_mode=None)


@certificate.callback()
def _certificate() -> None:
    """What a release certifies."""


@certificate.command("verify", cls=Verb)
def verify(
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="Release folder.")],
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="FILE", help="Who must have signed: a public key (PEM)."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Recompute epsilon and every checksum of a release."""
    configure(json=json, quiet=quiet)
    from dp_diffusers.privacy.certificate import Certificate

    found = Certificate.verify(_release(release), public_key=public_key)
    answer(found.explain(), _verdict(found))
    for problem in found.problems:
        complain(str(problem))
    if not found.valid:
        raise typer.Exit(int(ExitCode.VERIFICATION_NEGATIVE))


@certificate.command("keygen", cls=Verb)
def keygen(
    keyfile: Annotated[
        Path, typer.Argument(metavar="KEYFILE", help="Private key to make; .pub is added for the public one.")
    ],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an ed25519 key that signs certificates."""
    configure(json=json, quiet=quiet)
    from dp_diffusers.privacy.signature import generate_key

    public = generate_key(keyfile)
    answer(
        f"private key {keyfile}, keep it secret\npublic key {public}, give it to whoever verifies",
        {"private_key": str(keyfile), "public_key": str(public)},
    )


@certificate.command("sign", cls=Verb)
def sign(
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="Release folder.")],
    key: Annotated[Path, typer.Option("--key", metavar="KEYFILE", help="Private key (PEM, ed25519).")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Sign the certificate of a release that verifies."""
    configure(json=json, quiet=quiet)
    from dp_diffusers.privacy.certificate import Certificate

    folder = _release(release)
    signed = Certificate.read(folder).sign(folder, key)
    assert signed.signature is not None
    public = signed.signature["public_key"]
    answer(f"signed with the key {public[:16]}…", {"release": str(folder), "public_key": public})


def _release(path: Path) -> Path:
    """The release folder; that of a run folder, where one was given. Raises `InputError` for no folder."""
    if not path.is_dir():
        raise InputError(f"release folder not found: {path}")
    return path / "release" if (path / "release").is_dir() else path


def _verdict(found: Verification) -> dict[str, Any]:
    """The JSON document of `certificate verify`."""
    signature = found.signature if found.valid else None
    return {
        "valid": found.valid,
        "epsilon": found.epsilon,
        "problems": list(found.problems),
        "not_private": found.not_private,
        "delta": found.delta,
        "unit": found.unit,
        "signed_by": signature["public_key"] if signature else None,
        "signer_known": found.signer_known,
    }
