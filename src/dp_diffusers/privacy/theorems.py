"""Which theorem bounds the privacy loss of a mechanism under an adjacency, by name.

Guarantee: a pair of mechanism and adjacency either has a theorem here, whose dominating pair is the one the
accountant composes, or is refused. Imports the standard library only. The arguments are written out in
docs/design/0008; sources: Zhu, Dong and Wang 2022 (arXiv 2106.08567), arXiv 2508.15089 (truncation), 2025.

    adjacency    neighbours                            one step's worst pair, without truncation
    add_remove   one unit is there or not              (1-q) N(0) + q N(1)  against  N(0)
    zero_out     one unit's images, or none            (1-q) N(0) + q N(1)  against  N(0)
    replace      one unit's images, or any others      (1-q) N(0) + q N(1)  against  (1-q) N(0) + q N(-1)
"""

from __future__ import annotations

from typing import Final

from dp_diffusers.errors import unknown_name
from dp_diffusers.privacy.budget import ADJACENCIES
from dp_diffusers.privacy.events import Record

_COMPOSED: Final = "; steps compose adaptively by dominating pairs (Zhu, Dong and Wang 2022)"
_TRUNCATED: Final = (
    "Truncated Poisson subsampling over a fixed number of slots: with the chance that the limit is met, one "
    "slot displaces another (arXiv 2508.15089, 2025)"
)
_POISSON: Final = "Poisson subsampling of the Gaussian mechanism"
_PRESENCE: Final = "worst pair of the sampled Gaussian (Mironov, Talwar and Zhang 2019)"
_SUBSTITUTION: Final = "the worst pair is two opposite units at the clip norm (by Slepian 1962)"

_THEOREMS: Final = {
    ("none", "add_remove"): "Gaussian mechanism, sensitivity 1 (Balle and Wang 2018)",
    ("none", "zero_out"): "Gaussian mechanism, sensitivity 1 (Balle and Wang 2018)",
    ("none", "replace"): "Gaussian mechanism, sensitivity 2 (Balle and Wang 2018)",
    ("poisson", "add_remove"): f"{_POISSON}, presence of a unit: {_PRESENCE}",
    ("poisson", "zero_out"): f"{_POISSON}, a unit blanked: {_PRESENCE}",
    ("poisson", "replace"): f"{_POISSON}, substitution: {_SUBSTITUTION}",
    ("truncated", "add_remove"): f"{_TRUNCATED}, presence of a unit in a slot; data sets of at most "
    "`population` units, a number taken as public",
    ("truncated", "zero_out"): f"{_TRUNCATED}, a unit blanked",
    ("truncated", "replace"): f"{_TRUNCATED}, substitution",
}


def theorem_of(record: Record, adjacency: str) -> str:
    """The theorem that bounds `record` under `adjacency`, as a short public sentence for certificates.

    Raises `ParameterError` for an adjacency without one.
    """
    if adjacency not in ADJACENCIES:
        raise unknown_name("adjacency", str(adjacency), ADJACENCIES)
    return _THEOREMS[record.sampling, adjacency] + _COMPOSED
