"""What memory a device has left, and the most that was held since a moment: of a GPU, or of this process.

Guarantees that asking changes nothing but the mark that the peak counts from; where the system does not tell,
the answer is None. May import torch; the rest is what Linux shows in /proc and in control groups.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import torch

PROC: Final = Path("/proc")
GROUPS: Final = Path("/sys/fs/cgroup")


def give_back() -> None:
    """Returns what allocators keep for later: torch's on a GPU, the C library's where it can be told to."""
    if torch.cuda.is_available() and torch.cuda.memory_reserved():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


class DeviceMemory(Protocol):
    """Bytes on one device."""

    def free(self) -> int:
        """What can still be had."""

    def used(self) -> int:
        """What this process holds now."""

    def restart(self) -> None:
        """The peak counts from now on."""

    def peak(self) -> int:
        """The most that was held since `restart`."""


class CudaMemory:
    """A GPU's, by torch's own count; what torch holds for later is free."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        """Of the whole card, other processes considered."""
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0]) + kept

    def used(self) -> int:
        """In tensors."""
        return int(torch.cuda.memory_allocated(self._device))

    def restart(self) -> None:
        """The peak counts from now on."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        """In tensors."""
        return int(torch.cuda.max_memory_allocated(self._device))


class ProcessMemory:
    """The resident set of this process on Linux; free is the least that machine, groups and limits leave."""

    def free(self) -> int:
        """Raises `OSError` where the system does not tell. Processes of one training share the machine."""
        machine = [_available(), *_left_in_groups()]
        return min([min(machine) // _beside(), *_left_of_limit()])

    def used(self) -> int:
        """The resident set."""
        return _of_status("VmRSS")

    def restart(self) -> None:
        """Raises `OSError` where the system does not allow it."""
        (PROC / "self" / "clear_refs").write_text("5")

    def peak(self) -> int:
        """The high-water mark."""
        return _of_status("VmHWM")


def memory_of(device: torch.device) -> DeviceMemory | None:
    """The memory of a device; None where it cannot be measured."""
    if device.type == "cuda":
        return CudaMemory(device)
    found = ProcessMemory()
    with contextlib.suppress(OSError, ValueError):
        found.restart()
        found.free()
        return found if device.type == "cpu" and found.peak() else None
    return None


def _beside() -> int:
    """Processes of this training on this machine, as torchrun and accelerate say."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(said)) if said.isdecimal() else 1


def _of_status(name: str) -> int:
    return _kilobytes(PROC / "self" / "status", name)


def _available() -> int:
    return _kilobytes(PROC / "meminfo", "MemAvailable")


def _kilobytes(file: Path, name: str) -> int:
    """A line `NAME:  123 kB`, in bytes. Raises `OSError` where there is none."""
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{file} does not say {name}")


def _left_in_groups() -> Iterator[int]:
    """What the limit of each control group that this process is in leaves, of either version."""
    file = PROC / "self" / "cgroup"
    for line in file.read_text().splitlines() if file.exists() else ():
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            yield from _left_above(GROUPS, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left_above(GROUPS / "memory", path, *names)


def _left_above(root: Path, path: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    """Of a group and all above it; inside a container the path may be one that only the host knows."""
    group = root / path.strip("/")
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):  # no limit is the word `max`
            most, held = (int((folder / name).read_text()) for name in (limit, usage))
            yield max(0, most - held + _cached(folder / "memory.stat", cache))
        if folder == root:
            return


def _cached(file: Path, name: str) -> int:
    """Bytes of files that a group holds and gives up when asked."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def _left_of_limit() -> Iterator[int]:
    """Under a limit of the address space, which batch systems set."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield max(0, limit - _of_status("VmSize"))
