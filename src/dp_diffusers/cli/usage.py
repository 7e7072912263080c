"""Usage errors of the command line, in the words of the other errors.

Guarantees one line that names the option and what was given, and a hint. May import the standard library.
Typer's own messages are rewritten, whichever library it reads values with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dp_diffusers.errors import nearest

# What a value should have been, in the words of typer and in ours.
_EXPECTED = (
    (r"valid integer|not a valid int", "to be a whole number"),
    (r"valid number|not a valid float", "to be a number"),
    (r"greater than or equal to (\S+)", r">= \1"),
    (r"is not in the range x>=(\d+)", r">= \1"),
    (r"Input should be (('[^']*'(, | or )?)+)", r"to be \1"),
    (r"is not one of ((?:'[^']*'(?:, )?)+)", r"to be one of \1"),
)


def usage_of(error: BaseException, given: Sequence[str], verbs: Iterable[str]) -> tuple[str, str]:
    """A usage error of typer as message and hint. `given`: the words of the command line.

    verbs: all of them, those of a group (`ledger show`) beside the group itself.
    """
    text = str(error.format_message()).strip().rstrip(".").replace(": Value error, ", ": ")  # type: ignore[attr-defined]
    message, _, suggestion = text.partition(". Did you mean ")
    message = message.split("(Possible options")[0].strip().rstrip(".").replace("argument(s)", "argument")
    message = _value(message, given) or message[:1].lower() + message[1:]
    close = _close(error, message, suggestion, verbs)
    if close:
        return message, f"did you mean {close!r}?"
    return message, f"`{_command(error, given, verbs)} --help` lists what there is"


def _close(error: BaseException, message: str, suggestion: str, verbs: Iterable[str]) -> str | None:
    if suggestion.startswith("one of"):
        suggestion = suggestion.partition(":")[2]
    for word in re.split(r",", suggestion):
        if name := re.sub(r"['\"?\s]", "", word):
            return name
    if "no such command" in message:
        return nearest(message.split("'")[1], _commands_there(error, verbs))
    return next(iter(getattr(error, "possibilities", None) or []), None)


def _value(message: str, given: Sequence[str]) -> str | None:
    """`expected --images >= 1, got 0` for a value that is refused; None for other messages."""
    found = re.match(r"Invalid value for '([^']*)': (.*)", message, re.DOTALL)
    if found is None:
        return None
    name, said = found.groups()
    option = name.split(" / ")[-1]
    for pattern, words in _EXPECTED:
        if match := re.search(pattern, said):
            wanted = match.expand(words).replace("'", "").replace(" or ", ", ")
            return f"expected {option} {wanted}{_given(option, given)}"
    return f"{option}: {said}"


def _given(option: str, words: Sequence[str]) -> str:
    """`, got 0`, where the value stands after its option."""
    for at, word in enumerate(words):
        if word == option and at + 1 < len(words):
            return f", got {words[at + 1]}"
        if word.startswith(f"{option}="):
            return f", got {word.partition('=')[2]}"
    return ""


def _commands_there(error: BaseException, verbs: Iterable[str]) -> Iterable[str]:
    """The commands of the group that was asked (`ledger` has its own), else all verbs."""
    command = getattr(getattr(error, "ctx", None), "command", None)
    own: Iterable[str] | None = getattr(command, "commands", None)
    return verbs if own is None else own


def _command(error: BaseException, given: Sequence[str], verbs: Iterable[str]) -> str:
    """The command whose help explains, as far as it is known."""
    context = getattr(error, "ctx", None)
    if context is not None:
        return str(context.command_path)
    known = set(verbs)
    asked = next((words for words in (" ".join(given[:2]), *given[:1]) if words in known), None)
    return "dp-diffusers" if asked is None else f"dp-diffusers {asked}"
