"""What the images of a run are conditioned on: classes of the base, or texts; the same in data and release.

Guarantees: what images will be made of is public and known before anything private is opened; a text of a
private column conditions that image's training alone, and its encoding stays in the safe. May import the
data and the family that they meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dp_diffusers.classes.base_classes import declared_entries, require_no_texts
from dp_diffusers.classes.class_numbers import numbered_for
from dp_diffusers.classes.released_classes import ReleasedClasses, declared_names, released_classes
from dp_diffusers.data.caption_template import expanded, needs_label
from dp_diffusers.data.captions import captions_of
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.family import Family
from dp_diffusers.errors import ParameterError
from dp_diffusers.recipe import TrainingSettings

PLACEHOLDER: Final = "an image"  # what the rehearsal reads where captions are private


def classes_of(family: Family, settings: Mapping[str, Any]) -> ReleasedClasses | None:
    """What images will be made of; None for an unconditional model, and for private captions.

    settings: of the run, as a plain document. Raises `ParameterError` for captions or prompts that the
    family does not take, or for one that takes text and is given none.
    """
    caption, private, prompts = _texts(settings)
    entries = declared_entries(settings)
    if family.takes_text:
        require_no_texts(entries)
        if private and (settings.get("training") or {}).get("public"):
            raise ParameterError(  # an un-noised gradient must not meet the text of a private image
                "training.public cannot go with private captions: its images have no public text",
                hint="leave training.public out, or set data.caption in the place of data.caption_column",
            )
        _require_use_of_names(settings, caption)
        if private:
            return None
        named = _classes_of_caption(caption, declared_names(settings))
        return replace(named, from_data=bool(settings.get("class_names_from_data")))
    if caption is not None or private or prompts:
        key = "generation.prompts" if prompts else "data.caption_column" if private else "data.caption"
        raise ParameterError(
            f"the base model takes no text, but {key} is given", hint="leave it out; it learns from labels"
        )
    from_data = bool(settings.get("class_names_from_data"))
    found = released_classes(
        family.classes, family.base.class_names, declared_names(settings), entries, from_data=from_data
    )
    return None if found is None else replace(found, from_data=from_data)


def require_use_of_labels(family: Family, settings: Mapping[str, Any]) -> None:
    """Raises `ParameterError` for what is said of labels to a base that would not look at it.

    settings: of the run, as a plain document. A label dropout that nobody asked for is that of every recipe.
    """
    dropout = (settings.get("training") or {}).get("label_dropout")
    usual = (None, 0, TrainingSettings.model_fields["label_dropout"].default)
    if family.null_label is None and dropout not in usual:
        raise ParameterError(
            f"training.label_dropout {dropout} has no effect: the base model has no null class",
            hint="leave it out; a null class is a last class embedding beyond those of the classes",
        )
    if not family.takes_text and not family.classes and (settings.get("data") or {}).get("classes"):
        raise ParameterError(
            "data.classes has no effect: the base model has no classes",
            hint="leave it out; its images are of no class",
        )


def numbers_by_name(family: Family, settings: Mapping[str, Any]) -> dict[str, int] | None:
    """The base's number of each declared class, where the settings say which it starts from; else None."""
    classes = classes_of(family, settings) if declared_entries(settings) else None
    return None if classes is None else dict(zip(classes.names or (), classes.labels, strict=True))


def set_conditions(family: Family, settings: Mapping[str, Any]) -> None:
    """Gives a family that takes text its public texts, for the rehearsal and the training."""
    if family.takes_text:
        classes = classes_of(family, settings)
        family.set_prompts([PLACEHOLDER] if classes is None or not classes.prompts else classes.prompts)


def require_distinct_texts(family: Family, settings: Mapping[str, Any]) -> None:
    """Raises `ParameterError` where the public texts of two classes are one condition to the base.

    The family has its public texts: `set_conditions`. Private captions are not looked at.
    """
    classes = classes_of(family, settings) if family.takes_text else None
    if classes is None or classes.names is None or (same := family.alike()) is None:
        return
    one, other = (repr(classes.names[place]) for place in same)
    raise ParameterError(
        f"data.caption: {one} and {other} mean the same to this base, which reads no more of their texts",
        hint="put {label} first, or shorten data.caption",
    )


def conditioned(
    family: Family, data: PrivateImages, settings: Mapping[str, Any], cache: Path | None = None
) -> tuple[PrivateImages, list[str]]:
    """The images with labels in the numbering of the family, and what to say about it.

    settings: of the run, as a plain document. cache: folder of the safe for the encodings of private
    captions. Raises `DataError` for labels that are missing, too many, or do not fit the family's.
    """
    if not family.takes_text:
        mapped = numbers_by_name(family, settings)
        return numbered_for(data, family.classes, family.base.class_names, mapped)
    texts, numbers = captions_of(data)
    if data.captions is not None:
        family.set_prompts(texts, cache=cache)
    told = data.class_names_from_data and data.names_are_told
    return replace(data, labels=numbers, class_names=None, class_names_from_data=told), []


def requested(
    family: Family, recorded: ReleasedClasses | None, prompts: Sequence[str] | None
) -> ReleasedClasses | None:
    """What images are made of now: the given prompts, or what the training recorded; tells the family.

    Raises `ParameterError` for prompts that the family does not take, and where captions were private and
    no prompt is given.
    """
    if not family.takes_text:
        if prompts:
            raise ParameterError(
                "the base model takes no prompts, but generation.prompts is given", hint="leave it out"
            )
        known = recorded is not None and family.classes
        return recorded if known else released_classes(family.classes, family.base.class_names, None)
    if prompts:
        recorded = _of_texts(prompts, prompts)
    if recorded is None or not recorded.prompts:
        raise ParameterError(
            "the captions of this run are private, and no prompts are given to make images of",
            hint="set generation.prompts, texts of your own, such as --set 'generation.prompts=[an x-ray]'",
        )
    family.set_prompts(recorded.prompts)
    return recorded


def _texts(settings: Mapping[str, Any]) -> tuple[str | None, bool, list[str] | None]:
    """Caption of all images or classes, whether each image has a private one, and prompts."""
    data = settings.get("data") or {}
    caption = data.get("caption") or settings.get("caption")
    private = bool(data.get("caption_column") or settings.get("captions"))
    return caption, private, (settings.get("generation") or {}).get("prompts")


def _require_use_of_names(settings: Mapping[str, Any], caption: str | None) -> None:
    """Raises `ParameterError` where a recipe declares classes that no text holds."""
    if (settings.get("data") or {}).get("classes") and caption is not None and not needs_label(caption):
        raise ParameterError(
            f"data.classes has no effect: data.caption {caption!r} is the same for all of them",
            hint="put {label} into data.caption, or leave data.classes out",
        )


def _classes_of_caption(caption: str | None, names: Sequence[str] | None) -> ReleasedClasses:
    if caption is None:
        raise ParameterError(
            "the base model learns from captions, and there are none",
            hint="set data.caption, a text that may hold {label}, or data.caption_column",
        )
    if not needs_label(caption):
        return _of_texts([caption], [caption])
    if not names:
        raise ParameterError(
            "data.caption holds {label}, but no class names are declared",
            hint="set data.classes, the names of the classes in order",
        )
    return _of_texts(names, [expanded(caption, name) for name in names])


def _of_texts(names: Sequence[str], prompts: Sequence[str]) -> ReleasedClasses:
    return ReleasedClasses(
        labels=tuple(range(len(prompts))), names=tuple(names), declared=True, prompts=tuple(prompts)
    )
