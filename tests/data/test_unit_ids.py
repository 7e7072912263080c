"""Ids: what is one person, what is refused because it might be two."""

from __future__ import annotations

from pathlib import Path

import pytest

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.unit_ids import checked_ids
from dp_diffusers.errors import DataError
from source_support import Row, manifest, parquet

SEVERAL, UNSEEN = "holds several ids in one text, first", "holds a character that nobody sees, first"
BAD = [
    ("p1,p2", SEVERAL),
    ("p1|p2", SEVERAL),
    ("p2 / p1", SEVERAL),
    ("p1\np2", SEVERAL),
    ("p1\np3", UNSEEN),
    ("p1\u200b", UNSEEN),
    ("p\x001", UNSEEN),
    *((f"p1{sign}", UNSEEN) for sign in "\ufe0f\u034f\u180b\U000e0100\u3164\u115f\u1160\uffa0\u17b4\u2800"),
    *((f"p{sign}1", UNSEEN) for sign in "\ue000\u0378\u2028\U0001d159"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_guarantee_what_may_be_two_people_is_refused(text: str, message: str, tmp_path: Path) -> None:
    ids = ["p1", "p2", text]
    with pytest.raises(DataError, match=f"{message} in row 2") as caught:
        checked_ids("x", "person", list(ids))
    assert caught.value.hint
    assert text not in caught.value.message
    with pytest.raises(DataError, match=f"{message} in row 1"):
        checked_ids("x", "person", [["p1", "p2"], [text]])
    rows = [Row(name=f"{n}.png", unit=unit) for n, unit in enumerate(ids)]
    for kind, write in (("tables", parquet), ("lists", manifest)):
        (tmp_path / kind).mkdir()
        with pytest.raises(DataError, match=message):
            PrivateImages.open(write(tmp_path / kind, rows), label=None, unit="person")


def test_half_a_character_is_refused() -> None:
    with pytest.raises(DataError, match=UNSEEN):  # no file holds one; a list in Python may
        checked_ids("x", "person", ["p1", "p1\ud800"])


def test_letters_and_marks_that_are_seen_are_part_of_an_id() -> None:
    ids = ["Nguyễn", "홍길동", "ครู", "ក្មេង", "p⠁1", "p 1", "Ω²"]  # ⠁ is no blank pattern
    assert checked_ids("x", "person", list(ids)) == ids


def test_signs_between_what_are_no_ids_are_part_of_one() -> None:
    ids = ["12/1957", "12", "Meyer, Jan", "Meyer", "a|b", "/", "Ng^Wei", "p1 \n"]
    assert checked_ids("x", "person", list(ids)) == [*ids[:-1], "p1"]
