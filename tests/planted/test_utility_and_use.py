"""Defects of published code that cost utility or use rather than privacy: each has an ordinary test here."""

from __future__ import annotations

import inspect
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_support import toy_images, toy_loop
from test_released_alone import STEPS, Account, plan
from torch import nn

from dp_diffusers import release
from dp_diffusers.checkpoint import Saver
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.diffusion.generation import balanced_labels
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import VerificationError
from dp_diffusers.evaluation import classifier
from dp_diffusers.loop.averaging import Average
from dp_diffusers.loop.steps import optimizer_of
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.strategies.lora import Lora, save_adapter
from dp_diffusers.training import Loop

ROOT = Path(__file__).parents[2]


def trained_in_passes(
    rows_per_pass: int, patch: pytest.MonkeyPatch
) -> tuple[list[torch.Tensor], list[float]]:
    """The averaged weights and the learning rate at each update of the average."""
    rates: list[float] = []
    update = Average.update
    keys = RunKeys.for_tests(3)
    loop = toy_loop(
        toy_images(40),
        plan=plan(),
        account=Account(keys.lane),
        keys=keys,
        folder=RunFolder(Path("nowhere")),
        training={
            "noise_draws": 3,
            "ema": 0.9,
            "learning_rate": 1e-2,
            "warmup_steps": 3,
            "schedule": "linear",
        },
        runtime={"rows_per_pass": rows_per_pass},
    )

    def noting(self: Average) -> None:
        rates.append(loop.optimizer.param_groups[0]["lr"])
        update(self)

    with patch.context() as inner:
        inner.setattr(Average, "update", noting)
        inner.setattr(Saver, "maybe_save", lambda self, **_: None)
        inner.setattr(Loop, "report", lambda *_: None)
        loop.run()
    return [parameter.detach().clone() for parameter in loop.trainable], rates


def test_average_and_learning_rate_count_steps_whatever_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not micro-batches: with those, a decay of 0.9999 acts like 0.92."""
    whole, rates = trained_in_passes(1000, monkeypatch)
    assert len(rates) == STEPS
    for rows in (1, 4):
        weights, same = trained_in_passes(rows, monkeypatch)
        assert same == rates
        # passes are summed in float64; the released grid hides all but a rare last step of it
        assert all(torch.allclose(one, two, rtol=0, atol=1e-4) for one, two in zip(whole, weights))


def adapted(network: nn.Module) -> set[str]:
    return {name.split(".lora_A")[0] for name, _ in network.named_parameters() if ".lora_A." in name}


def test_attention_adapters_sit_on_every_projection_and_on_the_output(tiny_base: Callable[..., Any]) -> None:
    """`to_out.Linear` matches nothing in diffusers; the output projection is `to_out.0`."""
    network = tiny_base().network
    blocks = [name for name, layer in network.named_modules() if type(layer).__name__ == "Attention"]
    Lora(rank=2).apply(network)
    wanted = {f"{block}.{part}" for block in blocks for part in ("to_q", "to_k", "to_v", "to_out.0")}
    assert blocks
    assert adapted(network) == wanted


@pytest.mark.parametrize("also", [(), ("bias",)])
def test_no_bias_of_the_base_is_trained(also: tuple[str, ...], tiny_base: Callable[..., Any]) -> None:
    network = tiny_base().network
    Lora(rank=2, also=also).apply(network)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert all(".lora_" in name for name in trained)
    assert any(name.endswith("bias") for name in trained) == bool(also)


def test_an_adapter_scales_by_one_and_adam_does_not_decay_it(tiny_base: Callable[..., Any]) -> None:
    network = tiny_base().network
    config = Lora(rank=4).apply(network)
    assert config.lora_alpha == config.r
    (group,) = optimizer_of("adam", [nn.Parameter(torch.zeros(1))], 1e-3).param_groups
    assert group["weight_decay"] == 0


def test_an_adapter_is_saved_apart_from_the_base(tiny_base: Callable[..., Any], tmp_path: Path) -> None:
    network = tiny_base().network
    base = sum(parameter.numel() for parameter in network.parameters())
    save_adapter(network, Lora(rank=2).apply(network), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 4 * base


def test_no_network_runs_to_encode_an_image(tiny_base: Callable[..., Any]) -> None:
    """No frozen autoencoder at every step: pixels become patches by a transform that trains nothing."""
    family = family_of(tiny_base())
    calls: list[str] = []
    for name, layer in family.network.named_modules():
        layer.register_forward_hook(lambda *_, name=name: calls.append(name))
    family.encode(np.zeros((2, 8, 8, 1), np.uint8))
    assert calls == []


def test_the_test_set_is_looked_at_once_and_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """One score for each training, at its end: no epoch can be picked by it."""
    seen: list[str] = []
    trained, accuracy = classifier.trained, classifier.accuracy_of
    monkeypatch.setattr(classifier, "trained", lambda *a, **k: (seen.append("train"), trained(*a, **k))[1])
    monkeypatch.setattr(classifier, "accuracy_of", lambda *a: (seen.append("test"), accuracy(*a))[1])
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1), dtype=np.uint8)
    pair = images, np.arange(30) % 3
    classifier.train_and_test(pair, pair, seed=0, passes=600, classes=3)
    assert seen == ["train", "test"]
    assert not {"test", "reference"} & set(inspect.signature(classifier.trained).parameters)


def test_labels_of_generation_are_asked_for_and_not_counted() -> None:
    """Unless a histogram is paid for, how many images of each class are made is a public choice."""
    assert set(inspect.signature(balanced_labels).parameters) <= {"count", "classes", "proportions"}
    labels = balanced_labels(12, 3)
    assert labels is not None
    assert np.bincount(labels).tolist() == [4, 4, 4]


def test_a_release_that_does_not_verify_is_not_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a subprocess says is not swallowed: its exit code ends the training."""
    failed = subprocess.CompletedProcess([], returncode=4, stdout="", stderr="error: epsilon does not follow")
    monkeypatch.setattr(release.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(VerificationError, match="epsilon does not follow"):
        release.verify_in_a_fresh_process(tmp_path)


def tracked_files() -> list[Path]:
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode or not found.stdout:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in found.stdout.splitlines()]


MACHINE_PATH = re.compile(r"(?<![\w.$}/])/(?:home|Users|root|work|bigtemp|scratch|data1?|mnt)/[\w.-]+")


def test_no_path_of_one_machine_is_in_the_repository() -> None:
    assert MACHINE_PATH.search("config: /home/me/images")
    found = []
    for path in tracked_files():
        if path.is_relative_to(ROOT / "tests"):
            continue  # tests make such paths up, to see whether they leak
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ".json", ".cfg"} and path.exists():
            text = path.read_text(encoding="utf-8")
            found += [f"{path.relative_to(ROOT)}: {match}" for match in MACHINE_PATH.findall(text)]
    assert found == []


def test_the_repository_is_installable_software() -> None:
    """Licence, readme, metadata; no cache, no foreign library copied in, nothing pinned to a URL."""
    tomllib = pytest.importorskip("tomllib")
    names = {path.relative_to(ROOT).as_posix() for path in tracked_files()}
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
    assert not [name for name in names if "__pycache__" in name or ".ipynb_checkpoints" in name]
    assert not [name for name in names if re.search(r"(^|/)(peft|opacus|diffusers|myopacus)/", name)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"]
    assert not [item for item in project["dependencies"] if "://" in item or "git+" in item]
