"""Which device a model runs on.

Guarantees a clear refusal of a device that is not there. May import torch. The names are torch's, and `auto`.
"""

from __future__ import annotations

import torch

from dp_diffusers.errors import ParameterError
from dp_diffusers.processes.ranks import Ranks


def device_of_process(name: str, ranks: Ranks) -> torch.device:
    """As `device_of`; of several processes on a machine each has a GPU of its own while there are enough."""
    device = device_of(name)
    if not ranks.several or device.type != "cuda" or device.index is not None:
        return device
    mine = torch.device("cuda", ranks.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(mine)
    return mine


def device_of(name: str) -> torch.device:
    """`auto` is the GPU where there is one, else the CPU.

    Raises `ParameterError` for a GPU that this machine lacks, or a name that torch does not know.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ParameterError(f"unknown device {name!r}", hint="auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ParameterError(
            f"the device {name!r} is not there", hint="set runtime.device, or --device, to auto or cpu"
        )
    return device
