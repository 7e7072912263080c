"""How many rows a pass gets: chosen from given curves, and measured on a tiny model that stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dp_diffusers.cli.main import main
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.finetuning import train
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.recipe import Recipe, RuntimeSettings, TrainingSettings
from dp_diffusers.runtime import device_memory, out_of_memory, pass_size
from dp_diffusers.runtime.device_memory import ProcessMemory, memory_of
from dp_diffusers.runtime.pass_curve import Curve, Reading, rows_needed
from dp_diffusers.strategies import strategy_of
from loop_support import cheap_trainings
from test_smaller_passes import Plan

CPU = torch.device("cpu")


def chosen(
    *,
    room: int,
    a_row: int = 10,
    most: int = 1000,
    together: int = 4,
    by_time: bool = False,
    cost: Callable[[int], float] = lambda rows: 1e-5 * rows,
    breaks: int = 10**9,
) -> tuple[Reading, list[int]]:
    """The choice on a device where a pass takes 100 bytes and `a_row` for each row, and what was tried."""
    curve = Curve(most=most, together=together, room=room, by_time=by_time)
    tried: list[int] = []

    def trial(rows: int) -> Reading | None:
        tried.append(rows)
        held = 100 + a_row * rows
        return None if rows > breaks else Reading(rows=rows, bytes=held, seconds=cost(rows), cost=cost(rows))

    curve.climb(trial)
    return curve.best(), tried


def test_the_largest_pass_that_fits_is_taken_and_none_is_tried_that_would_not() -> None:
    best, tried = chosen(room=100 + 10 * 303)
    assert best.rows == 300  # whole units of four
    assert best.bytes == 100 + 10 * 300
    assert tried == [1, 4, 8, 16, 32, 64, 128, 256]
    assert chosen(room=10**9)[0].rows == 1000, "no more than a step can need"
    best, tried = chosen(room=230)
    assert (best.rows, tried) == (12, [1, 2, 4, 8]), "of one row nobody knows what the next one adds"
    assert chosen(room=130, together=64)[0].rows == 1
    assert chosen(room=50)[0].rows == 1, "there is no room at all"


def test_a_size_that_fails_ends_the_search_below_it() -> None:
    best, tried = chosen(room=10**9, breaks=40)
    assert best.rows == 32
    assert tried[-1] == 64
    assert chosen(room=10**9, breaks=0)[0].rows == 1


def test_on_a_cpu_no_pass_is_slower_a_row_than_a_smaller_one() -> None:
    """A fixed cost that larger passes share, and caches that they no longer fit into."""
    best, tried = chosen(room=10**9, by_time=True, cost=lambda n: 1e-4 + n * (1e-5 if n <= 32 else 1.4e-5))
    assert best.rows == 32
    assert tried[-1] == 128, "two sizes that gain nothing"
    flat, _ = chosen(room=10**9, by_time=True, cost=lambda n: 1e-5 * n)
    assert flat.rows == 4, "as quick as any, and takes the least"
    falling, _ = chosen(room=10**9, by_time=True, cost=lambda n: 1e-2 + 1e-6 * n)
    assert falling.rows == 1000
    tight, _ = chosen(room=100 + 10 * 20, by_time=True, cost=lambda n: 1e-2 + 1e-6 * n)
    assert tight.rows == 16, "memory comes first"


@pytest.mark.parametrize("a_row", [1e-4, 0.05, 3.0])
def test_trying_takes_a_second_or_a_share_of_a_step(a_row: float) -> None:
    best, tried = chosen(room=10**9, by_time=True, cost=lambda n: a_row * n * (1 + 1 / n))
    assert 2 * a_row * sum(tried) <= max(1.0, 0.25 * 1000 * a_row)
    assert best.rows >= 16


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 2 * 23),  # 10 and five times the root of 10 x 2/3, rounded up
        ({"population": 10**6}, 2 * 26),
        ({"population": 20}, 2 * 20),
        ({"population": 100, "max_units": 17}, 2 * 17),
    ],
)
def test_a_step_needs_what_public_numbers_say(changes: dict[str, Any], expected: int) -> None:
    mechanism = DPSGD(**({"steps": 1, "expected_units": 10, "population": 30} | changes))
    plan = SimpleNamespace(mechanism=mechanism, budget=SimpleNamespace(unit="image"))
    training = TrainingSettings(noise_draws=2)
    assert rows_needed(plan, training) == expected
    by_person = SimpleNamespace(mechanism=mechanism, budget=SimpleNamespace(unit="patient"))
    assert rows_needed(by_person, training) == 8 * expected
    public = TrainingSettings(noise_draws=2, public={"path": "x", "weight": 1.0, "batch_size": 500})
    assert rows_needed(plan, public) == 500


class Fake:
    """A device with room for so many rows of the tiny model, by its own word or by an error."""

    def __init__(self, room: int) -> None:
        self.room, self.now = room, 0

    def free(self) -> int:
        return self.room

    def used(self) -> int:
        return 1000

    def restart(self) -> None:
        self.now = 0

    def peak(self) -> int:
        return 1000 + self.now


@pytest.fixture
def family(tiny_base: Callable[..., Any]) -> Any:
    found = family_of(tiny_base())
    strategy_of({"name": "lora", "rank": 2, "targets": "attention"}).apply(found.network, seed=0)
    found.network.train()
    return found


def test_guarantee_measuring_leaves_the_model_and_the_random_numbers_as_they_were(family: Any) -> None:
    network, plan = family.network, Plan(private=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stream, hooks = torch.get_rng_state(), _hooks(network)
    found = pass_size.pass_size(family, plan, TrainingSettings(noise_draws=2), RuntimeSettings())
    assert 2 <= found.rows <= rows_needed(plan, TrainingSettings(noise_draws=2))
    assert found.bytes is not None
    assert found.seconds is not None
    assert str(found) == f"{found.rows} rows at a time, about {found.bytes / 1e9:.1f} GB"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), stream)
    assert _hooks(network) == hooks


def _hooks(network: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_memory_that_runs_out_while_measuring_is_an_answer(
    family: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = family.row_losses

    def losses(clean: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(clean) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(clean, *rest)

    monkeypatch.setattr(family, "row_losses", losses)
    monkeypatch.setattr(out_of_memory, "gc", SimpleNamespace(collect=lambda: 0))
    found = pass_size.pass_size(
        family, Plan(private=True), TrainingSettings(noise_draws=2), RuntimeSettings(), memory=Fake(10**9)
    )
    assert found.rows in (2, 4)


def test_where_nothing_can_be_measured_it_is_as_many_as_ever(
    family: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(device_memory, "PROC", tmp_path)
    assert memory_of(CPU) is None
    said: list[str] = []
    asked = (family, Plan(private=True), TrainingSettings(), lambda message: said.append(message))
    assert pass_size.sized(RuntimeSettings(), *asked).rows_per_pass == 256
    assert pass_size.sized(RuntimeSettings(rows_per_pass=7), *asked).rows_per_pass == 7
    assert said == ["256 rows at a time"]


def test_free_memory_is_the_least_that_machine_group_and_limit_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    monkeypatch.setattr(device_memory, "PROC", tmp_path)
    monkeypatch.setattr(device_memory, "GROUPS", tmp_path / "groups")
    write("meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    write("self/status", "VmHWM:\t 70 kB\nVmRSS:\t 60 kB\nVmSize:\t 90 kB\n")
    write("self/cgroup", "4:memory:/there/run\n2:cpu:/\n0::/there/run\n")
    memory = ProcessMemory()
    assert memory.free() == 4000 * 1024
    assert (memory.used(), memory.peak()) == (60 * 1024, 70 * 1024)
    write("groups/memory/memory.limit_in_bytes", "900000")
    write("groups/memory/memory.usage_in_bytes", "500000")
    assert memory.free() == 400_000
    write("groups/there/memory.max", "700000")
    write("groups/there/memory.current", "600000")
    write("groups/there/memory.stat", "anon 5\ninactive_file 50000\n")
    write("groups/there/run/memory.max", "max")
    assert memory.free() == 150_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory.free() == 75_000, "two processes of one training"


def test_memory_of_a_gpu_counts_what_torch_keeps_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "memory_reserved": 70,
        "memory_allocated": 50,
        "mem_get_info": (100, 1000),
        "max_memory_allocated": 60,
    }
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    memory = memory_of(torch.device("cuda"))
    assert memory is not None
    assert (memory.free(), memory.used(), memory.peak()) == (120, 50, 60)


@pytest.mark.slow
def test_a_training_says_how_many_rows_and_reads_no_private_image_before(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap_trainings(monkeypatch.setattr)
    order: list[str] = []
    from dp_diffusers.run import paying, running

    opened, ledger = running._data, paying.account_of
    monkeypatch.setattr(running, "_data", lambda *rest: order.append("data") or opened(*rest))
    monkeypatch.setattr(paying, "account_of", lambda *rest: order.append("ledger") or ledger(*rest))

    def progress(**facts: Any) -> None:
        if "rows at a time" in str(facts.get("message")):
            order.append("rows")

    train(Recipe.load(tiny_recipe, ["runtime.rows_per_pass=auto"]), tmp_path / "run", progress)
    assert order == ["rows", "ledger", "data"]
    assert "rows_per_pass: auto" in (tmp_path / "run" / "recipe.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["auto", "3"])
def test_plan_measures_and_touches_nothing(
    rows: str, tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    command = ["plan", str(tiny_recipe), "--measure", "--set", f"runtime.rows_per_pass={rows}"]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["memory_bytes"] > 10**8
    assert 1e-5 < document["seconds_per_step"] < 60
    assert document["rows_per_pass"] == 3 if rows == "3" else 2 <= document["rows_per_pass"] <= 46
    assert main(command) == 0
    assert "at a time (measured here)" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
