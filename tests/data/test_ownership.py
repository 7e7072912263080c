"""Images of several people: nobody is in two units, and nothing but ownership decides which are kept."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_private_images import parquet, png

from dp_diffusers.data import ownership
from dp_diffusers.data.ownership import disjoint_sets, owners_of, ownership_record
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.drawing.images_out import png as encoded
from dp_diffusers.errors import DataError

Sets = list[tuple[int, ...]]


def _kept(sets: Sets) -> list[tuple[Any, ...]]:
    return disjoint_sets([tuple(sorted(set(people))) for people in sets])


@pytest.mark.parametrize(
    ("sets", "kept"),
    [
        pytest.param([(1, 2), (3, 4), (5,)], [(5,), (1, 2), (3, 4)], id="disjoint: all"),
        pytest.param([(0, 1), (0, 2), (0, 3), (0, 4)], [(0, 1)], id="star: one edge"),
        pytest.param([(0, 1), (0, 2), (0,), (1,), (2,)], [(0,), (1,), (2,)], id="star with leaves: singles"),
        pytest.param([(1, 2), (2, 3), (3, 4)], [(1, 2), (3, 4)], id="chain of three: both ends"),
        pytest.param([(1, 2), (2, 3), (2, 3), (3, 4)], [(2, 3)], id="chain: the middle has more images"),
        pytest.param([(1, 2), (2, 3), (1, 3)], [(1, 2)], id="triangle: one edge"),
        pytest.param([(1, 2), (2, 1), (1, 2)], [(1, 2)], id="identical sets are one"),
        pytest.param([(1, 1, 1)], [(1,)], id="an id counts once in a list"),
        pytest.param([(1, 2)] * 3 + [(1,)] * 2 + [(2,)] * 2, [(1, 2)], id="three of two beat two of one"),
        pytest.param([(1, 2)] * 2 + [(1,)] * 2 + [(2,)] * 2, [(1,), (2,)], id="two of one beat two of two"),
        pytest.param([(1, 2, 3, 4)] * 3 + [(1,)] * 2, [(1,)], id="three of four people weigh 1.5"),
        pytest.param([(10, 9), (2, 10)], [(2, 10)], id="ties: in the order of numbers"),
    ],
)
def test_toy_graphs(sets: Sets, kept: Sets) -> None:
    assert _kept(sets) == kept


graphs = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple), min_size=1, max_size=14)


def _in_two_sets(kept: Sets) -> list[int]:
    """The people who are in more than one set: nobody, if the guarantee holds."""
    people = [person for people in kept for person in people]
    return sorted({person for person in people if people.count(person) > 1})


@settings(max_examples=50, deadline=None, derandomize=True)
@given(graphs, st.randoms(use_true_random=False))
def test_guarantee_no_person_is_in_two_kept_sets(sets: Sets, random: Any) -> None:
    kept = _kept(sets)
    assert _in_two_sets(kept) == []
    for dropped in {tuple(sorted(set(people))) for people in sets} - set(kept):
        assert any(set(dropped) & set(people) for people in kept), "a set left out could be added"
    shuffled = random.sample(sets, len(sets))
    assert _kept(shuffled) == kept, "the order of rows plays no role"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(graphs)
def test_the_greedy_choice_is_as_good_as_its_theorem_says(sets: Sets) -> None:
    """Against every family of disjoint sets: at most min(sqrt(people), largest set) times as many images."""
    named = [tuple(sorted(set(people))) for people in sets]
    distinct = sorted(set(named))[:9]
    named = [people for people in named if people in distinct]
    families = (c for size in range(len(distinct) + 1) for c in combinations(distinct, size))
    best = max(sum(map(named.count, family)) for family in families if not _in_two_sets(list(family)))
    found = sum(map(named.count, disjoint_sets(named)))
    people = len({person for people in named for person in people})
    assert best <= found * min(people**0.5, max(map(len, distinct))) + 1e-9


def test_owners_are_dense_and_images_of_dropped_sets_have_none() -> None:
    found = owners_of([("b",), ("a", "b"), ("a", "b"), ("a", "b"), ("c", "d"), ("d", "e")], 6)
    assert found.kept.tolist() == [False, True, True, True, True, False]
    assert found.owner.tolist() == [0, 0, 0, 1]
    assert (found.unit_count, found.multi_owner) == (2, True)


def test_guarantee_the_type_of_ids_says_whether_images_may_be_shared() -> None:
    """Were it said by their content, one shared photo more would be refused, and its absence certified."""
    ids = ["b", "a", "b", "c"]
    plain, listed = owners_of(ids, 4), owners_of([(name,) for name in ids], 4)
    assert (plain.owner.tolist(), plain.multi_owner) == ([0, 1, 0, 2], False)
    assert (listed.kept.all(), listed.unit_count, listed.multi_owner) == (True, 3, True)
    shared = owners_of([(name,) for name in ids[:3]] + [("c", "d")], 4)
    assert shared.multi_owner is listed.multi_owner


def _opened(path: Path, people: Any, **options: Any) -> PrivateImages:
    images = [png(value) for value in range(len(people))]
    labels = [value % 2 for value in range(len(people))]
    parquet(path / "x.parquet", {"image": images, "label": labels, "people": people})
    return PrivateImages.open(path / "x.parquet", label="label", unit="people", **options)


PEOPLE = [["ann", "bob"], ["bob"], ["bob", "ann", "bob"], ["cy"], ["cy", "dee"], ["ann", "bob"]]


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_a_list_column_of_a_parquet_file(kind: Any, tmp_path: Path) -> None:
    data = _opened(tmp_path, pa.array(PEOPLE, kind(pa.string())))
    assert data.multi_owner
    assert data.images[:, 0, 0, 0].tolist() == [0, 2, 3, 5]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.owner.tolist() == [0, 0, 1, 0]
    assert data.unit_count == 2
    assert data.dropped.tolist() == [1, 4]
    assert "people" not in repr(data)
    assert data.notes == []


def test_a_list_column_of_single_people_uses_all_images(tmp_path: Path) -> None:
    data = _opened(tmp_path, [[7], [7, 7], [9]])
    assert (data.multi_owner, data.unit_count, data.owner.tolist()) == (True, 2, [0, 0, 1])
    assert data.dropped.tolist() == []


def test_guarantee_a_dropped_image_is_not_even_decoded(tmp_path: Path) -> None:
    images = [png(1), png(2), b"no image"]
    people = [["a", "b"], ["a", "b"], ["b", "c"]]
    parquet(tmp_path / "x.parquet", {"image": images, "people": people})
    data = PrivateImages.open(tmp_path / "x.parquet", unit="people")
    assert data.images[:, 0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([["a"], []], r"missing in row 1"),
        ([["a"], None], r"missing in row 1"),
        ([["a", None], ["b"]], r"missing in row 0"),
        ([["a", " nan "], ["b"]], r"missing in row 0"),
        ([[1.0, float("nan")], [2.0]], r"missing in row 0"),
        ([[["a"], ["b"]]], r"expected unit column 'people' to hold numbers or text, or lists of them"),
        ([[{"id": "a"}]], r"expected unit column 'people' to hold numbers or text, or lists of them"),
        ([{"id": "a"}], r"expected unit column 'people' to hold numbers or text, or lists of them"),
        (["a;secret"], r"holds several ids in one text, first in row 0"),
        (["a", "['a', 'secret']"], r"holds several ids in one text, first in row 1"),
        ([["a;secret", "b"]], r"holds several ids in one text, first in row 0"),
        ([["a"], ["b", "a;secret"]], r"holds several ids in one text, first in row 1"),
        ([b"a", b""], r"missing in row 1"),
        ([[b"a"], [b"a", b""]], r"missing in row 1"),
    ],
)
def test_a_bad_list_of_owners_is_one_clear_line(tmp_path: Path, people: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _opened(tmp_path, people)
    assert "\n" not in caught.value.message
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"


def test_lists_in_one_file_and_ids_in_another_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"image": [png()], "people": [["a"]]})
    parquet(tmp_path / "b.parquet", {"image": [png()], "people": ["a"]})
    with pytest.raises(DataError, match="is of list and str in different files"):
        PrivateImages.open(tmp_path, unit="people")
    parquet(tmp_path / "b.parquet", {"image": [png()], "people": [[1]]})
    with pytest.raises(DataError, match="is of int and str in different files"):
        PrivateImages.open(tmp_path, unit="people")


COMPOSED, APART = "Jos\u00e9", "Jose\u0301"


@pytest.mark.parametrize(
    "people",
    [
        [COMPOSED, APART, f" {APART} ", "Ana"],
        [[COMPOSED], [APART, COMPOSED], [f"{APART} "], ["Ana"]],
    ],
)
def test_guarantee_one_id_written_in_several_ways_is_one_person(tmp_path: Path, people: Any) -> None:
    data = _opened(tmp_path, people)
    assert (data.unit_count, len(set(data.owner[:3].tolist()))) == (2, 1)


def test_digests_in_bytes_are_ids_whatever_others_are(tmp_path: Path) -> None:
    digests = [bytes([255, 0, 7]), b"text", bytes([255, 0, 7]), b"text "]
    assert _opened(tmp_path, digests).owner.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("name", ["metadata.csv", "list.csv"])
def test_guarantee_a_table_of_text_writes_one_id_in_several_ways(tmp_path: Path, name: str) -> None:
    for image in ("a", "b"):
        (tmp_path / f"{image}.png").write_bytes(png())
    text = f"file_name,people\na.png,{COMPOSED}\nb.png,{APART} \n"
    (tmp_path / name).write_text(text, encoding="utf-8")
    place = tmp_path if name == "metadata.csv" else tmp_path / name
    assert PrivateImages.open(place, unit="people").unit_count == 1


def test_both_writings_of_an_id_are_looked_for_in_a_release(tmp_path: Path) -> None:
    data = _opened(tmp_path, ["Jos\u00e9 Garc\u00eda 4711"])
    assert data.traces.ids == {"Jos\u00e9 Garc\u00eda 4711", "Jose\u0301 Garci\u0301a 4711"}


@pytest.mark.parametrize("cell", ["p1;secret", '"[""p1"", ""secret""]"'])
def test_several_ids_in_a_cell_of_a_folder_are_refused(tmp_path: Path, cell: str) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "metadata.csv").write_text(f"file_name,people\na.png,{cell}\n")
    with pytest.raises(DataError, match=r"several ids in one text, first for a\.png") as caught:
        PrivateImages.open(tmp_path, unit="people")
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"
    assert "list column of a parquet file" in str(caught.value.hint)


def test_what_takes_no_part_is_written_by_rows_without_ids() -> None:
    owner, dropped = np.array([0, 0, 1, 2, 3]), np.array([1, 4])
    assert ownership_record(owner, dropped, population=2) == {
        "images": 7,
        "units": 4,
        "dropped_images": 2,
        "dropped_rows": [1, 4],
        "surplus_units": [2, 3],
        "surplus_rows": [5, 6],
        "empty_slots": 0,
    }
    assert ownership_record(owner, dropped, population=9)["empty_slots"] == 5
    without = ownership_record(owner, dropped)
    assert (without["surplus_units"], without["surplus_rows"], without["empty_slots"]) == ([], [], 0)


@pytest.mark.planted
def test_a_planted_choice_that_keeps_every_set_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "disjoint_sets", lambda owners: sorted(set(owners)))
    found = owners_of([("a", "b"), ("b",), ("b", "c")], 3)
    assert found.unit_count == 3
    monkeypatch.setitem(globals(), "disjoint_sets", ownership.disjoint_sets)
    with pytest.raises(AssertionError):
        test_guarantee_no_person_is_in_two_kept_sets()


def test_guarantee_blanks_around_an_id_make_nobody_two(tmp_path: Path) -> None:
    pictures = [{"bytes": png(value), "path": None} for value in range(3)]
    table = {"image": pictures, "who": ["p1", "p1 ", " p1"]}
    assert PrivateImages.from_parquet(parquet(tmp_path / "a.parquet", table), None, "who").unit_count == 1
    several = {"image": pictures, "who": [["a", "b "], ["b"], ["c"]]}
    people = PrivateImages.from_parquet(parquet(tmp_path / "b.parquet", several), None, "who")
    assert (people.unit_count, len(people.images)) == (2, 2)  # b is on two images, of which one is used


def test_guarantee_files_that_are_left_out_are_looked_for_too(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 1)).astype(np.uint8)
    pictures = [{"bytes": encoded(image), "path": f"{number}.png"} for number, image in enumerate(noise)]
    table = {"image": pictures, "who": [["a", "b"], ["b"], ["c"]]}
    people = PrivateImages.from_parquet(parquet(tmp_path / "b.parquet", table), None, "who")
    watched = {window.tobytes() for window in people.traces.windows}
    assert len(people.images) == 2
    for number, picture in enumerate(pictures):
        alone = PrivateImages.from_parquet(
            parquet(tmp_path / f"{number}.parquet", {"image": [picture]}), None
        )
        assert len(alone.traces.windows) > 0
        assert {window.tobytes() for window in alone.traces.windows} <= watched
