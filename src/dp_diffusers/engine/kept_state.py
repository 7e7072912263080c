"""What a model keeps besides what is trained: that passes leave it as it is.

Guarantees: a buffer or a frozen parameter that a pass changes is named, also one that came or went with it;
what was there is put back then, and after an error. A table that the first pass fills in and no later one
changes may stay. What lies in plain attributes is not seen. May import torch and the errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dp_diffusers.errors import ModelError

State = dict[str, tuple[Tensor, Tensor]]  # by name: the tensor, and what it held


@contextmanager
def kept_state(module: nn.Module | None) -> Iterator[Callable[[], None]]:
    """Raises `ModelError` where a buffer or frozen parameter is another at the end than when it was called.

    Yields what is to be called once the first pass has filled in what it fills in once.
    """
    if module is None:
        yield lambda: None
        return
    buffers, before = _buffers(module), [_buffers(module)]
    versions = [_versions(module)]

    def settled() -> None:
        before[0], versions[0] = _buffers(module), _versions(module)

    try:
        yield settled
        _require_alike(before[0], _buffers(module), versions[0], _versions(module))
    except BaseException:
        _put_back(module, buffers)
        raise


def _buffers(module: nn.Module) -> State:
    return {name: (buffer, buffer.detach().clone()) for name, buffer in module.named_buffers()}


def _versions(module: nn.Module) -> dict[str, int]:
    """How often each frozen parameter was written to."""
    return {
        name: parameter._version
        for name, parameter in module.named_parameters()
        if not parameter.requires_grad
    }


def _require_alike(before: State, after: State, written: dict[str, int], now: dict[str, int]) -> None:
    changed = [name for name in before.keys() | after.keys() if not _alike(before.get(name), after.get(name))]
    changed += [name for name, count in written.items() if now.get(name) != count]
    if changed:
        raise ModelError(
            f"{', '.join(sorted(changed))}: a pass changes what the model keeps there, which has no noise",
            hint="take out what keeps running averages or counts, or switch it off (in `eval` mode, perhaps)",
        )


def _alike(before: tuple[Tensor, Tensor] | None, after: tuple[Tensor, Tensor] | None) -> bool:
    if before is None or after is None or before[1].shape != after[1].shape:
        return False
    was, now = before[1], after[1]
    return bool(((was == now) | ((was != was) & (now != now))).all())


def _put_back(module: nn.Module, saved: State) -> None:
    """The tensors that were there, with what they held, and no others."""
    with torch.no_grad():
        for prefix, part in module.named_modules():
            for key in list(part._buffers):
                name = f"{prefix}.{key}" if prefix else key
                if part._buffers[key] is not None and name not in saved:
                    del part._buffers[key]
        for name, (tensor, held) in saved.items():
            prefix, _, key = name.rpartition(".")
            if tensor.shape != held.shape:
                tensor.resize_(held.shape)
            tensor.copy_(held)
            module.get_submodule(prefix)._buffers[key] = tensor
