"""Every layer rule against the gradient of a batch of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dp_diffusers.engine import conv_weights
from dp_diffusers.engine.layer_rules import rule_for, rule_kinds
from engine_support import assert_close, fast_gradients, oracle

ROWS = 6
OWNERS = {
    "one row each": torch.arange(ROWS),
    "folded": torch.arange(ROWS // 2).repeat_interleave(2),
    "all one owner": torch.zeros(ROWS, dtype=torch.int64),
    "unequal": torch.tensor([5, 5, 5, 2, 2, 9]),
    "scattered": torch.tensor([1, 0, 1, 0, 2, 1]),
}


class Table(nn.Module):
    """Owns a bare parameter, as adaLN-single does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(2, 5))
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor, *, gate: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.scale_shift_table
        return self.inner(x * (1 + scale) + shift) * gate, x.tanh() * scale


class CallTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = Table()

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.table(x, gate=x.sigmoid())
        return left + right.square()


class Strided(nn.Module):
    """Feeds its layer activations whose strides are not row-major, then in-place activations."""

    def __init__(self, layer: nn.Module, how: str) -> None:
        super().__init__()
        self.layer, self.how = layer, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "channels_last":
            x = x.to(memory_format=torch.channels_last)
        elif self.how == "transposed":
            x = x.permute(0, 2, 3, 1).flatten(1, 2).contiguous().mT.unflatten(2, x.shape[2:])
        else:
            x = x.repeat_interleave(2, 1)[:, ::2]
        return F.silu(self.layer(x), inplace=True)


class Twice(nn.Module):
    """One layer used twice and a weight shared by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.first(x).tanh()).tanh())


def conv(**changes: object) -> nn.Conv2d:
    return nn.Conv2d(4, 6, **({"kernel_size": 3} | changes))  # type: ignore[arg-type]


def images(channels: int = 4, size: int = 7) -> Tensor:
    return torch.randn(ROWS, channels, size, size)


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear 2d": lambda: (nn.Linear(5, 3), torch.randn(ROWS, 5)),
    "linear 3d": lambda: (nn.Linear(5, 3), torch.randn(ROWS, 7, 5)),
    "linear 4d": lambda: (nn.Linear(5, 3, bias=False), torch.randn(ROWS, 2, 3, 5)),
    "linear wider": lambda: (nn.Linear(3, 7), torch.randn(ROWS, 4, 3)),
    "linear one feature": lambda: (nn.Linear(1, 1), torch.randn(ROWS, 1)),
    "conv 3x3": lambda: (conv(padding=1), images()),
    "conv stride": lambda: (conv(stride=2, padding=1), images()),
    "conv dilation": lambda: (conv(dilation=2, padding=(2, 1)), images()),
    "conv groups": lambda: (conv(groups=2, padding=1), images()),
    "conv depthwise": lambda: (nn.Conv2d(4, 4, 3, groups=4, bias=False), images()),
    "conv uneven kernel": lambda: (nn.Conv2d(4, 2, (1, 3), stride=(2, 1)), images()),
    "conv same": lambda: (conv(padding="same", kernel_size=(5, 3)), images()),
    "conv reflect": lambda: (conv(padding=2, padding_mode="reflect"), images()),
    "conv circular": lambda: (conv(padding=1, padding_mode="circular", stride=3), images()),
    "conv 1x1": lambda: (conv(kernel_size=1), images()),
    "conv 1x1 stride": lambda: (conv(kernel_size=1, stride=2), images()),
    "conv 1x1 groups": lambda: (conv(kernel_size=1, groups=2), images()),
    "conv large weight": lambda: (nn.Conv2d(4, 32, 3), images(size=4)),
    "conv channels last": lambda: (Strided(conv(padding=1), "channels_last"), images()),
    "conv transposed view": lambda: (Strided(conv(padding=1), "transposed"), images()),
    "conv 1x1 channels last": lambda: (Strided(conv(kernel_size=1), "channels_last"), images()),
    "conv sliced view": lambda: (Strided(conv(), "sliced"), images()),
    "conv 1d, generic": lambda: (nn.Conv1d(4, 3, 3), torch.randn(ROWS, 4, 9)),
    "conv transpose, generic": lambda: (nn.ConvTranspose2d(4, 3, 2, stride=2), images()),
    "group norm": lambda: (nn.GroupNorm(2, 4), images()),
    # Behind a layer of its own: torch 2.13 crashes when only this norm's parameters are asked for.
    "group norm channels last": lambda: (
        nn.Sequential(conv(), Strided(nn.GroupNorm(2, 6), "channels_last")),
        images(),
    ),
    "group norm 2d": lambda: (nn.GroupNorm(2, 4), torch.randn(ROWS, 4)),
    "layer norm": lambda: (nn.LayerNorm(5), torch.randn(ROWS, 7, 5)),
    "layer norm two dims": lambda: (nn.LayerNorm((7, 5)), torch.randn(ROWS, 7, 5)),
    "rms norm, generic": lambda: (nn.RMSNorm(5), torch.randn(ROWS, 7, 5)),
    "embedding": lambda: (nn.Embedding(4, 3), torch.randint(0, 4, (ROWS,))),
    "embedding repeats": lambda: (nn.Embedding(4, 3, padding_idx=1), torch.randint(0, 4, (ROWS, 5))),
    "bare parameter": lambda: (CallTable(), torch.randn(ROWS, 5)),
    "shared": lambda: (Twice(), torch.randn(ROWS, 5)),
    "in place after": lambda: (
        nn.Sequential(nn.Linear(5, 4), nn.SiLU(inplace=True), nn.Linear(4, 2)),
        torch.randn(ROWS, 5),
    ),
}


def case(name: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    torch.manual_seed(0)
    module, inputs = CASES[name]()
    with torch.no_grad():
        target = torch.randn_like(module(inputs))

    def losses(index: Tensor) -> Tensor:
        return (module(inputs[index]) - target[index]).square().flatten(1).sum(1)

    return module, losses


@pytest.mark.parametrize("owners", OWNERS)
@pytest.mark.parametrize("name", CASES)
def test_guarantee_rule_equals_batch_of_one(name: str, owners: str) -> None:
    module, losses = case(name)
    owner, weight = OWNERS[owners], torch.rand(ROWS) + 0.5
    found = fast_gradients(module, lambda: losses(torch.arange(ROWS)), owner, weight)
    assert_close(found, oracle(module, losses, owner, weight))


@pytest.mark.parametrize("most", [0, 1000])
@pytest.mark.parametrize(
    "name", [name for name in CASES if name.startswith("conv") and "generic" not in name]
)
def test_both_formulas_of_a_convolution_agree_with_batch_of_one(
    name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups for large outputs, patches for small ones and on GPUs."""
    monkeypatch.setattr(conv_weights, "_FEW_POSITIONS", most)
    module, losses = case(name)
    owner, weight = OWNERS["folded"], torch.ones(ROWS)
    found = fast_gradients(module, lambda: losses(torch.arange(ROWS)), owner, weight)
    assert_close(found, oracle(module, losses, owner, weight))


