"""What several processes tell each other, and what each raises where they differ or one fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from forks import in_processes

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import DataError, DPDiffusersError, GuaranteeError
from dp_diffusers.processes import ALONE, team
from dp_diffusers.processes.one_folder import digest_of
from dp_diffusers.processes.same_weights import sums_of_bits


def test_one_process_does_its_work_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert team() is ALONE
    for call in (ALONE.all_do, ALONE.first_does, ALONE.first_tells, ALONE.in_turn):
        assert call(lambda: 7) == 7
    with ALONE.within(1.0), ALONE.gathering():
        assert ALONE.largest(3) == 3


def test_the_smallest_change_of_a_weight_shows() -> None:
    weights = [torch.randn(5, 3), torch.randn(4).to(torch.bfloat16)]
    before = sums_of_bits(weights)
    assert sums_of_bits([weight.clone() for weight in weights]) == before
    weights[0][2, 1] = torch.nextafter(weights[0][2, 1], torch.tensor(9.0))
    assert sums_of_bits(weights) != before
    assert sums_of_bits(weights[::-1]) != sums_of_bits(weights)


def test_the_smallest_change_of_the_images_shows() -> None:
    def data(
        pixel: int = 0, label: int = 0, owner: int = 1, captions: tuple[str, str] | None = None
    ) -> PrivateImages:
        images = np.full((2, 4, 4, 1), pixel, np.uint8)
        return PrivateImages(
            images=images,
            labels=np.array([0, label]),
            class_names=("a", "b"),
            owner=np.array([0, owner]),
            unit_count=owner + 1,
            unit="patient",
            captions=captions,
        )

    different = [data(), data(pixel=1), data(label=1), data(owner=0)]
    different += [data(captions=("a", "b")), data(captions=("b", "a"))]
    assert len({digest_of(one) for one in different}) == 6
    assert digest_of(data()) == digest_of(data())


def raised(work: Any) -> str:
    try:
        work()
    except DPDiffusersError as error:
        return f"{type(error).__name__} {int(error.exit_code)}"
    return "nothing"


def conversation(team: Any) -> dict[str, Any]:
    rank = team.ranks.rank
    state = {"weights": torch.arange(3.0), "step": 4, "head": "x"} if rank == 0 else None
    told = team.state_of_first(lambda: state)
    order: list[int] = []
    team.in_turn(lambda: order.append(rank))

    def fail() -> None:
        if rank == 1:
            raise DataError("broken")

    with team.within(30.0):
        inside = team.all_do(lambda: rank * 10, same=lambda: [5, 2**60])
    return {
        "told": team.first_tells(lambda: {"rank": rank}),
        "state": [told["weights"].tolist(), told["step"], told["head"]],
        "nothing": team.state_of_first(lambda: None),
        "turn": order,
        "inside": inside,
        "largest": team.largest(rank + 3),
        "first": team.first_does(lambda: rank),
        "fails": raised(lambda: team.all_do(fail)),
        "differs": raised(lambda: team.require_same("recipe", f"{min(rank, 1)}")),
        "apart": raised(lambda: team.all_do(lambda: None, same=lambda: [rank])),
        "shared": raised(lambda: team.refuse_shared([rank, 100])),
        "not shared": raised(lambda: team.refuse_shared([rank, 100 + rank])),
        "still": team.first_tells(lambda: "here"),
    }


@pytest.mark.slow
def test_processes_tell_each_other_and_end_alike() -> None:
    first, second, third = in_processes(3, conversation)
    bug = f"{GuaranteeError.__name__} 1"
    for rank, one in enumerate((first, second, third)):
        assert one["told"] == {"rank": 0}
        assert one["state"] == [[0.0, 1.0, 2.0], 4, "x"]
        assert one["nothing"] is None
        assert (one["turn"], one["inside"], one["largest"]) == ([rank], 10 * rank, 5)
        assert one["first"] == (0 if rank == 0 else None)
        assert one["fails"] == ("DataError 2" if rank == 1 else "EndedElsewhere 2")
        assert one["differs"] == ("ParameterError 2" if rank == 1 else "EndedElsewhere 2")
        assert (one["apart"], one["shared"], one["not shared"]) == (bug, bug, "nothing")
        assert one["still"] == "here"
