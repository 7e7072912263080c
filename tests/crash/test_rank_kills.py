"""A training in several processes: the same releases and the same ledger; and one of them dies."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash_account import at_the_end, report

from dp_diffusers.drawing.images_out import PARQUET
from dp_diffusers.privacy.ledger import Ledger
from loop_support import charges, problems, problems_of_ledger, read_log, until

pytestmark = pytest.mark.slow

STEPS = 12  # of the recipe
COMPARED = ["keys_for_tests", "releases_are_kept"]
INTERRUPTED = 130
SAME = 1e-6  # of the noise: a release lies on a grid of up to 2**-20 of it, where rounding may choose


def start(trainings: Any, recipe: Path, count: int, *overrides: str, **of_ranks: Any) -> list[int]:
    """Starts `count` processes of one training, as a launcher does. of_ranks: options `r0` … `common`."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    common = of_ranks.get("common", {})
    pids = []
    for rank in range(count):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        options = {**common, **of_ranks.get(f"r{rank}", {})}
        options["environment"] = {name: str(value) for name, value in environment.items()}
        pids.append(trainings.start(recipe, *overrides, **options))
    return pids


def codes(trainings: Any, pids: list[int]) -> list[int]:
    return [trainings.wait(pid) for pid in pids]


def entries(ledger: Path) -> list[dict[str, Any]]:
    """What the ledger says, without names, times and places."""
    free = ("run", "at", "lane", "folder", "previous", "hash")
    with Ledger.open(ledger) as opened:
        return [
            {name: value for name, value in {"kind": entry.kind, **entry.content}.items() if name not in free}
            for entry in opened.entries()
        ]


def output(folder: Path) -> str:
    return (folder / "output").read_text()


def released_by(
    trainings: Any, recipe: Path, counts: tuple[int, ...], *overrides: str
) -> tuple[list[list[dict[str, Any]]], list[list[Any]]]:
    """The ledger, and what was released, of the same training in each of these numbers of processes."""
    folder = recipe.parent
    ledgers, kept = [], []
    for count in counts:
        if count == 1:
            ended = [trainings.run(recipe, *overrides, out="run1", defects=COMPARED)]
        else:
            common = {"out": f"run{count}", "defects": COMPARED}
            ended = codes(trainings, start(trainings, recipe, count, *overrides, common=common))
        assert ended == [0] * count, output(folder)
        ledgers.append(entries(folder / "tiny.ledger"))
        (folder / "tiny.ledger").unlink()
        kept.append([np.load(folder / f"releases-{count}-{rank}.npz") for rank in range(count)])
    return ledgers, kept


def test_guarantee_1_2_and_4_processes_release_the_same_and_pay_the_same(
    trainings: Any, tiny_recipe: Path
) -> None:
    ledgers, kept = released_by(trainings, tiny_recipe, (1, 2, 4))
    assert ledgers[0] == ledgers[1] == ledgers[2]
    assert sum(entry["kind"] == "charge" for entry in ledgers[0]) == STEPS
    farthest = [difference(kept[0], files) for files in kept[1:]]
    report(f"1, 2 and 4 processes: releases differ by {max(farthest):.1e} of the noise at most")
    assert max(farthest) <= SAME
    assert output(tiny_recipe.parent).count("step 12/12") == 3  # one process speaks


def test_guarantee_a_warmup_is_asked_by_one_process_and_the_same_in_all(
    trainings: Any, tiny_recipe: Path
) -> None:
    asked = "warmup={dimensions: 10, images: 12, steps: 3, batch_size: 4}"
    ledgers, kept = released_by(trainings, tiny_recipe, (1, 2), asked)
    assert ledgers[0] == ledgers[1]
    assert [entry["name"] for entry in ledgers[0] if entry["kind"] == "query"] == ["moments"]
    assert difference(*kept) <= SAME
    assert output(tiny_recipe.parent).count("warm-up: step 2 of 3") == 2  # one process speaks


