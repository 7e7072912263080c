"""Many byte strings looked for in a lot of bytes at once.

Guarantees every occurrence at any offset, in time that hardly grows with the number of strings, a megabyte at
a time, with 24 bytes of memory for each string besides its own. May import numpy only. Method: a few bytes of
each string as a key in a table of bits that throws out nearly all places, a search among the sorted keys, and
a look at the string itself for the rest.
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
        patterns: each at least `start + width` bytes long; those of one length may come as uint8 `[P, n]`.
        start: where in a pattern its key begins; the key should vary among patterns and in the data.
        width: bytes of the key, at most 8.
    """

    def __init__(self, patterns: Iterable[bytes] | np.ndarray, *, start: int = 0, width: int = 6) -> None:
        self._start, self._width = start, width
        text, ends = _joined(patterns)
        begins = np.concatenate([ends[:1] * 0, ends[:-1]])
        keys = _keys_at(text, begins + start, width)
        order = np.argsort(keys, kind="stable")
        self._text, self._keys = text, keys[order]
        self._begins, self._ends = begins[order], ends[order]
        self._table = np.zeros(1 << _BITS, np.bool_)
        self._table[_slots(keys)] = True

    def found(self, data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
        """(offset, pattern) of every occurrence, in order of offset but for patterns of one key."""
        if not len(self._keys):
            return
        whole = memoryview(data)
        for first in range(0, len(whole), _CHUNK):
            yield from self._found_in(whole, first)

    def _found_in(self, whole: memoryview, first: int) -> Iterator[tuple[int, bytes]]:
        """Occurrences whose key begins in the chunk at `first`."""
        values = np.frombuffer(whole[first : first + _CHUNK + self._width - 1], np.uint8)
        keys = _keys(values, self._width)
        places = np.flatnonzero(self._table[_slots(keys)])
        lows = np.searchsorted(self._keys, keys[places], "left")
        highs = np.searchsorted(self._keys, keys[places], "right")
        known = lows < highs  # the table lets some others through
        for place, low, high in zip(places[known].tolist(), lows[known], highs[known], strict=True):
            begin = first + place - self._start
            for row in range(low, high) if begin >= 0 else ():
                pattern = self._text[self._begins[row] : self._ends[row]].tobytes()
                if whole[begin : begin + len(pattern)] == pattern:
                    yield begin, pattern


def _joined(patterns: Iterable[bytes] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All patterns, each once and one after the other, as uint8; where each ends, int64 `[P]`."""
    if isinstance(patterns, np.ndarray):
        whole = np.unique(np.ascontiguousarray(patterns).view(f"V{patterns.shape[1]}"))
        return whole.view(np.uint8), np.arange(1, len(whole) + 1) * patterns.shape[1]
    known = list(dict.fromkeys(patterns))
    return np.frombuffer(b"".join(known), np.uint8), np.cumsum([len(one) for one in known], dtype=np.int64)


def _keys_at(text: np.ndarray, places: np.ndarray, width: int) -> np.ndarray:
    """uint64 keys of the `width` bytes from each of `places`, the first lowest."""
    keys = np.zeros(len(places), np.uint64)
    for byte in range(width):
        keys |= text[places + byte].astype(np.uint64) << np.uint64(8 * byte)
    return keys


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
