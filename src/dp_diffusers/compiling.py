"""Whether `torch.compile` can work here, asked before anything is begun.

Guarantees one clear line where the compiler that torch needs is missing. May import torch. What it needs: a
C++ compiler on a CPU, Triton on a GPU.
"""

from __future__ import annotations

import torch

from dp_diffusers.errors import ParameterError


def require_compiler(device: torch.device) -> None:
    """Raises `ParameterError` where `torch.compile` cannot work for the device."""
    missing = _missing(device)
    if missing is not None:
        raise ParameterError(
            f"models cannot be compiled here: {missing}",
            hint="install it, or leave --compile and runtime.compile out; images are the same without",
        )


def _missing(device: torch.device) -> str | None:
    """What is not there, in words."""
    from torch.utils._triton import has_triton

    if device.type == "cuda":
        return None if has_triton() else "torch.compile needs Triton on a GPU"
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:  # torch has a kind of its own for it, which moves between versions
        return "torch.compile needs a C++ compiler such as g++"
    return None
