"""A warning that the package's own code causes fails the suite; one inside another library does not."""

from __future__ import annotations

import warnings

import pytest


def _caused_in(module: str) -> None:
    warnings.warn_explicit("planted", DeprecationWarning, "file.py", 1, module=module, registry={})


@pytest.mark.parametrize("module", ["dp_diffusers", "dp_diffusers.engine.noise"])
def test_a_warning_of_the_package_is_an_error(module: str) -> None:
    with pytest.raises(DeprecationWarning, match="planted"):
        _caused_in(module)


def test_a_warning_inside_another_library_is_not() -> None:
    with pytest.warns(DeprecationWarning, match="planted"):
        _caused_in("diffusers.schedulers")
