"""The closed box: sensitivity, receipts, passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from dp_diffusers.engine.plain_gradient import PlainGradient
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError, ModelError, ParameterError
from engine_support import CLIP, Receipt, clipped_sum, flat, make_box, oracle, release


class Net(nn.Module):
    """A convolution, a norm, an embedding and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.classes = nn.Embedding(3, 4)
        self.inner = nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        hidden = self.norm(self.conv(x)).mean((2, 3)) + self.classes(label)
        return self.out(self.inner(hidden).tanh())


def lora(net: nn.Module) -> nn.Module:
    net.requires_grad_(False)
    net = inject_adapter_in_model(LoraConfig(r=2, target_modules=["conv", "inner", "out"]), net)
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return net


TRAINED: dict[str, Callable[[nn.Module], object]] = {
    "full": lambda net: net,
    "lora": lora,
    "conv": lambda net: net.requires_grad_(False).conv.requires_grad_(True),
    "norm": lambda net: net.requires_grad_(False).norm.requires_grad_(True),
    "embedding": lambda net: net.requires_grad_(False).classes.requires_grad_(True),
    "bias": lambda net: [p.requires_grad_(p.ndim == 1) for p in net.parameters()],
}


def problem(
    trained: str, rows: int = 24, scale: float = 30.0, bad: float | None = None
) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """A net and the losses of its rows; `scale` makes nearly every gradient longer than the clip norm."""
    torch.manual_seed(0)
    net = Net()
    TRAINED[trained](net)
    x, label = torch.randn(rows, 2, 5, 5), torch.randint(0, 3, (rows,))
    target = torch.randn(rows, 2)
    if bad is not None:
        x[5, 0, 1, 1] = bad

    def losses(index: Tensor) -> Tensor:
        return (net(x[index], label[index]) - target[index]).square().sum(1) * scale

    return net, losses


def owners(draws: int, rows: int = 24) -> tuple[Tensor, Tensor]:
    return torch.arange(rows // draws).repeat_interleave(draws), torch.full((rows,), 1 / draws)


def moved_by_one_owner(trained: str, draws: int) -> float:
    net, losses = problem(trained)
    owner, weight = owners(draws)
    everyone = list(range(24))
    whole = clipped_sum(net, losses, [everyone], owner, weight)
    worst = 0.0
    for gone in owner.unique().tolist():
        rest = [row for row in everyone if owner[row] != gone]
        less = clipped_sum(net, losses, [rest] if rest else [], owner, weight)
        worst = max(worst, float((whole - less).norm()))
    return worst


@pytest.mark.parametrize("draws", [1, 4, 12])
@pytest.mark.parametrize("trained", TRAINED)
def test_guarantee_one_unit_moves_the_sum_by_at_most_the_clip_norm(trained: str, draws: int) -> None:
    moved = moved_by_one_owner(trained, draws)
    assert 0.5 * CLIP < moved <= CLIP * (1 + 1e-5)


@pytest.mark.parametrize("trained", ["full", "lora"])
def test_the_sum_is_the_one_of_the_batch_of_one_oracle(trained: str) -> None:
    net, losses = problem(trained, scale=0.3)
    owner, weight = owners(4)
    expected = torch.zeros(0)
    gradients = torch.cat([g.flatten(1) for g in oracle(net, losses, owner, weight)], 1)
    factors = (CLIP / gradients.norm(dim=1)).clamp(max=1.0)
    assert 0 < int((factors < 1).sum()) <= len(factors)
    expected = (factors[:, None] * gradients).sum(0)
    found = clipped_sum(net, losses, [list(range(24))], owner, weight)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("draws", [1, 4])
def test_guarantee_order_passes_and_rows_per_pass_do_not_change_the_sum(draws: int) -> None:
    net, losses = problem("lora")
    owner, weight = owners(draws)
    whole = clipped_sum(net, losses, [list(range(24))], owner, weight)
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(1)).tolist()
    splits = [
        [shuffled],
        [list(range(24))[::-1]],
        [list(range(5)), list(range(5, 6)), list(range(6, 24))],
        [[row] for row in range(24)],
        [list(range(start, start + 3)) for start in range(0, 24, 3)],
    ]
    for passes in splits:
        found = clipped_sum(net, losses, passes, owner, weight)
        assert float((found - whole).norm() / whole.norm()) < 1e-6


def test_guarantee_draws_per_owner_do_not_change_the_sum() -> None:
    """K copies of one row with weight 1/K are that row."""
    net, losses = problem("full", rows=4)
    one = clipped_sum(net, losses, [[0, 1, 2, 3]], *owners(1, 4))
    rows = torch.arange(4).repeat_interleave(6)
    six = clipped_sum(net, lambda index: losses(rows[index]), [list(range(24))], *owners(6))
    assert float((six - one).norm() / one.norm()) < 1e-6


