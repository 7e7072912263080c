"""The card of a folder of synthetic images: what they are, what holds for them, what they are not.

Guarantees that it says nothing but what the certificate, the request and the images themselves say, all of
it public or released, and that Hugging Face's reader opens the folder as the front matter declares it. May
import what `card_parts` does, and numpy. The front matter is that of Hugging Face data set cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dp_diffusers.cards import card_parts as parts
from dp_diffusers.cards.model_card import alarm
from dp_diffusers.drawing.image_parts import drawn_for
from dp_diffusers.privacy.earlier_releases import earlier_releases

_MOST_ROWS: Final = 100  # classes in a table, before it becomes one line
_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_FILES: Final[dict[str, Any]] = {
    "parquet": "data/train-*.parquet",
    "imagefolder": ["metadata.csv", "**/*.png"],
}

_CARD = """{head}{alarm}# {count} synthetic images, {headline}

{promise}

Every image was made by a model{how}; none is a photograph or a scan of anything.

## Contents
{contents}

## How they were made
{made}

## Load them
```python
from datasets import load_dataset

images = load_dataset("PATH/OF/THIS/FOLDER", split="train")
```
{hint}

## What they must not be taken for
- No image shows a person, a case or an event, and none is evidence of one.
- How many images a class has {counted}{but}.
- Labels say {labels}.
- A model that learnt from these images needs a test on real ones before anyone relies on it.
- This card holds no score of them on real images. A score of `dp-diffusers evaluate` on private images is
  not covered by epsilon.

## Limits and bias
{limits}

## Verify it
{verify}

