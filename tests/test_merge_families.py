"""Every family from a training to a merged folder that a process without peft and without us opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

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
    network = getattr(DiffusionPipeline.from_pretrained(folder), component).eval()
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


def _note_calls(network: Any, path: Path) -> Any:
    """Writes down what the network was asked for and what it answered."""
    calls: list[dict[str, Any]] = []

    def note(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        answer = output[0] if isinstance(output, tuple) else output.sample
        calls.append({"args": args, "kwargs": kwargs, "output": answer})
        torch.save(calls, path)

    return network.register_forward_hook(note, with_kwargs=True)


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
    _note_calls(adapted.network, folder / "calls")
    assert not torch.allclose(public, ends._outputs(adapted), atol=1e-3)
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