def test_owners_of_unequal_size_and_mixed_order() -> None:
    net, losses = problem("full", rows=6)
    owner, weight = torch.tensor([4, 2, 4, 4, 9, 2]), torch.rand(6)
    found = clipped_sum(net, losses, [list(range(6))], owner, weight)
    sorted_rows = clipped_sum(net, losses, [[4, 1, 5, 0, 2, 3]], owner, weight)
    assert float((found - sorted_rows).norm() / found.norm()) < 1e-6


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["image", "loss", "loss alone"])
def test_guarantee_nonfinite_owner_contributes_exactly_zero(bad: float, where: str) -> None:
    """A bad pixel, a bad loss, and a bad loss whose gradient is finite, in the second row of the second
    owner."""
    net, losses = problem("lora", bad=bad if where == "image" else None)
    owner, weight = owners(4)

    def poisoned(index: Tensor) -> Tensor:
        values = losses(index)
        if where == "loss":
            return values * torch.where(index == 5, bad, 1.0)
        return torch.where(index == 5, values + bad, values) if where == "loss alone" else values

    rest = [row for row in range(24) if owner[row] != 1]
    without = clipped_sum(net, losses, [rest], owner, weight)
    splits = [[24], [5, 24], [6, 24], [4, 7, 24]]
    for ends in splits:
        passes = [list(range(start, end)) for start, end in zip([0, *ends], ends)]
        found = clipped_sum(net, poisoned, passes, owner, weight)
        assert float((found - without).norm() / without.norm()) < 1e-6


def test_huge_finite_gradients_are_clipped_not_lost() -> None:
    net, losses = problem("full", rows=2)
    owner, weight = owners(1, 2)
    found = clipped_sum(net, lambda index: losses(index) * 1e30, [[0]], owner, weight)
    assert float(found.norm()) == pytest.approx(CLIP, rel=1e-6)


def test_the_exact_path_agrees_with_the_hooks_and_draws_the_same_noise() -> None:
    net, losses = problem("lora")
    owner, weight = owners(4)
    index = torch.arange(24)
    found = []
    for parameters in (net, [p for p in net.parameters() if p.requires_grad]):
        box = make_box(parameters, noise_multiplier=1.0)
        box.accumulate(losses(index), owner, weight)
        found.append(release(box))
    assert torch.allclose(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_the_exact_path_refuses_a_nonfinite_owner_rather_than_spread_it() -> None:
    net, losses = problem("full", rows=4)
    box = make_box(net.parameters())
    values = losses(torch.arange(4)) * torch.tensor([1.0, float("nan"), 1.0, 1.0])
    with pytest.raises(GuaranteeError, match="non-finite"):
        box.accumulate(values, *owners(1, 4))


def test_guarantee_pay_then_noise() -> None:
    net, losses = problem("lora", rows=4)
    keys = RunKeys.for_tests(3)
    box = make_box(net, keys=keys)
    box.accumulate(losses(torch.arange(4)), *owners(1, 4))
    used = Receipt(0, keys.lane)
    for receipt in (None, Receipt(1, keys.lane), Receipt(0, bytes(16)), Receipt(0, keys.lane, "other plan")):
        with pytest.raises(GuaranteeError):
            box.release(0, receipt)
    assert all(parameter.grad is None for parameter in net.parameters())
    box.release(0, used)
    with pytest.raises(GuaranteeError):
        box.release(1, used)


def test_guarantee_a_step_is_released_once_per_lane() -> None:
    net, _ = problem("lora", rows=4)
    keys = RunKeys.for_tests(3)
    first, second = make_box(net, keys=keys), make_box(net, keys=keys)
    first.release(5, Receipt(5, keys.lane))
    receipt = Receipt(5, keys.lane)
    for box in (first, second):
        with pytest.raises(GuaranteeError, match="step 5 was already released"):
            box.release(5, receipt)
    assert not receipt.used


def test_guarantee_an_empty_step_still_draws_noise() -> None:
    net, _ = problem("lora", rows=4)
    box = make_box(net, noise_multiplier=2.0)
    empty = torch.zeros(0)
    box.accumulate(empty, empty.long(), empty)
    found = box.release(0, Receipt(0, RunKeys.for_tests(0).lane))
    assert all(bool((tensor != 0).all()) for tensor in found)


def test_release_sets_mean_gradients_and_clears_the_sum() -> None:
    net, losses = problem("lora", rows=4)
    box = make_box(net, expected_units=8)
    box.accumulate(losses(torch.arange(4)), *owners(1, 4))
    sums = box.release(0, Receipt(0, box._keys.lane))
    for parameter, total in zip(box.parameters, sums, strict=True):
        assert total.dtype == torch.float32
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, total / 8)
    assert float(release(box, 1).norm()) < 1e-6


