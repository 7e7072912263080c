"""`bench`: the grid, case by case, into a folder.

Guarantees that a stopped benchmark keeps the cases that it finished and the same call goes on with the
others, and that an engine's refusal is a row and no error. May import torch. Weights and images are random:
nothing private is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch

from dp_diffusers.benching.case import OURS, PLAIN, Case, chosen, default_grid, full_grid
from dp_diffusers.benching.correctness import Oracle, gradient_error, oracle_of, tiny
from dp_diffusers.benching.engines import Engine, engine, unwarned
from dp_diffusers.benching.kept import Kept, opened, settings_of, write
from dp_diffusers.benching.machine import code_digest, device_name, versions
from dp_diffusers.benching.measuring import Times, interleaved, interval, reason_of
from dp_diffusers.benching.memory import MemoryMeter
from dp_diffusers.benching.results import BenchResult, Row
from dp_diffusers.benching.work import work_of
from dp_diffusers.errors import ParameterError, unknown_name, within
from dp_diffusers.runtime.devices import device_of

MOST_ROUNDS: Final = 1_000
CLOCKS: Final = {"wall": time.perf_counter, "processor": time.process_time}
Progress = Callable[..., None]


def silent(**facts: Any) -> None:
    """No progress."""


def bench(
    *,
    out: str | Path,
    full: bool = False,
    only: Sequence[str] = (),
    rounds: int = 6,
    device: str = "auto",
    clock: str = "wall",
    profile: bool = False,
    small: bool = False,
    progress: Progress = silent,
) -> BenchResult:
    """Times steps of this engine and of others, beside the plain step.

    Args:
        out: folder for `bench.json` and the plots `bench.svg` and `bench.png`. A call that was stopped goes
            on there with the cases that are missing; one that was done is done again.
        full: the whole grid, hours instead of minutes.
        only: `KEY=VALUE` with the fields of a row; values of one key are alternatives.
        rounds: that count; each engine takes one step in each. From six on, intervals hold 95 %.
        device: `auto`, `cpu`, `cuda`.
        clock: `wall`, or `processor` on a CPU that does other work too: waits do not count then, such as
            that for the ledger's disk.
        profile: where the time of a step goes, this engine beside the plain step, case by case.
        small: with models of a few thousand parameters, to try the command; the figures mean nothing.
        progress: called with `message`.

    Raises:
        ParameterError: an unknown key or value, a device that is not there.
        RunFolderError: `out` cannot be written.
    """
    within(2, MOST_ROUNDS, rounds=rounds)
    place, folder = device_of(device), Path(out)
    _require_clock(clock, place)
    cases = chosen(full_grid() if full else default_grid(), only)
    settings = settings_of(cases, rounds=rounds, clock=clock, profile=profile, small=small)
    settings |= {"threads": torch.get_num_threads(), "versions": versions(), "code": code_digest()}
    kept = opened(folder, device_name(place), settings)
    result = _result(kept, place, settings, folder)
    with MemoryMeter(device=str(place), tiny=small) as meter:
        for number, case in enumerate(cases):
            if kept.has(case):
                continue
            progress(message=f"case {number + 1}/{len(cases)}: {case.name}")
            kept.rows.extend(_rows(case, place, settings, meter))
            if profile and OURS in case.engines:
                kept.profiles.append(_profile(case, place, settings))
            result = _result(kept, place, settings, folder)
            write(result, folder, complete=False)
    write(result, folder, complete=True)
    from dp_diffusers.benching.chart import draw

    for kind in ("svg", "png"):
        draw(result, folder / f"bench.{kind}")
    return result


def _result(kept: Kept, place: torch.device, settings: dict[str, Any], folder: Path) -> BenchResult:
    return BenchResult(
        rows=tuple(kept.rows),
        device=device_name(place),
        settings=settings,
        profiles=tuple(kept.profiles),
        out=folder,
    )


def _require_clock(clock: str, place: torch.device) -> None:
    """Raises `ParameterError` for a clock that is unknown, or that does not see the device work."""
    if clock not in CLOCKS:
        raise unknown_name("clock", clock, CLOCKS)
    if clock == "processor" and place.type != "cpu":
        raise ParameterError(
            f"processor time says nothing about {place.type}", hint="clock wall, or device cpu"
        )


def _rows(case: Case, place: torch.device, settings: dict[str, Any], meter: MemoryMeter) -> list[Row]:
    settle = (lambda: torch.cuda.synchronize(place)) if place.type == "cuda" else (lambda: None)
    with unwarned():
        engines, refused = _built(case, place, settings["small"])
        steps = {name: made.step for name, made in engines.items()}
        times = interleaved(steps, settings["rounds"], clock=CLOCKS[settings["clock"]], settle=settle)
    refused |= times.refused
    if PLAIN in refused:  # nothing to divide by
        refused |= dict.fromkeys(times.seconds, f"the plain step failed: {refused[PLAIN]}")
    engines.clear()
    steps.clear()
    measured = [name for name in case.engines if name not in refused]
    peaks = {name: meter.peak(case, name) for name in measured}
    return [
        _row(case, name, times, peaks, place)
        if name in measured
        else Row(**case.facts(), engine=name, reason=refused[name])
        for name in case.engines
    ]


def _built(case: Case, place: torch.device, small: bool) -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines that take the case, each with a model of its own, and why the others do not."""
    built: dict[str, Engine] = {}
    refused: dict[str, str] = {}
    for name in case.engines:
        try:
            built[name] = engine(name, work_of(case, device=place, tiny=small))
        except Exception as error:  # another library's refusal is a result
            refused[name] = reason_of(error)
    return built, refused


def _row(case: Case, name: str, times: Times, peaks: dict[str, int | None], place: torch.device) -> Row:
    ratio, own, plain = interval(times.ratios(name, PLAIN)), peaks[name], peaks[PLAIN]
    error, reason = _gradient(name, tiny(case), place)
    return Row(
        **case.facts(),
        engine=name,
        time_ratio=ratio.median,
        low=ratio.low,
        high=ratio.high,
        confidence=ratio.confidence,
        seconds=interval(times.seconds[name]).median,
        memory_bytes=own,
        memory_ratio=own / plain if own is not None and plain else None,
        gradient_error=error,
        reason=reason,
    )


@lru_cache(maxsize=256)
def _gradient(name: str, case: Case, place: torch.device) -> tuple[float | None, str | None]:
    """The gradient's error on the tiny model; or None and why."""
    try:
        return gradient_error(name, case, _oracle(case, place), device=place), None
    except Exception as error:  # another library's refusal is a result
        return None, f"gradient not compared: {reason_of(error)}"


@lru_cache(maxsize=64)
def _oracle(case: Case, place: torch.device) -> Oracle:
    return oracle_of(case, device=place)


def _profile(case: Case, place: torch.device, settings: dict[str, Any]) -> dict[str, Any]:
    from dp_diffusers.benching.profiling import profile_of

    with unwarned():
        return profile_of(case, device=place, clock=CLOCKS[settings["clock"]], tiny=settings["small"])
