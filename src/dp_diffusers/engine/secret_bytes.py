"""Bytes that are never shown: keys, and the subkeys of single streams.

Guarantees: `repr`, `str`, and whatever prints the local variables of a traceback show `<secret>`; pickling
and copying raise. May import the errors only. Source: none needed; the value itself is an ordinary `bytes`.
"""

from __future__ import annotations

from typing import NoReturn

from dp_diffusers.errors import GuaranteeError


class SecretBytes(bytes):
    """An ordinary `bytes` that does not show itself."""

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise GuaranteeError(
            "the keys of a run cannot be pickled or copied", hint="pass the RunKeys object itself"
        )

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(None)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce_ex__(None)
