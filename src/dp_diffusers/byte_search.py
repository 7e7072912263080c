"""Many byte strings looked for in a lot of bytes at once.

Guarantees every occurrence at any offset, in time that does not grow with the number of strings, a megabyte
at a time. May import numpy only. Method: a few bytes of each string as a key in a table of bits that throws
out nearly all places, and a look at the string itself for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

_CHUNK = 1 << 20
_BITS = 22
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads keys over the table


class ByteSearch:
    """Finds any of `patterns`.

    Args:
        patterns: each at least `start + width` bytes long.
        start: where in a pattern its key begins; the key should vary among patterns and in the data.
        width: bytes of the key, at most 8.
    """

    def __init__(self, patterns: Iterable[bytes], *, start: int = 0, width: int = 6) -> None:
        self._start, self._width = start, width
        self._patterns: dict[int, dict[int, set[bytes]]] = {}
        self._table = np.zeros(1 << _BITS, np.bool_)
        self._longest = 0
        known = set(patterns)
        for pattern in known:
            key = int.from_bytes(pattern[start : start + width], "little")
            self._patterns.setdefault(key, {}).setdefault(len(pattern), set()).add(pattern)
            self._longest = max(self._longest, len(pattern))
        if known:
            self._table[_slots(np.fromiter(self._patterns, np.uint64, len(self._patterns)))] = True

    def found(self, data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
        """(offset, pattern) of every occurrence, in order of offset but for patterns of one key."""
        if not self._patterns:
            return
        whole = memoryview(data)
        for first in range(0, len(whole), _CHUNK):
            yield from self._found_in(whole, first)

    def _found_in(self, whole: memoryview, first: int) -> Iterator[tuple[int, bytes]]:
        """Occurrences whose key begins in the chunk at `first`."""
        values = np.frombuffer(whole[first : first + _CHUNK + self._width - 1], np.uint8)
        keys = _keys(values, self._width)
        for place in np.flatnonzero(self._table[_slots(keys)]).tolist():
            begin = first + place - self._start
            if begin < 0:
                continue
            for length, patterns in self._patterns.get(int(keys[place]), {}).items():
                piece = bytes(whole[begin : begin + length])
                if piece in patterns:
                    yield begin, piece


def _keys(values: np.ndarray, width: int) -> np.ndarray:
    """uint64 `[n - width + 1]`: `width` bytes from each place, the first lowest."""
    count = max(len(values) - width + 1, 0)
    keys = np.zeros(count, np.uint64)
    for byte in range(width):
        keys |= values[byte : byte + count].astype(np.uint64) << np.uint64(8 * byte)
    return keys


def _slots(keys: np.ndarray) -> np.ndarray:
    slots: np.ndarray = (keys * _SPREAD) >> np.uint64(64 - _BITS)
    return slots
