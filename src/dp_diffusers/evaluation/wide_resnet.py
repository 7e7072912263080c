"""WRN-40-4, the classifier of the literature on private image synthesis; for a GPU.

Guarantees a fixed number of images, equal weights for equal seeds on one machine's CPU, and that nothing is
chosen by test accuracy. May import torch. Network and rate: Zagoruyko & Komodakis (2016), without dropout;
its three drops of the rate are a cosine here (Loshchilov & Hutter 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from dp_diffusers.evaluation.augmentation import distorted
from dp_diffusers.evaluation.classifier import Labelled, pixels_of
from dp_diffusers.evaluation.classifiers import Classifier
from dp_diffusers.runtime.devices import device_of

NAME: Final = "wrn-40-4"
DEPTH: Final = 40
WIDTH: Final = 4
BATCH: Final = 128
RATE: Final = 0.1
PASSES: Final = 2_000_000  # 40 times the 50,000 images of CIFAR-10


class Block(nn.Module):
    """Normalise, rectify, convolve, twice; and what came in is added."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.rest = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
        )
        self.short = (
            None if (channels, stride) == (out, 1) else nn.Conv2d(channels, out, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to [N, out, H / stride, W / stride]."""
        ready = self.first(x)
        beside: Tensor = x if self.short is None else self.short(ready)
        added: Tensor = beside + self.rest(ready)
        return added


def network(channels: int, classes: int, *, depth: int = DEPTH, width: int = WIDTH) -> nn.Sequential:
    """Three groups of (depth - 4) / 6 blocks, of 16, 32 and 64 times `width` channels, at any image size."""
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=False)]
    wide = 16
    for out, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
        for place in range((depth - 4) // 6):
            layers.append(Block(wide, out, stride if place == 0 else 1))
            wide = out
    layers += [
        nn.BatchNorm2d(wide),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(wide, classes),
    ]
    for layer in layers:
        layer.apply(_start)
    return nn.Sequential(*layers)


def trained(
    train: Labelled,
    *,
    device: torch.device,
    seed: int,
    passes: int,
    classes: int,
    depth: int = DEPTH,
    width: int = WIDTH,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """The network after `passes` images, in evaluation mode on `device`; images are bent as ever."""
    images, labels = torch.from_numpy(train[0]), torch.from_numpy(train[1])
    steps = max(1, passes // BATCH)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(images.shape[3], classes, depth=depth, width=width)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        while len(order) < BATCH:  # batches run over the end of an epoch into the next
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        chosen, order = order[:BATCH], order[BATCH:]
        pixels = distorted(pixels_of(images[chosen]), generator, flip=images.shape[3] == 3).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            found = model(pixels.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(found.float(), labels[chosen].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps)
    return model.eval()  # type: ignore[no-any-return]


def classifier(device: str) -> Classifier:
    """For `classifiers.CLASSIFIERS`. Raises `ParameterError` for a device that is not there."""
    return Classifier(
        name=NAME, default_passes=lambda size: PASSES, trained=partial(trained, device=device_of(device))
    )


def _start(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
