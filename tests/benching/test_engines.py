"""Every engine on tiny models, and gradients that are wrong on purpose."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from dp_diffusers.benching import correctness, kept, running
from dp_diffusers.benching.case import ENGINES, FAMILIES, OURS, PLAIN, Case
from dp_diffusers.benching.correctness import Oracle, error_of, gradient_error, oracle_of
from dp_diffusers.benching.engines import Engine, engine
from dp_diffusers.benching.memory import MemoryMeter
from dp_diffusers.benching.profiling import PARTS, resolved
from dp_diffusers.benching.results import RIGHT, BenchResult, Row
from dp_diffusers.benching.work import work_of
from dp_diffusers.errors import ModelError, RunFolderError

CPU = torch.device("cpu")


class Fake(Engine):
    """An engine whose sum is given."""

    def __init__(self, total: list[Tensor]) -> None:
        self.total = total

    def step(self, number: int) -> None:
        """Nothing."""

    def clipped_sum(self, draws: Any, clip_norm: float) -> list[Tensor]:
        return self.total


@pytest.fixture
def oracle() -> Oracle:
    clipped = [torch.tensor([1.0, -2.0]), torch.tensor([[0.001]])]
    return Oracle(draws=None, clip_norm=1.0, clipped=clipped, whole=clipped)  # type: ignore[arg-type]


def test_a_right_gradient_has_no_error(oracle: Oracle) -> None:
    assert error_of(Fake(list(oracle.clipped)), oracle) == 0


@pytest.mark.planted
@pytest.mark.parametrize(
    ("total", "error"),
    [
        ([torch.tensor([1.0, -1.0]), torch.tensor([[0.001]])], 0.5),
        ([torch.tensor([1.0, -2.0]), torch.tensor([[0.021]])], 1.0),  # of a floor of 1 % of the largest
        ([torch.tensor([2.0, -4.0]), torch.tensor([[0.002]])], 1.0),
    ],
)
def test_planted_wrong_gradients_are_seen(oracle: Oracle, total: list[Tensor], error: float) -> None:
    assert error_of(Fake(total), oracle) == pytest.approx(error)


def test_the_parts_of_a_profile_exist() -> None:
    for targets in PARTS.values():
        for target in targets:
            resolved(target)


def test_without_opacus_its_engines_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opacus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opacus", None)
    for module in ("opacus", "ghost", "official"):
        monkeypatch.delitem(sys.modules, f"dp_diffusers.benching.engines.{module}", raising=False)
    for name in ("opacus-hooks", "opacus-ghost", "opacus-functorch", "official"):
        with pytest.raises(ModelError, match=r"^opacus is not installed$"):
            engine(name, None)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_every_engine(family: str) -> None:
    """Ours, plain and vmap are right; clipping copies is not; Opacus' rule of a convolution is known to be
    wrong behind an attention."""
    case = Case(family=family, units=4, noise_draws=2)
    found = oracle_of(case, device=CPU)
    errors = {name: gradient_error(name, case, found, device=CPU) for name in ENGINES}
    assert {name for name, error in errors.items() if error > RIGHT} == {"opacus-ghost", "official"}
    single = Case(family=family, units=4, strategy="full")
    whole = oracle_of(single, device=CPU)
    for name in (PLAIN, OURS, "vmap", "opacus-functorch"):
        assert gradient_error(name, single, whole, device=CPU) < RIGHT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Full backward hook")  # the images need no gradient
def test_the_published_pattern_takes_passes_of_ten_images() -> None:
    """With one draw a unit it is right, over passes too."""
    case = Case(family="latent", units=12)
    assert gradient_error("official", case, oracle_of(case, device=CPU), device=CPU) < RIGHT
    made = engine("official", work_of(case, device=CPU, tiny=True))
    with mock.patch.object(made, "_pass", wraps=made._pass) as passes:  # type: ignore[attr-defined]
        made.step(0)
    assert [call.args[1] for call in passes.call_args_list] == [0, 10]


@pytest.mark.slow
@pytest.mark.planted
def test_planted_clip_of_each_row_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(family="dit", units=4, noise_draws=3)
    found = oracle_of(case, device=CPU)
    made = engine(OURS, work_of(case, device=CPU, tiny=True))
    assert error_of(made, found) < RIGHT
    rows = property(lambda work: torch.arange(work.case.rows))
    monkeypatch.setattr(correctness.Work, "owner", rows)
    assert error_of(made, found) > 0.01


@pytest.mark.slow
def test_a_small_benchmark_end_to_end(tmp_path: Path) -> None:
    """Every engine has a time, memory and a gradient; a profile adds up; the files are there."""
    told: list[str] = []
    result = running.bench(
        out=tmp_path / "bench",
        only=["family=pixel", "noise_draws=4"],
        rounds=2,
        device="cpu",
        profile=True,
        small=True,
        progress=lambda message: told.append(message),
    )
    assert [row.engine for row in result.rows] == list(ENGINES)
    assert all(row.time_ratio and row.memory_bytes and row.gradient_error is not None for row in result.rows)
    assert told == ["case 1/1: pixel, lora, 4 x 4 rows, float32"]
    document = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert document == {**json.loads(json.dumps(result.to_dict())), "complete": True}
    assert {path.name for path in (tmp_path / "bench").iterdir()} == {"bench.json", "bench.svg", "bench.png"}
    parts = document["profiles"][0]["parts"][OURS]
    assert {*PARTS, "rest", "step"} == set(parts)
    assert all(parts[name] > 0 for name in PARTS)


@pytest.mark.slow
def test_an_engine_that_refuses_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(work: Any) -> nn.Module:
        raise NotImplementedError("not this model")

    monkeypatch.setattr("dp_diffusers.benching.engines.vmap.Vmap", refuses)
    monkeypatch.setattr(MemoryMeter, "peak", lambda self, case, engine: None)
    monkeypatch.setattr("subprocess.Popen", mock.MagicMock())
    only = ["family=dit", "noise_draws=4", "engine=vmap"]
    result = running.bench(out=tmp_path, only=only, rounds=2, device="cpu", small=True)
    plain, vmap = result.rows
    assert plain.time_ratio == 1.0
    assert (vmap.time_ratio, vmap.reason) == (None, "not this model")


def test_a_stopped_benchmark_goes_on_and_a_finished_one_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def rows(case: Case, *others: Any) -> list[Row]:
        if len(done) == 1:
            done.append("stopped")
            raise KeyboardInterrupt
        done.append(case.family)
        return [Row(**case.facts(), engine=name, reason="not tried") for name in case.engines]

    monkeypatch.setattr(running, "_rows", rows)
    monkeypatch.setattr("subprocess.Popen", mock.MagicMock())
    monkeypatch.setattr("dp_diffusers.benching.chart.draw", lambda result, path: path)
    call: Any = partial(running.bench, out=tmp_path, rounds=2, device="cpu")
    only = ["family=dit", "family=latent", "noise_draws=4", "engine=vmap"]
    with pytest.raises(KeyboardInterrupt):
        call(only=only)
    assert len(call(only=only).rows) == 4
    assert done == ["latent", "stopped", "dit"]
    call(only=only)
    assert done[3:] == ["latent", "dit"]


def test_a_stopped_benchmark_of_other_code_begins_anew(tmp_path: Path) -> None:
    case, settings = Case(family="dit", engines=(PLAIN,)), {"code": "a"}
    row = Row(**case.facts(), engine=PLAIN, time_ratio=1.0, low=1.0, high=1.0, seconds=0.4)
    kept.write(BenchResult(rows=[row], device="cpu", settings=settings), tmp_path, complete=False)
    assert kept.opened(tmp_path, "cpu", settings).has(case)
    assert not kept.opened(tmp_path, "cpu", {"code": "b"}).has(case)
    assert not kept.opened(tmp_path, "gpu", settings).has(case)
    (tmp_path / "bench.json").write_text("{")
    assert not kept.opened(tmp_path, "cpu", settings).has(case)


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write"):
        running.bench(out=tmp_path / "file", device="cpu")
