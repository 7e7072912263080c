"""Which sentences belong to a certificate: those that this version writes for its numbers.

Guarantee: the two facts about the data that no field holds are found again from the sentences, or the
sentences are another's. Imports privacy/ and the standard library.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

from dp_diffusers.errors import DPDiffusersError
from dp_diffusers.privacy.assumptions import assumptions_of
from dp_diffusers.privacy.statements import statements_of

_MALFORMED: Final = (TypeError, ValueError, KeyError, OverflowError, AttributeError)


def facts_of(document: Mapping[str, Any]) -> dict[str, bool] | None:
    """The facts about the data that the sentences of a certificate go on.

    None where they do not follow from its numbers, as this version words them, whichever facts are taken.
    """
    said = (document["assumptions"], document["statements"])
    for from_data, multi_owner in itertools.product((False, True), repeat=2):
        facts = {"class_names_from_data": from_data, "multi_owner": multi_owner}
        try:
            if said == (assumptions_of(document, **facts), statements_of(document, **facts)):
                return facts
        except (DPDiffusersError, *_MALFORMED):  # fields that no sentence can be made of
            return None
    return None