def test_guarantee_a_late_teacher_is_asked_by_one_process_and_chooses_the_same_in_any_number(
    trainings: Any, tiny_recipe: Path
) -> None:
    folder = tiny_recipe.parent
    late = "teacher={dimensions: 8, clusters: 10, drawn_by: trained}"
    asked = [late, "generation.candidates=2", "budget.epsilon=20"]
    assert codes(trainings, start(trainings, tiny_recipe, 2, *asked)) == [0, 0], output(folder)
    kinds = [entry["kind"] for entry in entries(folder / "tiny.ledger")]
    assert kinds.count("query") == 1
    assert kinds.index("query") > max(place for place, kind in enumerate(kinds) if kind == "charge")
    made = []
    for count in (1, 3):
        words = ["generate", str(folder / "run"), "--out", str(folder / f"made-by-{count}")]
        ranks = [
            {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)} for rank in range(count)
        ]
        pids = [trainings.command(folder, words, environment=environment) for environment in ranks]
        assert codes(trainings, pids) == [0] * count, output(folder)
        made.append((folder / f"made-by-{count}" / PARQUET).read_bytes())
    assert made[0] == made[1]
    assert len(re.findall(r"the teacher keeps \d of 18 images", output(folder))) == 2


def difference(one: list[Any], other: list[Any]) -> float:
    """How far the releases of two trainings lie apart, in standard deviations of the noise.

    Those of the processes of one training are equal bit for bit.
    """
    for step in map(str, range(STEPS)):
        assert all(np.array_equal(file[step], other[0][step]) for file in other), step
    apart = [np.abs(one[0][step] - other[0][step]).max() for step in map(str, range(STEPS))]
    return float(max(apart) / one[0]["std"])


def test_guarantee_a_base_in_pieces_releases_the_same(trainings: Any, tiny_recipe: Path) -> None:
    """Passes of four rows: the processes have different numbers of them, and one may have none."""
    folder = tiny_recipe.parent
    passes = "runtime.rows_per_pass=4"
    assert trainings.run(tiny_recipe, passes, out="run1", defects=COMPARED) == 0
    whole = [np.load(folder / "releases-1-0.npz")]
    (folder / "tiny.ledger").unlink()
    pids = start(trainings, tiny_recipe, 2, passes, "runtime.shard_base=true", common={"defects": COMPARED})
    assert codes(trainings, pids) == [0, 0], output(folder)
    assert difference(whole, [np.load(folder / f"releases-2-{rank}.npz") for rank in (0, 1)]) <= SAME


@pytest.mark.parametrize(
    ("overrides", "count", "line"),
    [
        (["runtime.shard_base=true", "strategy={name: full}"], 2, "this strategy trains weights of the base"),
        (["runtime.shard_base=true", "runtime.rows_per_pass=auto"], 2, "needs a number of rows"),
        (["runtime.shard_base=true"], 1, "runtime.shard_base needs several processes"),
    ],
)
def test_what_cannot_lie_in_pieces_is_refused(
    overrides: list[str], count: int, line: str, trainings: Any, tiny_recipe: Path
) -> None:
    folder = tiny_recipe.parent
    pids = start(trainings, tiny_recipe, count, *overrides)
    assert codes(trainings, pids) == [2] * count, output(folder)
    assert output(folder).count("error:") == 1
    assert line in output(folder)
    assert not (folder / "tiny.ledger").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["strategy={name: sapf, rank: 2}", "generation.labels=histogram"],
        ["strategy={name: full}", "training.public={path: IMAGES, label: label, batch_size: 4}"],
        ["mechanism={name: none, steps: 12, expected_units: 10, population: 30}"],
    ],
    ids=["side queries", "full and public", "not private"],
)
def test_every_kind_of_training_works_in_two(overrides: list[str], trainings: Any, tiny_recipe: Path) -> None:
    folder = tiny_recipe.parent
    public = str(public_images(folder))
    given = [override.replace("IMAGES", public) for override in overrides]
    assert codes(trainings, start(trainings, tiny_recipe, 2, *given)) == [0, 0], output(folder)
    assert (folder / "run" / "release" / "certificate.json").exists()
    assert problems_of_ledger(folder / "tiny.ledger") == []


