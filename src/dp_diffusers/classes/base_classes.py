"""Which class of the base each declared class starts from: by `data.base_classes`, or by its name.

Guarantees that the choice is the recipe's alone, public like the class names beside it, and that an entry
which is no class of the base, that of another entry, or the name of several, is refused; so is a declared
name of several, and names that the base knows in part. May import the errors alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dp_diffusers.errors import ParameterError, nearest

KEY: Final = "data.base_classes"
LISTED: Final = 8  # names of the base in a hint
SHOWN: Final = 3  # classes that a line about all of them names
Entry = str | int
WHICH: Final = f"say which in {KEY}, by its number in the base"
_WORDNET: Final = re.compile(r"n\d{8} (.+)")  # ImageNet's names carry their WordNet id


def declared_entries(settings: Mapping[str, Any]) -> list[Entry] | None:
    """The entries of a resolved recipe, or of the settings of `finetune`."""
    return (settings.get("data") or {}).get("base_classes") or settings.get("base_classes")


def by_position(own: Sequence[str], names: Sequence[str]) -> str:
    """What to say where classes share no name with those of the base."""
    pairs = [f"{one!r} from {other!r}" for one, other in zip(own, names, strict=False)]
    some = ", ".join(pairs[:SHOWN]) + (", …" if len(pairs) > SHOWN else "")
    return f"no class of the images has its name in the base: each starts from the one in its place, {some}"


def misfit(entries: object, classes: Sequence[str] | None) -> tuple[str, str] | None:
    """What is wrong with entries beside these declared classes, whatever the base: a message and a hint."""
    each = "one class of the base for each of data.classes, by name or number"
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        return f"expected {KEY} to be a list of names and whole numbers from 0, got {_short(entries)}", each
    if not classes:
        return f"{KEY} needs declared class names to start from them", "set data.classes, in the same order"
    if len(entries) != len(classes):
        return f"expected {KEY} to have {len(classes)} entries, as data.classes, got {len(entries)}", each
    twice = next((entry for place, entry in enumerate(entries) if entry in entries[:place]), None)
    return None if twice is None else _shared(twice)


def require_fitting(entries: object, classes: Sequence[str] | None) -> None:
    """Raises `ParameterError` for what `misfit` finds."""
    wrong = misfit(list(entries) if isinstance(entries, tuple) else entries, classes)
    if wrong is not None:
        raise ParameterError(wrong[0], hint=wrong[1])


def require_no_texts(entries: object) -> None:
    """Raises `ParameterError` for entries beside a base that takes text."""
    if entries is not None:
        raise ParameterError(
            f"{KEY} has no effect: the base model learns from texts, and has no classes",
            hint="leave it out; data.caption says what an image of each class is",
        )


def names_of_index(index: object) -> tuple[str, ...] | None:
    """The names that a `DiTPipeline` keeps in its `model_index.json`, if it names every class from 0 on."""
    found = index.get("id2label") if isinstance(index, dict) else None
    if not isinstance(found, dict) or set(found) != {str(number) for number in range(len(found))}:
        return None
    return tuple(str(found[str(number)]) for number in range(len(found)))


def base_numbers(entries: Sequence[Entry], count: int, names: Sequence[str] | None) -> tuple[int, ...]:
    """The base's number of each entry. count, names: its classes, without that of no class.

    A name of ImageNet may be given without its WordNet id, where that leaves one class. Raises
    `ParameterError` for a base without classes, an unknown name, one of several classes, a number out of
    range, a class given twice.
    """
    if not count:
        raise ParameterError(
            f"{KEY} names classes of the base, and the base has none", hint="leave it out: null"
        )
    known = _spellings(names or ())
    numbers: dict[int, Entry] = {}
    for entry in entries:
        _require_one(entry, names or ())
        number = _number(entry, count, known)
        if number in numbers:
            message, hint = _shared(entry)
            raise ParameterError(message, hint=hint)
        numbers[number] = entry
    return tuple(numbers)


def numbers_of_names(names: Sequence[str], own: Sequence[str], *, from_data: bool = False) -> tuple[int, ...]:
    """The base's number of each declared name, where the base knows one of them at least.

    own: the names of the base. from_data: the names are those of a private file, which no error repeats.
    Raises `ParameterError` for a name that the base lacks, and for one that it gives to several classes.
    """
    lacking = [name for name in names if name not in own]
    if lacking:
        told = "all that the file names" if from_data else repr(lacking[0])
        raise ParameterError(
            f"the base model has some of the images' classes but not {told}", hint=all_or_none(own)
        )
    if from_data and any(own.count(name) > 1 for name in names):
        raise ParameterError("the base has several classes of one name that the file gives", hint=WHICH)
    for name in names:
        _require_one(name, own, "data.classes", f"say which in {KEY}")
    return tuple(own.index(name) for name in names)


def all_or_none(own: Sequence[str]) -> str:
    """What to do about names that the base knows in part."""
    return f"data.classes: either names of the base's ({_listed(own)}), or none of them"


def several(names: Sequence[str]) -> frozenset[str]:
    """The names that more than one class has."""
    return frozenset(name for name, count in Counter(names).items() if count > 1)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each class's number after a name that it shares with another."""
    shared = several(names)
    found = [f"{name} ({place})" if name in shared else name for place, name in enumerate(names)]
    if several(found):  # another class was called that before
        found = [f"{name} ({place})" for place, name in enumerate(names)]
    return tuple(found)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")


def _number(entry: Entry, count: int, known: Mapping[str, int]) -> int:
    if isinstance(entry, int):
        if entry >= count:
            lacking = "" if known else "; without names in its classes.json the last embedding is of no class"
            raise ParameterError(
                f"expected {KEY} to number classes of the base from 0 to {count - 1}, got {entry}",
                hint=f"the base has {count} classes{lacking}",
            )
        return entry
    if entry in known:
        return known[entry]
    if not known:
        raise ParameterError(
            f"{KEY} holds {entry!r}, and the base does not name its classes",
            hint=f"give their numbers, 0 to {count - 1}; or give the base its names, a list in classes.json",
        )
    longer = (name for name in known if name.endswith(f" {entry}"))
    close = nearest(entry, known) or next(longer, None)
    raise ParameterError(
        f"{KEY}: the base has no class {entry!r}",
        hint=f"did you mean {close!r}?" if close else f"its classes: {_listed(list(known))}",
    )


def _require_one(entry: Entry, names: Sequence[str], key: str = KEY, hint: str = "give a number") -> None:
    """ImageNet has a bird and a machine that are called crane."""
    places = [str(place) for place, name in enumerate(names) if name == entry]
    if len(places) > 1:
        raise ParameterError(
            f"{key}: the base has {len(places)} classes {entry!r}", hint=f"{hint}: {', '.join(places)}"
        )


def _spellings(names: Sequence[str]) -> dict[str, int]:
    """Each way to say a class: its name, or what follows a WordNet id unless several classes share it."""
    known = {name: number for number, name in enumerate(names)}
    words = [found[1] if (found := _WORDNET.fullmatch(name)) else None for name in names]
    alone = {word: place for place, word in enumerate(words) if word is not None and words.count(word) == 1}
    return {**alone, **known}


def _is_entry(value: object) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shared(entry: Entry) -> tuple[str, str]:
    return (
        f"expected {KEY} to be distinct classes of the base, got {entry!r} for two",
        "two classes that start from one would be one class: give each its own",
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
