"""What 1, 2 and 4 processes release, against clipped gradients of batches of one and one draw of noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from forks import in_processes
from torch import Tensor, nn

from dp_diffusers.engine.noise import noise_std
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.quantile import Quantile
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.engine.sampling import PoissonSampler
from dp_diffusers.engine.together import Together
from dp_diffusers.processes import ALONE
from dp_diffusers.processes.shares import share_of
from engine_support import Receipt, flat, oracle

pytestmark = pytest.mark.slow

UNITS, CLIP, NOISE, STEP = 40, 0.5, 1.3, 3
BAD = 14  # its loss is not finite
STD = noise_std(CLIP, NOISE)
TOLERANCE = 2e-6 * STD  # the grid of a release is up to 2**-20 of its noise, and sums differ by rounding


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def rows_of(unit: int) -> list[int]:
    """Every third unit has four rows, the others two."""
    starts = np.concatenate([[0], np.cumsum(sizes(np.arange(UNITS)))])
    return list(range(int(starts[unit]), int(starts[unit + 1])))


def sizes(units: np.ndarray) -> np.ndarray:
    return np.where(units % 3 == 0, 4, 2)


def losses_of(module: nn.Module) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(int(sizes(np.arange(UNITS)).sum()), 6, generator=generator) * 3
    inputs[rows_of(BAD)[0]] = float("inf")  # this owner counts for nothing, on whichever process it is
    return lambda rows: module(inputs[rows]).square().sum(1)


def pass_of(units: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, owners and weights of one pass."""
    rows = torch.tensor([row for unit in units.tolist() for row in rows_of(unit)], dtype=torch.int64)
    counts = torch.from_numpy(sizes(units))
    owner = torch.from_numpy(units).repeat_interleave(counts)
    return rows, owner, (1.0 / counts.double()).repeat_interleave(counts).float()


def box_of(module: nn.Module, keys: RunKeys) -> PrivateGradient:
    quantile = Quantile(target=0.5, rate=0.2, noise=1.0)
    facts: dict[str, Any] = {"clip_norm": CLIP, "noise_multiplier": NOISE, "plan_fingerprint": "plan"}
    return PrivateGradient(
        module, expected_units=10, keys=keys, clipping="adaptive", quantile=quantile, **facts
    )


def one_step(team: Any, defect: Callable[[Together], None] | None = None) -> dict[str, Any]:
    """What a process has after one step: what was released, its gradients, its next clip norm."""
    module, keys = network(), team.keys(lambda: RunKeys.for_tests(5))
    if defect is not None:
        defect(team)
    keys = getattr(team, "other_keys", keys)
    losses, box = losses_of(module), box_of(module, keys)
    box.join(team)
    units = PoissonSampler(UNITS, 0.5, keys).units(STEP)
    ranks = team.ranks
    mine = units[getattr(team, "share_of", share_of)(sizes(units), ranks.rank, ranks.count)]
    for start in range(0, len(mine), 4):
        rows, owner, weight = pass_of(mine[start : start + 4])
        box.accumulate(losses(rows), owner, weight)
    team.all_do(lambda: None)
    box.gather()
    receipt = team.first_does(lambda: Receipt(STEP, keys.lane))
    released = flat(box.release(STEP, receipt)).numpy()
    gradients = flat(p.grad for p in module.parameters() if p.grad is not None).numpy()
    return {"released": released, "gradients": gradients, **box.state_dict()}


def expected() -> np.ndarray:
    """Each owner's gradient from batches of one row, clipped and added here, and one draw of the noise."""
    keys, module = RunKeys.for_tests(5), network()
    units = PoissonSampler(UNITS, 0.5, keys).units(STEP)
    assert BAD in units
    rows, owner, weight = pass_of(units[units != BAD])
    losses = losses_of(module)
    by_owner = oracle(module, lambda index: losses(rows[index]), owner, weight)
    vectors = torch.cat([gradient.reshape(len(gradient), -1) for gradient in by_owner], dim=1)
    norms = vectors.norm(dim=1, keepdim=True)
    total = (vectors * (CLIP / norms).clamp(max=1.0)).sum(0).numpy()
    return total + STD * keys.noise(STEP, "parameters", len(total))


