"""Precision, memory layout, checkpointing, compiled parts: unit gradients are those of the plain network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from arranged_support import FAMILIES, STRATEGIES, Example, arranged_example, distance
from dp_diffusers.engine import checkpointing
from dp_diffusers.engine.dry_run import dry_run
from dp_diffusers.engine.unit_grads import HookedUnitGradients
from dp_diffusers.errors import GuaranteeError, ModelError, ParameterError
from dp_diffusers.recipe import RuntimeSettings
from dp_diffusers.runtime import arrangement, compiled_parts
from dp_diffusers.runtime.arrangement import arrange, rehearse_arranged, undone
from dp_diffusers.runtime.compiled_parts import as_compiled, compile_parts, require_compiler
from engine_support import fast_gradients

PLAIN = RuntimeSettings()
ALL_ROWS = [[0, 1, 2, 3]]
KINDS = {
    "bfloat16": RuntimeSettings(dtype="bfloat16"),
    "channels_last": RuntimeSettings(channels_last=True),
    "checkpointing": RuntimeSettings(gradient_checkpointing=True),
    "together": RuntimeSettings(dtype="bfloat16", channels_last=True, gradient_checkpointing=True),
}
CASES = [(name, strategy) for name in FAMILIES for strategy in STRATEGIES]


def tolerances(runtime: RuntimeSettings) -> tuple[float, float]:
    """Of a unit's gradient (largest entry) and of the clipped sum (norm)."""
    return (1e-5, 1e-5) if runtime.dtype == "float32" else (0.15, 0.05)


def require_same(example: Example, expected: Any, runtime: RuntimeSettings) -> None:
    """What an arranged network gives is what the plain one gives; afterwards it is the plain one."""
    precise, released = expected
    per_unit, of_sum = tolerances(runtime)
    with as_compiled(runtime.compile):
        found = example.gradients(runtime)
        in_two = example.released(runtime, [[0, 1], [2, 3]])
    assert all(gradient.dtype == torch.float32 for gradient in found)
    assert distance(found, precise) <= per_unit
    assert float((in_two - released).norm() / released.norm()) <= of_sum


def expected_of(example: Example) -> Any:
    return example.precisely(), example.released(PLAIN, ALL_ROWS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_guarantee_units_have_the_same_gradients_however_the_network_runs(
    tiny_base: Callable[..., Any], name: str, strategy: str
) -> None:
    example = arranged_example(tiny_base, name, strategy)
    network, expected = example.family.network, expected_of(example)
    for runtime in KINDS.values():
        arrange(network, runtime)
        require_same(example, expected, runtime)
        undone(network, runtime)
    assert all(parameter.is_contiguous() for parameter in network.parameters())
    assert torch.equal(example.released(PLAIN, ALL_ROWS), expected[1])


def test_guarantee_a_checkpointed_part_has_the_gradients_of_a_plain_one() -> None:
    module, run = two_parts()
    inputs, owner, weight = torch.randn(4, 3), torch.tensor([1, 1, 2, 3]), torch.ones(4)

    def gradients(through: Callable[..., Any]) -> list[torch.Tensor]:
        return fast_gradients(module, lambda: run(module, inputs, through).square().sum(1), owner, weight)

    found = gradients(checkpointing.checkpointed)
    expected = gradients(lambda part, *given: part(*given))
    assert all(torch.equal(got, want) for got, want in zip(found, expected, strict=True))


@pytest.mark.planted
def test_inputs_of_another_call_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def told_backwards(self: Any, asker: int, told: Any) -> None:
        self._calls[asker, 1 - self.number(asker)] = told

    monkeypatch.setattr(checkpointing.Part, "tell", told_backwards)
    module, run = two_parts()
    inputs, owner = torch.randn(4, 3), torch.arange(4)
    with pytest.raises(GuaranteeError, match="called other layers"):
        fast_gradients(
            module,
            lambda: run(module, inputs, checkpointing.checkpointed).square().sum(1),
            owner,
            torch.ones(4),
        )


def two_parts() -> tuple[nn.Module, Callable[..., Any]]:
    """Two parts of two layers; the backward pass of the second needs nothing that it has computed."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 4))
    second = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 2))
    module = nn.ModuleList([first, second])

    def run(module: Any, inputs: torch.Tensor, through: Callable[..., Any]) -> torch.Tensor:
        return torch.as_tensor(through(module[1], through(module[0], inputs)))

    return module, run


def test_a_part_that_the_backward_pass_does_not_need_runs_again_all_the_same() -> None:
    module = nn.Sequential(nn.Linear(3, 2))
    inputs, owner, weight = torch.randn(4, 3), torch.arange(4), torch.ones(4)
    (gradient, _) = fast_gradients(
        module, lambda: checkpointing.checkpointed(module, inputs).sum(1), owner, weight
    )
    assert torch.allclose(gradient, inputs[:, None].expand(4, 2, 3))


def test_guarantee_a_checkpointed_part_keeps_no_input_from_the_forward_pass() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.SiLU(), nn.Linear(3, 2))
    source = HookedUnitGradients(module)
    losses = checkpointing.checkpointed(module, torch.randn(4, 3)).sum(1)
    assert len(source._captures) == 2
    assert not any(capture.call.tensors for capture in source._captures)
    losses.sum().backward()
    source.close()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointing_that_enters_autograd_again_is_refused() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    inputs = torch.randn(4, 3)

    def losses(rows: torch.Tensor) -> torch.Tensor:
        hidden = torch.utils.checkpoint.checkpoint(module[0], module[0](inputs[rows]), use_reentrant=True)
        return torch.as_tensor(module[1](hidden).sum(1))

    with pytest.raises(ModelError, match="use_reentrant") as error:
        dry_run(module, losses)
    assert "runtime.gradient_checkpointing" in str(error.value.hint)


def test_what_cannot_be_arranged_is_refused() -> None:
    with pytest.raises(ParameterError, match="Linear knows no gradient checkpointing"):
        arrange(nn.Linear(2, 2), RuntimeSettings(gradient_checkpointing=True))
    with pytest.raises(ParameterError, match="no part of the model is left to compile"):
        compile_parts(nn.Sequential(nn.Sequential(nn.Linear(2, 2))))


def test_a_missing_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ParameterError, match="cannot be compiled here: No working C\\+\\+ compiler") as error:
        arrange(nn.Linear(2, 2), RuntimeSettings(compile=True))
    assert "g++" in str(error.value.hint)
    assert "\n" not in str(error.value)


@pytest.fixture
def without_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compiled parts as torch traces and differentiates them, run by its own kernels: no compiler needed."""

    def traced(network: nn.Module) -> list[nn.Module]:
        return compile_parts(network, backend="aot_eager")

    monkeypatch.setattr(arrangement, "compile_parts", traced)
    monkeypatch.setattr(arrangement, "require_compiler", lambda device: None)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("pixel", "lora"),
        ("latent", "lora-linear"),
        ("stable_diffusion", "lora"),
        ("dit", "lora-linear"),
        ("stable_diffusion_3", "lora"),
    ],
)
def test_guarantee_compiled_parts_give_the_same_and_no_pass_compiles(
    tiny_base: Callable[..., Any], without_code: None, name: str, strategy: str
) -> None:
    example = arranged_example(tiny_base, name, strategy)
    expected = expected_of(example)
    runtime = RuntimeSettings(compile=True)
    arrange(example.family.network, runtime)
    rehearse_arranged(example.family, runtime)
    known = graphs()
    assert known > 0
    require_same(example, expected, runtime)
    with as_compiled(True):  # passes of one, two, three and four rows
        sums = [
            example.released(runtime, passes) for passes in ([[0, 1], [2], [3]], [[0, 1, 2], [3]], ALL_ROWS)
        ]
    assert all(float((found - expected[1]).norm() / expected[1].norm()) <= 1e-5 for found in sums)
    assert graphs() == known


