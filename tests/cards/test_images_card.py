"""Cards of images and models: front matter that the Hub reads, and words that hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import DatasetCard, ModelCard

from dp_diffusers.cards import card_parts
from dp_diffusers.cards.images_card import ImagesCard
from dp_diffusers.drawing import images_out

LABELS = np.array([0, 1, 0, 1, 0, 1, 0])
HOSTILE = 'no: "b" | <script>\n# [x](y)'
TEST_NAMES = ("test", HOSTILE)


def certificate(**changes: Any) -> dict[str, Any]:
    """What a card reads of one."""
    return {
        "software": "dp-diffusers 0",
        "unit": "patient_id",
        "adjacency": "add_remove",
        "epsilon": 1.5,
        "delta": 1e-6,
        "not_private": False,
        "mechanisms": [{"name": "dpsgd", "population": 5000}],
        "files": {"population/population.safetensors": "f" * 64},
        "base_model": {"id": "owner/base", "sha256": "b" * 64},
        "adapter": {"sha256": "a" * 64, "trainable_parameters": 8},
        "classes": {"labels": [0, 1], "names": ["a", "b"], "declared": True},
        "assumptions": ["Unit of privacy: one."],
        **changes,
    }


def card(known: dict[str, Any] | None = None, **changes: Any) -> ImagesCard:
    """A card of seven images."""
    classes = {"labels": [0, 1], "names": list(TEST_NAMES), "declared": True}
    request = {"count": 7, "sampler": "ddim", "steps": 25, "guidance": 1.0, "seed": 3, "classes": classes}
    facts: dict[str, Any] = {"size": (8, 8, 1), "format": "parquet", "certified": True, "labels": LABELS}
    return ImagesCard(certificate=known or certificate(), request=request, **{**facts, **changes})


def first_line(text: str) -> str:
    """Of what is below the front matter."""
    return text.split("\n---\n", 1)[1].strip().splitlines()[0]


def test_the_front_matter_is_that_of_a_data_set_and_true() -> None:
    found = DatasetCard(card().text())
    data = found.data.to_dict()
    assert data["tags"] == ["differential-privacy", "dp-sgd", "synthetic", "dp-diffusers"]
    assert data["task_categories"] == ["image-classification"]
    assert data["size_categories"] == ["n<1K"]
    label = data["dataset_info"]["features"][1]
    assert label == {"name": "label", "dtype": {"class_label": {"names": dict(zip("01", TEST_NAMES))}}}
    assert "license" not in data
    for words in (
        "| 0 | test | 4 |",
        "(epsilon, delta) = (1.5, 1e-06) per patient_id",
        "seed 3",
        "Not stated",
    ):
        assert words in found.content
    assert "<script>" not in found.text
    assert "certificate verify .." in found.text


def test_images_elsewhere_say_that_they_have_no_certificate() -> None:
    text = card(certified=False).text()
    assert "no certificate of its own" in text
    assert "a" * 64 in text
    evolved = certificate(adapter={"sha256": None, "trainable_parameters": 0}, mechanisms=[{"name": "pe"}])
    text = card(evolved, certified=False).text()
    assert "f" * 64 in text
    assert "private-evolution" in text
    assert "variation" in text


@pytest.mark.parametrize("unit", [None, "image"])
def test_guarantee_not_private_comes_first_and_no_tag_contradicts_it(unit: str | None) -> None:
    known = certificate(not_private=True, unit=unit, mechanisms=[{"name": "none"}])
    text = card(known).text()
    assert first_line(text).startswith("**NOT PRIVATE.**")
    assert ("without noise" in text) == (unit is None)
    data = DatasetCard(text).data.to_dict()
    assert "not-private" in data["tags"]
    assert "differential-privacy" not in data["tags"]
    assert data["pretty_name"].startswith("NOT PRIVATE")
    assert "post-processing" not in text


def test_a_base_is_named_to_the_hub_only_where_it_can_be_there() -> None:
    known = card_parts.base_fields(certificate(), "adapter")
    assert known == {"base_model": "owner/base", "base_model_relation": "adapter"}
    for name in ("public-digits", "in-memory", "a/b/c", "/srv/x"):
        assert card_parts.base_fields(certificate(base_model={"id": name}), "adapter") == {}


def test_a_text_is_one_line_that_the_leak_scan_reads() -> None:
    from dp_diffusers.leaks.views import views

    words = "a_b _c_ [x](y) | <i> `d` *e*"
    shown = card_parts.plain(words)
    assert not set("<>|`*[") & set(shown)
    assert "a_b" in shown
    assert any(words.encode() in view.data for view in views(shown.encode()))
    assert "\n" not in card_parts.plain(HOSTILE)


def test_a_card_of_images_that_were_compared_with_nothing_says_so() -> None:
    said = "they were not compared with them: a copy of one would not have been noticed"
    assert said in card(compared=False).text()
    assert said not in card().text()


def test_a_card_speaks_of_its_own_scores_alone() -> None:
    """`evaluate` may score the images later, and changes no card."""
    assert "This card holds no score of them on real images." in card().text()
    assert "obody scored" not in card().text()


def test_numbers_of_the_card_are_those_of_the_images() -> None:
    assert set(card().numbers) == {8, 1, 4, 3, 7, 25}


def test_many_classes_become_one_line() -> None:
    many = ImagesCard(
        certificate=certificate(),
        request={**card().request, "classes": {"labels": list(range(150)), "names": None}, "count": 301},
        labels=np.arange(301) % 150,
        size=(8, 8, 3),
        format="imagefolder",
        certified=True,
    )
    assert "150 classes, each with 2 to 3 images" in many.text()


@pytest.mark.slow
@pytest.mark.parametrize("format", images_out.FORMATS)
@pytest.mark.parametrize("names", [TEST_NAMES, None])
@pytest.mark.parametrize("labelled", [True, False])
def test_datasets_opens_a_folder_as_its_card_declares(
    format: str, names: tuple[str, str] | None, labelled: bool, tmp_path: Path
) -> None:
    import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), dtype=np.uint8)
    labels = LABELS if labelled else None
    request = {**card().request, "classes": {"labels": [0, 1], "names": names} if labelled else None}
    shown = ImagesCard(
        certificate=certificate(),
        request=request,
        labels=labels,
        size=(8, 8, 1),
        format=format,
        certified=True,
    )
    images_out.write_images(pixels, labels, names, tmp_path / "images", format=format, card=shown.text())
    loaded = datasets.load_dataset(str(tmp_path / "images"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 7
    np.testing.assert_array_equal(np.asarray(loaded[1]["image"]), pixels[1, ..., 0])
    if labelled:
        assert loaded["label"][:] == LABELS.tolist()
    declared = DatasetCard(shown.text()).data.to_dict()["dataset_info"]["features"]
    assert loaded.features == datasets.Features._from_yaml_list(declared)


@pytest.mark.parametrize("takes_text", [False, True])
def test_the_card_of_a_merged_model_reads_on_the_hub(takes_text: bool) -> None:
    from dp_diffusers.cards.merging_card import merged_card

    origin = {
        "certificate_sha256": "c" * 64,
        "adapter_sha256": "a" * 64,
        **{name: certificate()[name] for name in ("not_private", "epsilon", "delta", "unit", "adjacency")},
    }
    found = ModelCard(merged_card(certificate(), [origin], takes_text=takes_text))
    data = found.data.to_dict()
    assert (data["library_name"], data["base_model_relation"]) == ("diffusers", "finetune")
    assert data["pipeline_tag"] == ("text-to-image" if takes_text else "unconditional-image-generation")
    mixed = merged_card(certificate(), [{**origin, "not_private": True}, origin])
    assert first_line(mixed).startswith("**NOT PRIVATE.**")
    assert "differential-privacy" not in ModelCard(mixed).data.tags