def public_images(folder: Path) -> Path:
    """Images that are not the private ones."""
    from dp_diffusers.drawing.images_out import write_images

    images = np.random.default_rng(5).integers(0, 255, (12, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(12, dtype=np.int64) % 3
    write_images(images, labels, ["dark", "grey", "light"], folder / "public", format="parquet")
    return folder / "public" / PARQUET


@pytest.mark.parametrize(("rank", "sign"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGTERM)])
def test_guarantee_a_process_that_is_killed_costs_at_most_a_step(
    rank: int, sign: int, trainings: Any, tiny_recipe: Path
) -> None:
    folder = tiny_recipe.parent
    pids = start(trainings, tiny_recipe, 2, common={"pause": 0.3})
    until(lambda: len(read_log(folder / "log")[1]) >= 3)
    began = time.monotonic()
    assert trainings.kill(pids[rank], sign) == -sign
    assert trainings.wait(pids[1 - rank]) == INTERRUPTED
    assert time.monotonic() - began < 20  # the group's limit is half an hour: a death shows at once
    assert output(folder).count("error: another process of this training is gone") == 1
    assert "Traceback" not in output(folder)
    assert problems(folder) == []
    _, done = read_log(folder / "log")
    assert len(charges(folder / "tiny.ledger")) <= len(done) + 1
    assert codes(trainings, start(trainings, tiny_recipe, 2)) == [0, 0], output(folder)
    certificate = at_the_end(folder)
    assert certificate["mechanisms"][0]["steps_charged"] <= STEPS + 1


def test_guarantee_a_death_before_the_sums_are_there_costs_nothing(trainings: Any, tiny_recipe: Path) -> None:
    folder = tiny_recipe.parent
    send = "dp_diffusers.processes.group:Group.sum_to_first"
    pids = start(trainings, tiny_recipe, 2, r1={"die": [send, "before", 4]})
    assert codes(trainings, pids) == [INTERRUPTED, -signal.SIGKILL]
    assert len(charges(folder / "tiny.ledger")) == len(read_log(folder / "log")[1]) == 3
    assert problems(folder) == []


def test_guarantee_the_first_dies_between_payment_and_noise_and_other_numbers_go_on(
    trainings: Any, tiny_recipe: Path
) -> None:
    """One process, then four, then two; the ledger knows every step."""
    folder = tiny_recipe.parent
    pay = "dp_diffusers.privacy.reservation:Reservation.charge"
    assert trainings.run(tiny_recipe, die=[pay, "after", 3]) == -signal.SIGKILL
    pids = start(trainings, tiny_recipe, 4, r0={"die": [pay, "after", 3]})
    first, *others = codes(trainings, pids)
    assert first == -signal.SIGKILL
    assert others == [INTERRUPTED] * 3
    assert len(charges(folder / "tiny.ledger")) == len(read_log(folder / "log")[1]) + 2 == 6
    assert codes(trainings, start(trainings, tiny_recipe, 2)) == [0, 0], output(folder)
    at_the_end(folder)
    # two steps were paid twice: the last two of the plan are given up
    assert len(charges(folder / "tiny.ledger")) == STEPS
    assert "the last 2 steps are given up" in output(folder)


def test_a_process_that_hangs_is_given_up_in_time(trainings: Any, tiny_recipe: Path) -> None:
    folder = tiny_recipe.parent
    pids = start(trainings, tiny_recipe, 2, "runtime.process_timeout=3", common={"pause": 0.3})
    until(lambda: len(read_log(folder / "log")[1]) >= 2)
    os.kill(pids[1], signal.SIGSTOP)
    began = time.monotonic()
    assert trainings.wait(pids[0]) == INTERRUPTED
    assert time.monotonic() - began < 20
    assert "gave no answer for 3 s" in output(folder)
    assert trainings.kill(pids[1]) == -signal.SIGKILL
    assert problems(folder) == []


@pytest.mark.parametrize(
    ("defect", "code", "line", "paid"),
    [
        ("data_breaks_in_step_two", 2, "error: an image cannot be read any more", 2),
        ("other_images", 2, "error: process 1 has another private images than process 0", 0),
        ("no_note_of_the_first", 2, "error: this process does not see the", 0),
        ("other_weights", 1, "internal error: the processes of this training hold different weights", 2),
    ],
)
def test_an_error_of_one_process_ends_both_with_one_line(
    defect: str, code: int, line: str, paid: int, trainings: Any, tiny_recipe: Path
) -> None:
    folder = tiny_recipe.parent
    pids = start(trainings, tiny_recipe, 2, r1={"defects": [defect]})
    assert codes(trainings, pids) == [code, code], output(folder)
    assert line in output(folder)
    assert len(charges(folder / "tiny.ledger")) == paid
    assert problems(folder) == []
    if code == 2:
        assert output(folder).count("error:") == 1
