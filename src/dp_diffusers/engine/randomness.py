"""The secret streams of one process: every draw is a pure function of (key, domain, step, unit), and nothing
else.

Guarantees: keys come from the operating system, are never shown, pickled, copied or inherited by any kind of
fork, and no two domains share a stream. May import numpy and cryptography, never torch. Sources: ChaCha20
(RFC 8439) as a keystream; Holohan & Braghin, *Secure Random Sampling in Differential Privacy* (2021, arXiv
2107.10138) for sums of draws.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import weakref
from collections.abc import Callable
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from dp_diffusers.engine.normals import add_normals, normal_float32, unit_interval
from dp_diffusers.engine.secret_bytes import SecretBytes
from dp_diffusers.errors import GuaranteeError, ParameterError

Floats = NDArray[np.float64]
Units = NDArray[np.int64]

NOISE_DRAWS = (
    4  # independent normals added up for each noise value; undoing one float no longer undoes the noise
)
HANDED_OVER = 49  # bytes: key, lane, and whether they are test keys
_UNITS_PER_BLOCK = 256  # keeps the intermediate arrays of `normal` inside the cache
_VALUES_PER_BLOCK = 1 << 20
_NOISE_PER_BLOCK = 1 << 14  # even; a block and what is computed on the way lie in the cache


class RunKeys:
    """Key and lane of one process start: the source of all randomness inside a private step.

    Guarantees
    - `fresh()` takes 32 key bytes and 16 lane bytes from `os.urandom`; the key is never written anywhere.
    - The row of a unit does not depend on which other units are asked for, nor on their order.
    - Different domains, steps, units, kinds (uniform, normal, noise) and lanes give unrelated streams.
    - Pickling and copying raise `GuaranteeError`; a forked child has no key and every use there raises, also
      where the fork was made behind Python's back.
    - Of any number of threads, one can claim the noise of a step or of a side query.
    - Keys that another process handed over (`hand_over`, `received`) give every draw but noise: among all
      processes that hold a key, the one that made it alone can draw the noise of a lane.

    `lane` is public (the ledger stores it); `not_private` is True for test keys, whose streams anyone can
    repeat.
    """

    __slots__ = ("__weakref__", "_claimed", "_key", "_lane", "_not_private", "_process", "_received")

    def __init__(self, key: bytes, lane: bytes, *, not_private: bool) -> None:
        if len(key) != 32 or len(lane) != 16:
            raise ParameterError(
                f"expected a key of 32 bytes and a lane of 16, got {len(key)} and {len(lane)}"
            )
        self._key: SecretBytes | None = SecretBytes(key)
        self._lane = bytes(lane)
        self._not_private = not_private
        self._process = os.getpid()
        self._claimed: dict[tuple[str | None, int], object] = {}
        self._received = False
        _LIVE.add(self)

    @classmethod
    def fresh(cls) -> RunKeys:
        """New secret keys from the operating system, for one start of one process."""
        return cls(SecretBytes(os.urandom(32)), os.urandom(16), not_private=False)

    @classmethod
    def for_tests(cls, seed: int, lane: bytes | None = None) -> RunKeys:
        """Repeatable keys that stamp NOT PRIVATE on whatever they touch; the lane follows from the seed
        unless given."""
        key = hashlib.sha256(b"dp-diffusers test key, not private" + str(seed).encode()).digest()
        lane = hashlib.sha256(b"dp-diffusers test lane" + key).digest()[:16] if lane is None else lane
        return cls(key, lane, not_private=True)

    def hand_over(self, send: Callable[[bytearray], object]) -> None:
        """Gives key and lane, `HANDED_OVER` bytes, to `send`, for the other processes of one training.

        The bytes are zeroed when `send` returns: it keeps none. Raises `GuaranteeError` in a forked child,
        and for keys that were received: they are handed over by the process that made them alone.
        """
        if self._received:
            raise GuaranteeError("keys that were received are not handed on")
        parcel = bytearray(self._own_key() + self._lane + bytes([self._not_private]))
        try:
            send(parcel)
        finally:
            parcel[:] = bytes(HANDED_OVER)

    @classmethod
    def received(cls, parcel: bytearray) -> RunKeys:
        """The keys that another process handed over, for every draw but noise; `parcel` is zeroed.

        Raises `GuaranteeError` for bytes that are no keys: an empty parcel is one that was opened before.
        """
        if len(parcel) != HANDED_OVER or not any(parcel[:32]) or parcel[-1] > 1:
            raise GuaranteeError("what was received holds no keys")
        keys = cls(SecretBytes(parcel[:32]), bytes(parcel[32:48]), not_private=bool(parcel[48]))
        parcel[:] = bytes(HANDED_OVER)
        keys._received = True
        return keys

    @property
    def lane(self) -> bytes:
        """16 public bytes that name this process start in the ledger."""
        return self._lane

    @property
    def not_private(self) -> bool:
        """True for keys made by `for_tests`."""
        return self._not_private

    def uniform(self, domain: str, step: int, units: Units, count: int) -> Floats:
        """Uniform draws in [0, 1) with 53 random bits, `[U, count]` float64; row u belongs to unit
        `units[u]`.

        A longer row begins with the shorter one. Raises `ParameterError` for a negative unit or step.
        """
        ids = _checked_units(units)
        words = np.empty((len(ids), count), np.uint64)
        self._fill(self._subkey("uniform", domain, step), ids, words)
        return unit_interval(words)

    def coarse_bits(self, domain: str, step: int, unit_count: int) -> NDArray[np.uint16]:
        """The first 16 random bits of one draw for each of the units 0..unit_count-1, `[unit_count]`.

        The position in one keystream is the unit id, so that 10 million units take a hundredth of a second.
        """
        if unit_count < 0:
            raise ParameterError(f"expected unit_count >= 0, got {unit_count}")
        context = _context(self._subkey("coarse", domain, step), 0)
        bits = np.empty(unit_count, np.uint16)
        for start in range(0, unit_count, _VALUES_PER_BLOCK):
            block = bits[start : start + _VALUES_PER_BLOCK]
            block[:] = np.frombuffer(context.update(bytes(block.nbytes)), np.uint16)
        return bits

    def fine_bits(self, domain: str, step: int, units: Units) -> NDArray[np.uint64]:
        """The 64 random bits that follow `coarse_bits` in the draws of some units, `[U]`."""
        ids = _checked_units(units)
        words = np.empty((len(ids), 1), np.uint64)
        self._fill(self._subkey("fine", domain, step), ids, words)
        return words[:, 0]

    def normal(self, domain: str, step: int, units: Units, count: int) -> NDArray[np.float32]:
        """Standard normal draws, `[U, count]` float32 (Box-Muller in float32); row u belongs to unit
        `units[u]`.

        Good enough to diffuse images with, not for privacy noise (see `noise`). A longer row begins with the
        shorter one.
        """
        ids, subkey = _checked_units(units), self._subkey("normal", domain, step)
        values = np.empty((len(ids), count), np.float32)
        for start in range(0, len(ids), _UNITS_PER_BLOCK):
            block = ids[start : start + _UNITS_PER_BLOCK]
            words = np.empty((len(block), count + count % 2), np.uint32)
            self._fill(subkey, block, words)
            values[start : start + len(block)] = normal_float32(words)[:, :count]
        return values

    def noise(self, step: int, name: str, size: int) -> Floats:
        """Standard normal noise `[size]` float64, each value a sum of four independent draws (scaled to
        variance 1).

        A value is a function of (key, name, step, place): a longer row begins with the shorter one. Raises
        `GuaranteeError` for keys that were received.
        """
        if self._received:
            raise GuaranteeError("the noise of a lane is drawn by the process that made its keys, and once")
        total = np.zeros(size + size % 2, np.float64)
        contexts = [_context(self._subkey("noise", f"{draw}/{name}", step), 0) for draw in range(NOISE_DRAWS)]
        for start in range(0, size, _NOISE_PER_BLOCK):
            block = total[start : start + _NOISE_PER_BLOCK]
            for context in contexts:
                add_normals(_words(context, block.size), block)
        total /= np.sqrt(NOISE_DRAWS)
        return total[:size]

    def claimed(self, step: int, query: str | None = None) -> bool:
        """Whether the noise of `step`, or of the side query at it, was already released in this lane."""
        return (query, step) in self._claimed

    def claim(self, step: int, query: str | None = None) -> None:
        """Marks the noise of `step`, or of the side query at it, as released.

        Raises `GuaranteeError` the second time: noise is never used twice, whatever ledgers were paid."""
        mine = object()
        if self._claimed.setdefault((query, step), mine) is not mine:  # one operation: no thread in between
            what = f"step {step}" if query is None else f"the query {query}"
            raise GuaranteeError(f"{what} was already released in this lane: its noise would be repeated")

    def _own_key(self) -> SecretBytes:
        if self._key is None or self._process != os.getpid():  # a library may fork without Python's handlers
            raise GuaranteeError(
                "the keys of a run do not survive a fork: this process has none",
                hint="draw in the process that made the keys, or make fresh ones here",
            )
        return self._key

    def _subkey(self, kind: str, domain: str, step: int) -> SecretBytes:
        key = self._own_key()
        if step < 0:
            raise ParameterError(f"expected step >= 0, got {step}")
        parts = (kind.encode(), domain.encode(), self._lane)
        message = b"".join(len(part).to_bytes(8, "little") + part for part in parts) + step.to_bytes(
            8, "little"
        )
        return SecretBytes(hmac.digest(key, message, "sha256"))

    @staticmethod
    def _fill(subkey: bytes, ids: Units, words: NDArray[np.unsignedinteger]) -> None:
        """Fills row u of `words` with the keystream of unit `ids[u]`."""
        size = words.shape[1] * words.itemsize
        zeros, rows = bytes(size), words.view(np.uint8)
        for unit, row in zip(ids.tolist(), rows):
            _context(subkey, unit).update_into(zeros, row)

    def __repr__(self) -> str:
        return f"RunKeys(lane={self._lane.hex()}, not_private={self._not_private})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise GuaranteeError(
            "the keys of a run cannot be pickled or copied", hint="pass the RunKeys object itself"
        )

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(None)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce_ex__(None)


_LIVE: weakref.WeakSet[RunKeys] = weakref.WeakSet()


def _drop_keys() -> None:
    for keys in list(_LIVE):
        keys._key = None


os.register_at_fork(after_in_child=_drop_keys)


def _checked_units(units: Units) -> Units:
    ids = np.asarray(units)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ParameterError(f"expected unit ids as a vector of integers, got {ids.dtype} {list(ids.shape)}")
    if ids.size and int(ids.min()) < 0:
        raise ParameterError(f"expected unit ids >= 0, got {int(ids.min())}")
    return ids.astype(np.int64, copy=False)


def _context(subkey: bytes, unit: int) -> CipherContext:
    """Keystream of one unit: the block counter (first 8 bytes) starts at 0, the nonce (last 8) is the unit
    id."""
    return Cipher(ChaCha20(subkey, bytes(8) + unit.to_bytes(8, "little")), mode=None).encryptor()


def _words(context: CipherContext, count: int) -> NDArray[np.uint64]:
    return np.frombuffer(context.update(bytes(8 * count)), np.uint64)