@pytest.mark.slow
@pytest.mark.planted
def test_a_compiler_that_is_wrong_is_noticed(
    tiny_base: Callable[..., Any], without_code: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: Any, _: Any) -> Callable[..., Any]:
        return lambda *given: tuple(
            value * 1.01 if isinstance(value, torch.Tensor) else value for value in graph(*given)
        )

    monkeypatch.setattr(arrangement, "compile_parts", lambda network: compile_parts(network, backend=wrong))
    example = arranged_example(tiny_base, "dit", "lora")
    arrange(example.family.network, RuntimeSettings(compile=True))
    with pytest.raises(ModelError, match="the compiled model has other gradients"):
        rehearse_arranged(example.family, RuntimeSettings(compile=True))


@pytest.mark.slow
@pytest.mark.planted
def test_code_for_one_number_of_rows_is_noticed(
    tiny_base: Callable[..., Any], without_code: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_parts, "_mark_rows", lambda values: None)
    example, runtime = arranged_example(tiny_base, "dit", "lora"), RuntimeSettings(compile=True)
    arrange(example.family.network, runtime)
    rehearse_arranged(example.family, runtime)
    known = graphs()
    example.released(runtime, [[0, 1, 2], [3]])
    assert graphs() > known  # without `as_compiled` the size of a pass would decide what is compiled
    known = graphs()
    with as_compiled(True):
        example.released(runtime, [[0], [1], [2], [3]])
    assert graphs() == known


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_guarantee_code_of_the_compiler_gives_the_same() -> None:
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4)).requires_grad_(False)
    network = nn.Sequential(nn.Linear(3, 4), part, nn.Linear(4, 2))
    inputs, owner, weight = torch.randn(4, 3), torch.arange(4), torch.ones(4)

    def gradients() -> list[torch.Tensor]:
        return fast_gradients(network, lambda: network(inputs).square().sum(1), owner, weight)

    expected = gradients()
    require_compiler(torch.device("cpu"))
    assert compile_parts(network) == [part]
    with compiled_parts.compiling():
        gradients()
    known = graphs()
    with as_compiled(True):
        assert distance(gradients(), expected) <= 1e-5
    assert graphs() == known
    torch.compiler.reset()
