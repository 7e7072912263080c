"""Strings are found wherever they lie: against Python's own search."""

from __future__ import annotations

import random

import pytest

from dp_diffusers import byte_search
from dp_diffusers.byte_search import ByteSearch


def plainly(data: bytes, patterns: list[bytes]) -> list[tuple[int, bytes]]:
    return sorted(
        (place, pattern)
        for pattern in patterns
        for place in range(len(data))
        if data.startswith(pattern, place)
    )


@pytest.mark.parametrize("chunk", [7, 64, 1 << 20])
def test_every_occurrence(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_search, "_CHUNK", chunk)
    random.seed(0)
    for _ in range(30):
        data = bytes(random.choices(b"abc", k=random.randrange(200)))
        patterns = [bytes(random.choices(b"abc", k=random.randrange(6, 10))) for _ in range(20)]
        patterns += [data[start : start + 8] for start in range(0, len(data) - 8, 30)]
        found = ByteSearch(patterns).found(data)
        assert sorted(found) == plainly(data, sorted(set(patterns)))


@pytest.mark.parametrize("chunk", [16, 1 << 20])
def test_keys_inside_a_pattern(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_search, "_CHUNK", chunk)
    pattern = bytes(range(16))
    search = ByteSearch([pattern], start=4, width=8)
    for place in (0, 1, 15, 50):
        assert list(search.found(b"\xff" * place + pattern + b"\xff" * 9)) == [(place, pattern)]
    assert list(search.found(pattern[1:] + pattern[:-1])) == []


def test_nothing_to_find() -> None:
    assert list(ByteSearch([]).found(b"anything")) == []
    assert list(ByteSearch([b"abcdef"]).found(b"abc")) == []
