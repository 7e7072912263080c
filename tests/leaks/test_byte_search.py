"""Strings are found wherever they lie: against Python's own search."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest

from dp_diffusers.leaks import byte_search
from dp_diffusers.leaks.byte_search import ByteSearch


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


def test_rows_of_an_array_are_patterns() -> None:
    rows = np.random.default_rng(0).integers(0, 3, (200, 8), dtype=np.uint8)
    assert len(np.unique(rows, axis=0)) < 200, "some are there twice"
    data = np.random.default_rng(1).integers(0, 3, 5000, dtype=np.uint8).tobytes()
    found = ByteSearch(rows[:, ::-1][:, ::-1], start=2, width=5).found(data)
    assert sorted(found) == plainly(data, sorted({row.tobytes() for row in rows}))


def test_many_patterns_take_little_memory() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (100_000, 16), dtype=np.uint8)
    tracemalloc.start()
    search = ByteSearch(rows)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 48 * len(rows) + (1 << byte_search._BITS)
    assert peak < 128 * len(rows) + (1 << byte_search._BITS)
    assert [place for place, _ in search.found(b"xyz" + rows[77].tobytes())] == [3]


def test_nothing_to_find() -> None:
    assert list(ByteSearch([]).found(b"anything")) == []
    assert list(ByteSearch(np.zeros((0, 16), np.uint8)).found(b"anything")) == []
    assert list(ByteSearch([b"abcdef"]).found(b"abc")) == []
