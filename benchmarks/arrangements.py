"""Time and memory of one pass (forward, backward, gradients of units) by how the network runs.

    OMP_NUM_THREADS=1 python benchmarks/arrangements.py dit float32 bfloat16 channels_last

The models are those of `bench`, with random weights: LoRA on attention (`dit:full` for another strategy), 16
units of one row. Times are processor time of interleaved rounds, as ratios to float32. With one arrangement
alone: its peak of memory instead.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from dp_diffusers.benching import memory
from dp_diffusers.benching.case import Case
from dp_diffusers.benching.measuring import interleaved
from dp_diffusers.benching.work import work_of
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.unit_grads import HookedUnitGradients
from dp_diffusers.recipe import RuntimeSettings
from dp_diffusers.runtime.arrangement import arrange, rehearse_arranged
from dp_diffusers.runtime.compiled_parts import as_compiled

ROUNDS = 7
ARRANGEMENTS = {
    "float32": RuntimeSettings(),
    "bfloat16": RuntimeSettings(dtype="bfloat16"),
    "channels_last": RuntimeSettings(channels_last=True),
    "channels_last+bfloat16": RuntimeSettings(channels_last=True, dtype="bfloat16"),
    "checkpointing": RuntimeSettings(gradient_checkpointing=True),
    "compile": RuntimeSettings(compile=True),
    "compile+bfloat16": RuntimeSettings(compile=True, dtype="bfloat16"),
}


def passes(family: str, strategy: str, runtime: RuntimeSettings) -> Callable[[int], None]:
    """One pass on the same random rows each time."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = work_of(Case(family=family, strategy=strategy, dtype=runtime.dtype), device=device)
    network, draws, owners = work.family.network, work.draws(), RowOwners.of(work.owner)
    arrange(network, runtime)
    if runtime.compile:
        began = time.process_time()
        rehearse_arranged(work.family, runtime)
        print(f"{family}: compiled in {time.process_time() - began:.0f} s")
    source = HookedUnitGradients(network)

    def one(_: int) -> None:
        with as_compiled(runtime.compile):
            losses = work.losses(draws)
            source.compute(losses, work.weight, owners)

    return one


def main() -> None:
    """Prints one line an arrangement."""
    family, *names = sys.argv[1:]
    family, _, strategy = family.partition(":")
    strategy = strategy or "lora"
    if len(names) == 1:
        before = memory._resident()
        one = passes(family, strategy, ARRANGEMENTS[names[0]])
        one(0)
        memory._reset_peak()
        one(1)
        print(f"{family} {strategy} {names[0]}: {(memory._peak_resident() - before) / 2**20:.0f} MiB")
        return
    steps = {
        name: passes(family, strategy, ARRANGEMENTS[name]) for name in dict.fromkeys(["float32", *names])
    }
    times = interleaved(steps, ROUNDS, clock=time.process_time)
    for name in steps:
        ratio = median(times.ratios(name, "float32"))
        print(f"{family} {strategy} {name}: {median(times.seconds[name]):.3f} s, {ratio:.2f}")


if __name__ == "__main__":
    main()
