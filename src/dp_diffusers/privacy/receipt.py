"""The proof that one release was paid for: made by the ledger, redeemed once by the noise.

Guarantee: a receipt opens the release of exactly one (mechanism, step, lane, plan), exactly once; it cannot
be copied, pickled or used again. Imports the standard library only. Source: the pay-then-noise rule of the
design.
"""

from __future__ import annotations

from typing import Final, NoReturn, final

from dp_diffusers.errors import GuaranteeError

STEP: Final = "step"  # a step of the training; side queries go by the names of their records


@final
class Receipt:
    """Made by `Reservation.charge` and `charge_query` after the charge is on disk; see `redeem`."""

    __slots__ = ("_fingerprint", "_lane", "_mechanism", "_redeemed", "_step")

    def __init__(self, *, step: int, lane: bytes, plan_fingerprint: str, mechanism: str = STEP) -> None:
        self._mechanism = mechanism
        self._step = step
        self._lane = lane
        self._fingerprint = plan_fingerprint
        self._redeemed = False

    def redeem(self, step: int, lane: bytes, plan_fingerprint: str, mechanism: str = STEP) -> None:
        """Uses the receipt up. Raises `GuaranteeError` if it was used before or was paid for another step.

        `step`: the step about to be released; `lane`: 16 bytes of the keys that draw its noise;
        `plan_fingerprint`: the plan whose noise is used; `mechanism`: a step of the training, or the name of
        a side query. A receipt that does not match is used up too.
        """
        if self._redeemed:
            raise GuaranteeError(f"the receipt for step {self._step} was redeemed before")
        self._redeemed = True
        for what, paid, asked in (
            ("mechanism", self._mechanism, mechanism),
            ("step", self._step, step),
            ("lane", self._lane, lane),
            ("plan", self._fingerprint, plan_fingerprint),
        ):
            if paid != asked:
                raise GuaranteeError(f"the receipt was paid for another {what}: step {self._step} was paid")

    def __repr__(self) -> str:
        return f"Receipt(step={self._step}, redeemed={self._redeemed})"

    def __copy__(self) -> NoReturn:
        raise GuaranteeError("a receipt cannot be copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise GuaranteeError("a receipt cannot be copied")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise GuaranteeError("a receipt cannot be pickled")
