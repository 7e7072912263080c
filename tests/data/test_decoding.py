"""Decoding: as many images as were counted, whatever source yields them."""

from __future__ import annotations

import pytest

from dp_diffusers.data import assembly
from dp_diffusers.data.decoding import Decoder
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.sources import RawImages
from dp_diffusers.errors import DataError
from source_support import Row

ENCODED = [(f"{shade}", Row(name="", shade=shade).encoded) for shade in range(4)]


@pytest.mark.parametrize(("counted", "message"), [(5, "fewer images than"), (3, "more images than")])
def test_guarantee_no_place_is_left_to_an_image_that_did_not_come(
    counted: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Decoder().decode(iter(ENCODED), counted)
    assert caught.value.hint
    units: list[object] = [("p1",), *[("p2",)] * (counted - 1)]
    raw = RawImages(count=counted, encoded=lambda: iter(ENCODED), units=units)
    monkeypatch.setattr(assembly, "open_source", lambda *given, **named: raw)
    with pytest.raises(DataError, match=message):
        PrivateImages.from_parquet("any", label=None, unit="person")
