"""A network that tells public classes apart: what it sees before its last layer are the features of an image.

Guarantees that images are treated one by one (group normalisation, Wu & He 2018), and that a file holds all
that decides what the network computes. May import torch and safetensors. Residual blocks after He et al.
(2016).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from dp_diffusers.errors import ModelError
from dp_diffusers.evaluation.features import OWN_FILE, Features, network_file
from dp_diffusers.evaluation.network_features import in_blocks

_SHAPE: Final = "shape"  # key of the file's metadata
_LUMA: Final = (0.299, 0.587, 0.114)  # of ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Images of `size` and `channels`; `blocks` residual blocks of each of `widths`; `classes` told apart."""

    size: int
    channels: int
    widths: tuple[int, ...]
    blocks: int
    groups: int
    classes: int


class _Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.first = nn.GroupNorm(groups, channels)
        self.convolve = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.second = nn.GroupNorm(groups, out)
        self.again = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        same = channels == out and stride == 1
        self.beside = None if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, channels, h, w]` to `[N, out, h / stride, w / stride]`."""
        ready = functional.relu(self.first(x))
        added: Tensor = self.again(functional.relu(self.second(self.convolve(ready))))
        beside: Tensor = x if self.beside is None else self.beside(ready)
        return added + beside


class FeatureNetwork(nn.Module):
    """Each width halves the image; the means over places of the last one are the features."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.enter = nn.Conv2d(shape.channels, shape.widths[0], 3, 1, 1, bias=False)
        blocks, channels = [], shape.widths[0]
        for width in shape.widths:
            for place in range(shape.blocks):
                blocks.append(_Residual(channels, width, 1 if place else 2, shape.groups))
                channels = width
        self.body = nn.Sequential(*blocks)
        self.leave = nn.GroupNorm(shape.groups, channels)
        self.answer = nn.Linear(channels, shape.classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def dim(self) -> int:
        """Number of features of an image."""
        return self.shape.widths[-1]

    def features(self, pixels: Tensor) -> Tensor:
        """float32 `[N, channels, size, size]` in [-1, 1] to `[N, dim]`."""
        seen = self.body(self.enter(pixels.contiguous(memory_format=torch.channels_last)))
        means: Tensor = functional.relu(self.leave(seen)).mean((2, 3))
        return means

    def forward(self, pixels: Tensor) -> Tensor:
        """`[N, classes]`: scores of the public classes."""
        scores: Tensor = self.answer(self.features(pixels))
        return scores

    def save(self, folder: Path) -> None:
        """Writes the one file of the network."""
        weights = {name: value.detach().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / OWN_FILE, metadata={_SHAPE: json.dumps(asdict(self.shape))})


def extractor(place: Path) -> Features:
    """The features of the network in a folder, or in a file, of images of any size, grey or colour.

    Raises `ModelError` where there is none.
    """
    network, digest = _opened(network_file(place))
    network.eval().requires_grad_(False)

    def function(images: Tensor) -> Tensor:
        return network.features(_fitted(images, network.shape))

    return Features(
        name=f"features-{digest[:12]}",
        dim=network.dim,
        sha256=digest,
        function=in_blocks(function, network.dim),
    )


def _opened(path: Path) -> tuple[FeatureNetwork, str]:
    try:
        content = path.read_bytes()
        with safe_open(path, framework="pt") as file:
            shape = json.loads(file.metadata()[_SHAPE])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        network = FeatureNetwork(Shape(**{**shape, "widths": tuple(shape["widths"])}))
        network.load_state_dict(weights)
    except OSError as error:
        raise ModelError(
            f"{path.parent} holds no feature network", hint="dp-diffusers pretrain with a section features"
        ) from error
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} is damaged, or of another kind") from error
    return network, hashlib.sha256(content).hexdigest()


def _fitted(images: Tensor, shape: Shape) -> Tensor:
    """uint8 `[N, 3, H, W]` to what the network sees."""
    pixels = images.float()
    if shape.channels == 1:
        pixels = (pixels * pixels.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if tuple(pixels.shape[2:]) != (shape.size, shape.size):
        pixels = functional.interpolate(
            pixels, (shape.size, shape.size), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 255)
    return pixels / 127.5 - 1.0