def problems(found: list[Any]) -> list[str]:
    """What is wrong with a step of several processes: nothing, if the guarantee holds."""
    if not all(isinstance(one, dict) for one in found):
        return [f"it ended: {found}"]
    wrong = []
    for name in ("released", "gradients", "clip_norm"):
        if not all(np.array_equal(one[name], found[0][name]) for one in found):
            wrong.append(f"the processes have other {name}")
    if np.abs(found[0]["released"] - expected()).max() > TOLERANCE:
        wrong.append("the release is not the sum of all with one noise")
    return wrong


def test_guarantee_any_number_of_processes_releases_the_same_sum() -> None:
    alone = one_step(ALONE)
    assert problems([alone]) == []
    for count in (2, 4):
        found = in_processes(count, one_step)
        assert problems(found) == []
        assert len(found) == count
        assert np.abs(found[0]["released"] - alone["released"]).max() <= TOLERANCE
        assert found[0]["clip_norm"] == pytest.approx(alone["clip_norm"], rel=1e-9)


def noise_in_every_process(team: Any) -> None:
    """The others add noise of their own to what they send."""
    gather = PrivateGradient.gather

    def noisy(self: PrivateGradient) -> None:
        if not team.first:
            self._keys._received = False
            for index, total in enumerate(self._sum._totals):
                draws = self._keys.noise(STEP, f"{index}", total.numel())
                total += torch.from_numpy(draws).view(total.shape) * STD
        gather(self)

    PrivateGradient.gather = noisy  # type: ignore[method-assign]


def a_sum_is_lost(team: Any) -> None:
    send = team.sum_to_first

    def lossy(tensors: list[Tensor]) -> None:
        if not team.first:
            for tensor in tensors:
                tensor.zero_()
        send(tensors)

    team.sum_to_first = lossy


def an_owner_on_two(team: Any) -> None:
    def shares(rows: np.ndarray, rank: int, count: int) -> slice:
        part = share_of(rows, rank, count)
        return slice(max(0, part.start - 1), part.stop)

    team.share_of = shares


def an_owner_on_two_unseen(team: Any) -> None:
    an_owner_on_two(team)
    team.refuse_shared = lambda owners: None


def keys_of_its_own(team: Any) -> None:
    if not team.first:
        team.other_keys = RunKeys.for_tests(6)


@pytest.mark.planted
@pytest.mark.parametrize(
    "defect",
    [noise_in_every_process, a_sum_is_lost, an_owner_on_two, an_owner_on_two_unseen, keys_of_its_own],
)
def test_a_planted_defect_of_several_processes_is_seen(defect: Callable[[Any], None]) -> None:
    found = in_processes(2, partial(one_step, defect=defect))
    assert problems(found)
    if defect is an_owner_on_two:
        assert found == ["GuaranteeError", "GuaranteeError"]


def refused(team: Any) -> list[str]:
    """What a process that was not first is refused, and what is left of the sums that it sent."""
    keys = team.keys(lambda: RunKeys.for_tests(5))
    sent = [torch.full((3,), 1.0 + team.ranks.rank, dtype=torch.float64), torch.ones(2)]
    team.sum_to_first(sent)
    found = [str(sent[0].tolist())]
    try:
        keys.noise(0, "x", 3)
        found.append("noise")
    except Exception as error:
        found.append(type(error).__name__)
    return found


def test_guarantee_only_the_first_holds_a_sum_and_draws_noise() -> None:
    first, *others = in_processes(4, refused)
    assert first == ["[10.0, 10.0, 10.0]", "noise"]
    assert others == [["[0.0, 0.0, 0.0]", "GuaranteeError"]] * 3