def test_guarantee_an_owner_that_comes_back_raises_before_anything_is_added() -> None:
    net, losses = problem("lora")
    owner, weight = owners(4)
    box, same = make_box(net), make_box(net)
    for rows in (torch.arange(0, 4), torch.arange(4, 12)):
        for each in (box, same):
            each.accumulate(losses(rows), owner[rows], weight[rows])
    again = torch.tensor([12, 13, 0])
    with pytest.raises(GuaranteeError, match="came back"):
        box.accumulate(losses(again), owner[again], weight[again])
    assert torch.equal(release(box), release(same))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm > 0, got 0.0"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier > 0, got nan"),
        ({"expected_units": -1}, "expected_units > 0, got -1"),
        ({"clipping": "flet"}, "unknown clipping rule 'flet'"),
    ],
)
def test_bad_numbers(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make_box(nn.Linear(2, 2), **changes)


def test_bad_passes() -> None:
    net, losses = problem("lora", rows=4)
    owner, weight = owners(1, 4)
    with pytest.raises(ModelError, match="no trainable parameter"):
        make_box(nn.Linear(2, 2).requires_grad_(False))
    box = make_box(net)
    with pytest.raises(ParameterError, match="one shape"):
        box.accumulate(losses(torch.arange(4)), owner[:3], weight)
    with pytest.raises(ParameterError, match="finite weights"):
        box.accumulate(losses(torch.arange(4)), owner, weight * float("inf"))
    with pytest.raises(GuaranteeError, match="owner as int64"):
        box.accumulate(losses(torch.arange(4)), owner.float(), weight)
    assert float(release(box).norm()) < 1e-6


def test_nothing_un_noised_is_public() -> None:
    box = make_box(nn.Linear(2, 2))
    public = {name for name in dir(box) if not name.startswith("_")}
    assert public == {
        *("accumulate", "finish", "start_over", "release", "parameters", "mean_noise_std", "forget"),
        *("state_dict", "load_state_dict"),  # of the clip norm, which is released
        "rehearse",  # random rows
        *("join", "gather", "discard"),  # of several processes: the sum goes from box to box
    }
    assert repr(box).startswith("PrivateGradient(parameters=2, RunKeys(lane=")


def test_bfloat16_forward_keeps_the_bound() -> None:
    net, losses = problem("lora")

    def cast(index: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return losses(index)

    owner, weight = owners(4)
    one = clipped_sum(net, cast, [[0, 1, 2, 3]], owner, weight)
    assert float(one.norm()) <= CLIP * (1 + 1e-5)
    exact = clipped_sum(net, losses, [[0, 1, 2, 3]], owner, weight)
    assert float((one - exact).norm() / exact.norm()) < 0.1


def test_a_model_in_bfloat16() -> None:
    net, losses = problem("full", rows=4)
    exact = clipped_sum(net, losses, [[0, 1, 2, 3]], *owners(1, 4))
    box = make_box(net.bfloat16())
    x, label = torch.randn(4, 2, 5, 5).bfloat16(), torch.randint(0, 3, (4,))
    box.accumulate(net(x, label).square().sum(1), *owners(1, 4))
    assert release(box).shape == exact.shape
    assert all(
        parameter.grad is not None and parameter.grad.dtype == torch.bfloat16 for parameter in box.parameters
    )


def test_plain_gradient_is_the_ordinary_one() -> None:
    net, losses = problem("lora", rows=8)
    box = PlainGradient(net, expected_units=2)
    index = torch.arange(8)
    owner, weight = owners(2, 8)
    for rows in (index[:4], index[4:]):
        box.accumulate(losses(rows), owner[rows], weight[rows])
    sums = box.release(0)
    expected = torch.autograd.grad((losses(index) * weight).sum(), box.parameters)
    assert torch.allclose(flat(sums), flat(expected), rtol=1e-5)
    assert box.not_private
    assert float(flat(box.release(1)).norm()) == 0.0
    assert torch.allclose(
        flat(p.grad for p in box.parameters if p.grad is not None), torch.zeros(()).double()
    )


def test_the_box_takes_a_training_step() -> None:
    """The loop of the README, on a toy problem: losses go down under noise."""
    net, losses = problem("full", scale=1.0)
    keys = RunKeys.for_tests(0)
    box = PrivateGradient(
        net, clip_norm=1.0, noise_multiplier=0.5, expected_units=24, keys=keys, plan_fingerprint="plan"
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    before = float(losses(torch.arange(24)).detach().mean())
    for step in range(60):
        box.accumulate(losses(torch.arange(24)), *owners(1))
        box.release(step, Receipt(step, keys.lane))
        optimizer.step()
    assert float(losses(torch.arange(24)).detach().mean()) < 0.8 * before
