"""The command `dp-diffusers`: its verbs, and one place where every failure becomes a line and an exit code.

Guarantees that no traceback reaches the screen and that each exit code means what `errors.py` says.
May import typer and pathlib at the top, nothing heavy, so that --help is instant. Manners: uv's style guide.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from dp_diffusers.cli import (
    auditing,
    benching,
    certificates,
    inspection,
    making,
    merging,
    near_copies,
    preparation,
    reporting,
    studying,
)
from dp_diffusers.cli.options import Verb
from dp_diffusers.cli.output import complain, configure, settings
from dp_diffusers.cli.usage import usage_of
from dp_diffusers.errors import DPDiffusersError, EndedElsewhere, ExitCode, RecipeError

NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
RESUME = "run the same command again to resume"

app = typer.Typer(
    help="Differentially private fine-tuning of diffusion models.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
VERBS: dict[str, Callable[..., None]] = {
    "demo": making.demo,
    "init": preparation.init,
    "plan": preparation.plan,
    "pretrain": making.pretrain,
    "train": making.train,
    "generate": making.generate,
    "merge": merging.merge,
    "evaluate": making.evaluate,
    "near-copies": near_copies.near_copies,
    "report": reporting.report,
    "audit": auditing.audit,
    "study": studying.study,
    "bench": benching.bench,
}
for _name, _verb in VERBS.items():
    app.command(_name, cls=Verb)(_verb)
app.add_typer(inspection.ledger, name="ledger")
app.add_typer(certificates.certificate, name="certificate")


@app.callback(invoke_without_command=True)
def _front(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Differentially private fine-tuning of diffusion models."""
    if version:
        from dp_diffusers import __version__

        print(f"dp-diffusers {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str] | None = None) -> None:
    """Entry point: runs a command and exits with its code."""
    sys.exit(main(arguments))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns: its exit code (`errors.ExitCode`)."""
    configure()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=given, standalone_mode=False, prog_name="dp-diffusers")
    except BaseException as error:
        return int(report(error, given))
    if code == ExitCode.INTERRUPTED:
        return int(report(KeyboardInterrupt()))
    return code if isinstance(code, int) else int(ExitCode.DONE)


def report(error: BaseException, given: Sequence[str] = ()) -> ExitCode:
    """Says what went wrong. `given`: the words of the command line. Returns: the exit code."""
    piped = isinstance(error, BrokenPipeError) or (isinstance(error, SystemExit) and error.code == 1)
    if piped and _nobody_reads():  # as behind `| head`, which click ends with 1: there is nobody to tell
        return ExitCode.INTERRUPTED
    if isinstance(error, SystemExit):
        return ExitCode(error.code) if isinstance(error.code, int) else ExitCode.BUG
    if isinstance(error, EndedElsewhere):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        print(file=sys.stderr)
        complain("interrupted", RESUME)
        return ExitCode.INTERRUPTED
    if isinstance(error, RecipeError):
        for index, (message, hint) in enumerate(error.problems):
            if index:
                print(file=sys.stderr)
            complain(message, hint)
        return error.exit_code
    if isinstance(error, DPDiffusersError) and error.exit_code is not ExitCode.BUG:
        complain(error.message, error.hint)
        return error.exit_code
    if hasattr(error, "format_message"):  # a usage error of typer, whichever click it is built on
        complain(*usage_of(error, given, [*VERBS, *_of_groups()]))
        return ExitCode.BAD_INPUT
    if _disk_is_full(error):
        complain("disk is full", "free some space; " + RESUME)
        return ExitCode.BAD_INPUT
    if isinstance(error, OSError) and error.errno in NO_ACCESS and error.filename is not None:
        complain(f"cannot use {error.filename}: {error.strerror}", "look at its permissions, or give another")
        return ExitCode.BAD_INPUT
    return _crashed(error)


def _of_groups() -> Iterator[str]:
    """`ledger`, `ledger show` and so on: the groups, and their commands."""
    for group, name in ((inspection.ledger, "ledger"), (certificates.certificate, "certificate")):
        yield name
        yield from (f"{name} {command.name}" for command in group.registered_commands)


def _nobody_reads() -> bool:
    """Whether stdout or stderr is a pipe that was closed; what is still to be written there goes nowhere."""
    closed = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(stream.fileno(), select.POLLOUT)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
                closed = True
    return closed


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error; torch and safetensors wrap it in errors of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _crashed(error: BaseException) -> ExitCode:
    """A bug: the traceback goes to a file in the safe, since it may hold private values."""
    text = "".join(traceback.format_exception(error))
    message = (
        f"internal error: {error}"
        if isinstance(error, DPDiffusersError)
        else f"unexpected {type(error).__name__}"
    )
    try:
        path = _crash_log()
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        complain(
            f"{message}; details in {path}",
            "the file may hold private values: read it before sharing",
        )
    except OSError:
        complain(f"{message}; details could not be written")
    return ExitCode.BUG


def _crash_log() -> Path:
    """`OUT/private/crash.log` where the command has an existing --out, else in a new private folder."""
    if settings.out is None or not settings.out.is_dir():
        return Path(tempfile.mkdtemp(prefix="dp-diffusers-")) / "crash.log"
    safe = settings.out / "private"
    safe.mkdir(mode=0o700, exist_ok=True)
    return safe / "crash.log"