## Licence
{licence}
"""

_COUNTED: Final = "was asked for: it says nothing about how frequent the class is"
_COUNTED_ANSWERS: Final = (
    "is the released classifier's answer, which errs towards frequent classes: it is no estimate of how "
    "frequent the class is"
)
_ASKED: Final = "what an image was asked to be; some images do not look like it"
_ANSWERED: Final = "what the released classifier takes an image for; it errs with some"
_NOT_COMPARED: Final = (
    "No traces of the private images were left when these were made, so they were not compared with them: a "
    "copy of one would not have been noticed."
)
_OF_A_RELEASE: Final = "\n\nThis folder is `images/` of a release; the command is for the folder above it."
_ELSEWHERE: Final = """This folder has no certificate of its own, and nothing shows that its files are
unchanged. What it came from has one: the release whose {part} has sha256
`{sha256}`.
`dp-diffusers certificate verify RELEASE` checks the numbers above, and `dp-diffusers generate` makes these
images from it again."""


@dataclass(frozen=True, kw_only=True)
class ImagesCard:
    """What a card is made of.

    certificate: the document of the release. request: what the images were asked for with. labels: int64
    `[N]`, places among the classes of the request, or None. size: (height, width, channels). format: as
    they are stored. certified: whether they lie in the release. as_asked: where labels are a teacher's
    answers, how many are what the image was asked to be. compared: whether there were traces of the private
    images to compare these with.
    """

    certificate: Mapping[str, Any]
    request: Mapping[str, Any]
    labels: np.ndarray | None
    size: tuple[int, int, int]
    format: str
    certified: bool
    as_asked: int | None = None
    compared: bool = True

    @property
    def numbers(self) -> list[int]:
        """Every number of the card that is of the synthetic images and not of the certificate."""
        relabelled = [] if self.as_asked is None else [self.as_asked]
        return [
            *self.size,
            *self._counts,
            *relabelled,
            drawn_for(self.request),
            *(self.request[name] for name in ("count", "steps", "seed")),
        ]

    @property
    def names(self) -> list[str] | None:
        """What the labels mean."""
        classes = self.request["classes"]
        return None if classes is None or self.labels is None else classes["names"]

    @property
    def _counts(self) -> list[int]:
        """Images of each class."""
        if self.labels is None:
            return []
        found: list[int] = np.bincount(self.labels, minlength=len(self.request["classes"]["labels"])).tolist()
        return found

    def text(self) -> str:
        """The text of `README.md`."""
        certificate, from_votes = self.certificate, self._from_votes
        return _CARD.format(
            head=self._head(),
            alarm=alarm(certificate, "these images"),
            count=self.request["count"],
            headline=parts.headline(certificate),
            promise=self._promise(),
            how=", or is a variation of one that was" if from_votes else "",
            contents=self._contents(),
            made=self._made(),
            hint=self._hint(),
            counted=_COUNTED if self.as_asked is None else _COUNTED_ANSWERS,
            labels=_ASKED if self.as_asked is None else _ANSWERED,
            but=", beyond the noisy counts that the release publishes" if self._by_histogram else "",
            limits=parts.LIMITS,
            verify=self._verify(),
            licence=parts.LICENCE,
        )

    def _head(self) -> str:
        labelled, names = self.labels is not None, self.names
        texts = bool((self.request["classes"] or {}).get("prompts"))
        task = "text-to-image" if texts else "image-classification"
        features: list[dict[str, Any]] = [{"name": "image", "dtype": "image"}]
        if labelled:
            # in a table of an image folder labels are numbers, whatever the front matter says
            named = names is not None and self.format == "parquet"
            numbered = {str(place): name for place, name in enumerate(names or ())}
            kind = {"class_label": {"names": numbered}} if named else "int64"
            features.append({"name": "label", "dtype": kind})
        mark = "NOT PRIVATE: " if self.certificate["not_private"] else ""
        files = {"split": "train", "path": _FILES[self.format]}
        return parts.front_matter(
            {
                "pretty_name": f"{mark}synthetic images",
                "task_categories": [task if labelled else "unconditional-image-generation"],
                "size_categories": [_size_category(self.request["count"])],
                "tags": parts.tags(self.certificate, "synthetic"),
                "configs": [{"config_name": "default", "data_files": [files]}],
                "dataset_info": {"features": features},
            }
        )

    def _promise(self) -> str:
        if self.certificate["not_private"]:
            return "Nothing is promised to anyone in the private data."
        earlier = earlier_releases(self.certificate)
        return (
            "Making images from a release is post-processing: it read no private image and cost nothing, and "
            f"what the release promises holds for these: {parts.promise(self.certificate, 'these images')}"
            + ("" if earlier is None else f" {parts.plain(earlier)}")
        )

    def _contents(self) -> str:
        height, width, channels = self.size
        colours = "grey" if channels == 1 else "colour"
        text = f"{self.request['count']} PNG images of {width} x {height} pixels, {colours}."
        counts, classes = self._counts, self.request["classes"]
        if not counts:
            return f"{text} They have no labels."
        if len(counts) > _MOST_ROWS:
            return f"{text} {len(counts)} classes, each with {min(counts)} to {max(counts)} images."
        names, prompts = classes["names"] or ["–"] * len(counts), classes.get("prompts")
        columns = ["label", "class", "images", *(["prompt"] if prompts else [])]
        rows = [
            [place, parts.plain(names[place]), count, *([parts.plain(prompts[place])] if prompts else [])]
            for place, count in enumerate(counts)
        ]
        lines: list[list[Any]] = [columns, ["---"] * len(columns), *rows]
        return "\n\n".join([text, "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)])

    def _made(self) -> str:
        request, base = self.request, self.certificate["base_model"]
        source = "a population of Private Evolution" if self._from_votes else "an adapter"
        lines = [
            f"Model: {parts.plain(base['id'])} (sha256 `{base['sha256']}`), with {source}.",
            f"Sampler {request['sampler']}, {request['steps']} steps, guidance {request['guidance']:g}, "
            f"seed {request['seed']}{_number_type(request)}.",
            self._choice(),
            f"Software: {self.certificate['software']}.",
            *([] if self.compared else [_NOT_COMPARED]),
        ]
        if self.as_asked is not None:
            lines.insert(
                2,
                "Labels are the answers of the released classifier `teacher.safetensors`, which took "
                f"{self.as_asked} of {request['count']} images for the class that they were asked to be.",
            )
        if self._by_histogram:
            lines.insert(
                2, "Images of each class in proportion to the released class counts, which have noise."
            )
        return "\n".join(f"- {line}" for line in lines)

    def _choice(self) -> str:
        if "candidates" not in self.request:
            return "None was selected or left out."
        return (
            f"Kept of {drawn_for(self.request)} that were drawn, towards the released counts of units in the "
            "clusters of `teacher.safetensors`, which have noise."
        )

    def _hint(self) -> str:
        if self.format == "imagefolder" and self.names:
            return "Labels are the numbers of the table above, in `metadata.csv` too."
        return "The folder's own files are enough; nothing is downloaded."

    def _verify(self) -> str:
        if self.certified:
            return parts.VERIFY.format(place="..") + _OF_A_RELEASE
        adapter = self.certificate["adapter"]["sha256"]
        files = self.certificate["files"]
        part, sha256 = (
            ("adapter", adapter)
            if adapter
            else next(("population", files[name]) for name in files if name.startswith("population/"))
        )
        return _ELSEWHERE.format(part=part, sha256=sha256)

    @property
    def _from_votes(self) -> bool:
        return any(entry["name"] == "pe" for entry in self.certificate["mechanisms"])

    @property
    def _by_histogram(self) -> bool:
        return self.request.get("labels") == "histogram"


def _number_type(request: Mapping[str, Any]) -> str:
    """Where it is not the usual one."""
    return f", numbers of {request['dtype']}" if "dtype" in request else ""


def _size_category(count: int) -> str:
    """How the Hub sorts data sets by size."""
    return next((name for limit, name in _SIZES if count < limit), "1M<n<10M")