@settings(max_examples=40, deadline=None)
@given(
    owners=st.integers(1, 4),
    draws=st.integers(1, 3),
    channels=st.integers(1, 5),
    size=st.integers(1, 6),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_guarantee_rules_for_any_shape(
    owners: int, draws: int, channels: int, size: int, kernel: int, stride: int, dtype: torch.dtype
) -> None:
    """Any shape, one row included, through a convolution, a norm and a linear layer."""
    torch.manual_seed(size)
    module = nn.Sequential(
        nn.Conv2d(channels, 4, kernel, stride=stride, padding=kernel - 1),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Flatten(2),
        nn.LazyLinear(2),
    ).to(dtype)
    inputs = torch.randn(owners * draws, channels, size, size, dtype=dtype)
    module(inputs)

    def losses(index: Tensor) -> Tensor:
        return module(inputs[index]).square().flatten(1).sum(1)

    owner = torch.arange(owners).repeat_interleave(draws)
    weight = torch.ones(len(owner), dtype=dtype)
    found = fast_gradients(module, lambda: losses(torch.arange(len(owner))), owner, weight)
    # A norm over two numbers leaves almost no gradient below it: compare on the scale of the whole model.
    expected = oracle(module, losses, owner, weight)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for got, want in zip(found, expected, strict=True):
        assert float((got.double() - want).abs().max()) <= 1e-4 * largest


def test_every_rule_has_a_case() -> None:
    built = [CASES[name]()[0] for name in CASES]
    covered = {type(layer) for module in built for layer in module.modules()}
    assert set(rule_kinds()) <= covered


def test_a_subclass_with_its_own_forward_does_not_inherit_the_rule() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    class Named(nn.Linear):
        pass

    assert rule_for(Named(2, 2)) is rule_for(nn.Linear(2, 2))
    assert rule_for(Doubled(2, 2)) is None
    module, inputs = Doubled(3, 2), torch.randn(ROWS, 3)
    found = fast_gradients(module, lambda: module(inputs).sum(1), torch.arange(ROWS), torch.ones(ROWS))
    assert_close(
        found, oracle(module, lambda i: module(inputs[i]).sum(1), torch.arange(ROWS), torch.ones(ROWS))
    )


@pytest.mark.parametrize("name", ["linear 3d", "conv 3x3", "group norm", "layer norm"])
def test_autocast_contracts_in_float32(name: str) -> None:
    module, losses = case(name)

    def cast(index: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return losses(index).float()

    owner, weight = OWNERS["folded"], torch.ones(ROWS)
    found = fast_gradients(module, lambda: cast(torch.arange(ROWS)), owner, weight)
    assert all(gradient.dtype == torch.float32 for gradient in found)
    assert_close(found, oracle(module, losses, owner, weight), 5e-2)


@pytest.mark.planted
def test_planted_row_major_assumption_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a channels-last activation as if it were row-major: what a rule without `.contiguous()`
    risks."""

    def careless(rows: Tensor, fold: int) -> Tensor:
        rows = rows.to(memory_format=torch.channels_last)
        return torch.as_strided(rows, rows.shape, rows.contiguous().stride()).reshape(
            fold, -1, *rows.shape[2:]
        )

    monkeypatch.setattr(conv_weights, "_side_by_side", careless)
    monkeypatch.setattr(conv_weights, "_FEW_POSITIONS", 0)
    with pytest.raises(AssertionError):
        test_guarantee_rule_equals_batch_of_one("conv channels last", "one row each")
