"""The mechanisms a recipe can name; each file joins the accountant's numbers to the engine's parts.

Guarantee: the table is read without importing any mechanism, so a command line can list it at once. Imports
the standard library only. A mechanism is one file with a class and one line here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from dp_diffusers.errors import unknown_name

MECHANISMS: Final = {
    "dpsgd": "dp_diffusers.mechanisms.dpsgd:DPSGD",
    "pe": "dp_diffusers.mechanisms.evolution:PE",
    "none": "dp_diffusers.mechanisms.none:NonPrivate",
}


def mechanism_class(name: str) -> type[Any]:
    """The class registered as `name`. Raises `ParameterError` with the nearest known name."""
    if name not in MECHANISMS:
        raise unknown_name("mechanism", name, MECHANISMS)
    module, attribute = MECHANISMS[name].split(":")
    found: type[Any] = getattr(import_module(module), attribute)
    return found
