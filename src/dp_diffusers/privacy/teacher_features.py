"""Whose features a released classifier looks at, in the words of a certificate.

Guarantee: every sentence about public data names the network of the features, and the file of one that its
user trained. Imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

NETWORK_FILE: Final = "teacher-features.safetensors"  # in a release: the network, where its user trained it
OWN_FEATURES: Final = "features-"  # how the name of such a network begins; a part of its hash follows


def is_own(teacher: Mapping[str, Any]) -> bool:
    """Whether the user trained the network of these features."""
    return str(teacher.get("features")).startswith(OWN_FEATURES)


def network_of(teacher: Mapping[str, Any]) -> str:
    """The network by its name, and by its file where it is released."""
    place = f" ({NETWORK_FILE} of this release)" if is_own(teacher) else ""
    return f"the network {teacher['features']!r}{place}"
