"""Every family from a training to a merged folder that a process without peft and without us opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

import dp_diffusers as dpd
import test_families_end_to_end as ends
from dp_diffusers.diffusion.loading import load_base
from loop_support import cheap_trainings

pytestmark = pytest.mark.slow
LORA = {"name": "lora", "rank": 2, "targets": "linear"}
ALONE = """
import sys
sys.modules["dp_diffusers"] = sys.modules["peft"] = None  # neither can be imported
import torch
from diffusers import DiffusionPipeline

for line in sys.stdin:
    name, folder, component, seen = line.strip().split("\t")
    network = getattr(DiffusionPipeline.from_pretrained(folder), component).eval().double()
    calls = torch.load(seen, weights_only=False)
    assert calls, name
    with torch.no_grad():
        for call in calls:
            found = network(*call["args"], **call["kwargs"])
            found = found[0] if isinstance(found, tuple) else found.sample
            worst = (found - call["output"]).abs().max().item()
            assert worst <= 1e-6 * max(1.0, call["output"].abs().max().item()), (name, worst)
"""


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_trainings(monkeypatch.setattr)


def _note_calls(family: Any, path: Path) -> torch.Tensor:
    """Writes down what the network is asked for and what it answers; the outputs as they are in training.

    The answers are taken in float64: in float32 two orders of the same sum differ by more than 1e-6 on
    some processors, and what is to be seen is the merged weight, not the processor.
    """
    calls: list[dict[str, Any]] = []
    hook = family.network.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(_doubled({"args": args, "kwargs": kwargs})), with_kwargs=True
    )
    outputs: torch.Tensor = ends._outputs(family)
    hook.remove()
    network = family.network.double()
    with torch.no_grad():
        for call in calls:
            answer = network(*call["args"], **call["kwargs"])
            call["output"] = answer[0] if isinstance(answer, tuple) else answer.sample
    torch.save(calls, path)
    return outputs


def _doubled(value: Any) -> Any:
    """A value as it is, its floating tensors (nested in any way) in float64."""
    return tree_map(
        lambda part: part.double() if torch.is_tensor(part) and part.is_floating_point() else part, value
    )


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_guarantee_merged_families_need_neither_peft_nor_us(tmp_path: Path) -> None:
    lines = [_line(name, LORA, tmp_path / name) for name in ends.FAMILIES]
    lines.append(_line("pixart", {"name": "full"}, tmp_path / "whole"))
    command = [sys.executable, "-c", ALONE]
    outcome = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def _line(name: str, strategy: dict[str, Any], folder: Path) -> str:
    """Trains and merges a family; what a process needs to compare the two."""
    folder.mkdir()
    release = ends._trained(name, folder, strategy)
    merged = dpd.merge(release, folder / "merged")
    adapted, public = release.family(), ends._outputs(release.family(adapted=False))
    outputs = _note_calls(adapted, folder / "calls")
    assert not torch.allclose(public, outputs, atol=1e-3)
    return "\t".join([name, str(merged), load_base(merged).component, str(folder / "calls")])


@pytest.mark.parametrize("name", ["latent", "stable_diffusion"])
def test_a_merged_family_is_a_base(name: str, tmp_path: Path) -> None:
    release = ends._trained(name, tmp_path, {"name": "lora", "rank": 2})
    merged = dpd.merge(release, tmp_path / "merged")
    (tmp_path / "again").mkdir()
    text = {"caption": "chest x-ray, {label}"} if name == "stable_diffusion" else {}
    family = ends.opened(load_base(merged))
    again = dpd.finetune(
        merged,
        ends._data(family.size, **text),
        ends._plan(),
        out=tmp_path / "again" / "run",
        ledger=tmp_path / "again" / "x.ledger",
        strategy={"name": "lora", "rank": 2},
    )
    assert dpd.Certificate.verify(again.path).valid
    assert len(again.certificate.base_model["merged_from"]) == 1
    assert (again.path / "README.md").read_text().count("merged from other releases") == 1
