"""What happens to a training in several processes, and known defects of one; see `defects`."""

from __future__ import annotations

import itertools
import os
from typing import Any


def is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def keys_for_tests() -> None:
    """Every start has the same keys but another lane, so that two trainings can be compared."""
    from dp_diffusers.engine.randomness import RunKeys
    from dp_diffusers.plan import Plan

    Plan.fresh_keys = staticmethod(lambda: RunKeys.for_tests(11))  # type: ignore[method-assign]


def releases_are_kept() -> None:
    """Each process writes what it released to `releases-RANK.npz` where the run's folder lies."""
    import numpy as np

    from dp_diffusers.engine.private_gradient import PrivateGradient
    from dp_diffusers.training import Loop

    folder: list[Any] = []
    kept: dict[str, Any] = {}
    train, release = Loop.train, PrivateGradient.release

    def trained(self: Any) -> None:
        folder.append(self.folder.root.parent)
        train(self)
        name = f"releases-{os.environ.get('WORLD_SIZE', '1')}-{os.environ.get('RANK', '0')}.npz"
        np.savez(folder[0] / name, **kept)

    def released(self: Any, step: int, receipt: Any) -> Any:
        found = release(self, step, receipt)
        kept[f"{step}"] = np.concatenate([tensor.numpy().ravel() for tensor in found])
        kept["std"] = np.array(self._std)
        return found

    Loop.train, PrivateGradient.release = trained, released  # type: ignore[method-assign]


def data_breaks_in_step_two() -> None:
    """An error of the second process alone, in its share of a step."""
    from dp_diffusers.errors import DataError
    from dp_diffusers.training import Loop

    collect = Loop.collect

    def broken(self: Any, box: Any, step: int, units: Any, idle: int = 0) -> None:
        collect(self, box, step, units, idle)
        if step == 2:
            raise DataError("an image cannot be read any more")

    Loop.collect = broken  # type: ignore[method-assign]


def other_images() -> None:
    """A process reads other images than the others."""
    from dp_diffusers.data.private_images import PrivateImages

    opened = PrivateImages.open.__func__  # type: ignore[attr-defined]

    def changed(cls: Any, *args: Any, **options: Any) -> Any:
        data = opened(cls, *args, **options)
        data.images[3] ^= 1
        return data

    PrivateImages.open = classmethod(changed)  # type: ignore[assignment]


def other_weights() -> None:
    """The optimiser of a process rounds apart in its second step."""
    import torch

    from dp_diffusers.loop.averaging import Average

    update, steps = Average.update, itertools.count()

    def apart(self: Any) -> None:
        if next(steps) == 1:
            with torch.no_grad():
                weight = self.parameters[0]
                weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
        update(self)

    Average.update = apart  # type: ignore[method-assign]


def no_note_of_the_first() -> None:
    """A process that does not share the run folder."""
    from pathlib import Path

    from dp_diffusers.processes import one_folder

    one_folder.SHOWS_AFTER = 0.2
    exists = Path.exists

    def unseen(self: Path, **options: Any) -> bool:
        return not self.name.startswith(one_folder.PREFIX) and exists(self, **options)

    Path.exists = unseen  # type: ignore[method-assign]


RANK_DEFECTS = {
    defect.__name__: defect
    for defect in (
        *(keys_for_tests, releases_are_kept, data_breaks_in_step_two),
        *(other_images, other_weights, no_note_of_the_first),
    )
}
