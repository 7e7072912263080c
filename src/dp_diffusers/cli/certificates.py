"""Verbs on a release's certificate: `certificate verify`, `certificate keygen`, `certificate sign`.

Guarantees that verifying changes nothing, needs neither torch nor a network and names the folder that was
verified, and that a private key is neither shown nor overwritten nor written into a release. May import typer
and the standard library at the top. The JSON documents are the contract.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dp_diffusers.cli.options import Json, Quiet, Verb
from dp_diffusers.cli.output import answer, complain, configure
from dp_diffusers.errors import ExitCode, InputError

if TYPE_CHECKING:
    from dp_diffusers.privacy.verification import Verification

_STRAY: Final = (
    "only what was certified belongs in a release: move what is not listed elsewhere, or delete it"
)

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
    from dp_diffusers.cli.no_certificate import hint_without
    from dp_diffusers.privacy.certificate import Certificate
    from dp_diffusers.privacy.verification import visible

    folder = _release(release)
    found = Certificate.verify(folder, public_key=public_key)
    text = f"{found.explain()}\nrelease: {folder}" if found.valid else found.explain()
    answer(text, {**_verdict(found), "release": str(folder)})
    hint = _STRAY if any(map(_is_stray, found.problems)) else None
    if not (folder / "certificate.json").is_file():
        hint = hint_without(folder)
    for place, problem in enumerate(found.problems, 1):
        complain(visible(str(problem)), hint if place == len(found.problems) else None)
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
    from dp_diffusers.privacy.verification import promise

    folder = _release(release)
    signed = Certificate.read(folder).sign(folder, key)
    assert signed.signature is not None
    public = signed.signature["public_key"]
    text = f"{promise(signed)}\nsigned with the key {public[:16]}…\nrelease: {folder}"
    names = ("epsilon", "delta", "unit", "adjacency", "not_private")
    promised = {name: getattr(signed, name) for name in names}
    answer(text, {"release": str(folder), "public_key": public, **promised})


def _is_stray(problem: str) -> bool:
    return problem.endswith(" is not listed in the certificate")


def _release(path: Path) -> Path:
    """The folder itself; that of its release, where it is a run's: see `release_in`.

    Raises: `InputError` for no folder; `RunFolderError` for a run whose training has not finished.
    """
    from dp_diffusers.privacy.files import is_uncertified_run, release_in

    if not path.is_dir():
        raise InputError(f"release folder not found: {path}", hint="give a run folder, or its release/")
    if is_uncertified_run(path):
        _require_finished(path)
    return release_in(path)


def _require_finished(run: Path) -> None:
    """Raises `RunFolderError` for a training on its way; for one that is done its release answers."""
    from dp_diffusers.run.folder import RUN, RunFolder

    folder = RunFolder(run)
    released = os.path.lexists(folder.release / "certificate.json")
    if folder.private.is_dir() and not released and not (folder.read(RUN) or {}).get("done"):
        from dp_diffusers.cli.no_certificate import unfinished

        raise unfinished(folder)


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
