"""The precision of the engine's products: float32 or better, whatever the model's.

May import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def precise(*tensors: Tensor) -> list[Tensor]:
    """The tensors in one common type of at least 32 bits."""
    if all(tensor.dtype is torch.float32 for tensor in tensors):
        return list(tensors)
    kind = torch.float32
    for tensor in tensors:
        kind = torch.promote_types(kind, tensor.dtype)
    return [tensor.to(kind) for tensor in tensors]


def exact_products(device: torch.device) -> bool:
    """Whether float32 products are products of float32, so that a second way gives the same to rounding."""
    try:
        if torch.get_float32_matmul_precision() != "highest":
            return False
        return device.type == "cpu" or not torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:  # torch does not say once a backend has a precision of its own
        return False


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Around private passes: float32 convolutions are of float32 on a GPU too, where torch would take TF32.

    Its kernels are chosen by the number of rows, and what they round away is more than the noise's margin
    covers. Matrix products are float32 unless somebody asked for less.
    """
    convolution: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # torch sets it up by hand
    before = convolution.fp32_precision
    convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision = before
