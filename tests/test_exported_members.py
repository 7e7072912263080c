"""The public surface: what `__all__` promises is there, and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys

import dp_diffusers


def test_all_is_sorted_and_real() -> None:
    assert dp_diffusers.__all__ == sorted(dp_diffusers.__all__)
    for name in dp_diffusers.__all__:
        assert getattr(dp_diffusers, name) is not None


def test_every_member_is_documented() -> None:
    for name in dp_diffusers.__all__:
        assert (getattr(dp_diffusers, name).__doc__ or "").strip(), name


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, dp_diffusers; print([m for m in ('torch', 'numpy', 'diffusers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_unknown_member_is_an_attribute_error() -> None:
    assert not hasattr(dp_diffusers, "nothing")
