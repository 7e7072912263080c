from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig, PeftModel

from dp_diffusers.strategies import diffusers_file, strategy_of
from dp_diffusers.strategies.adapter import save_adapter
from dp_diffusers.strategies.diffusers_file import DIFFUSERS_FILE, save_diffusers_lora
from dp_diffusers.strategies.lora import STARTS
from network_support import network_of, output_of
from unet_support import disturb

PIPELINES = [
    ("StableDiffusionPipeline", "unet", "conditional unet"),
    ("StableDiffusionXLPipeline", "unet", "conditional unet"),
    ("StableDiffusion3Pipeline", "transformer", "sd3"),
    ("FluxPipeline", "transformer", "flux"),
]


def pipeline_of(name: str, component: str, network: Any) -> Any:
    """A pipeline of nothing but a network and a scheduler: enough for `load_lora_weights`."""
    import diffusers

    kind = getattr(diffusers, name)
    flows = component == "transformer"
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler() if flows else diffusers.DDIMScheduler()
    needed = inspect.signature(kind.__init__).parameters.values()
    parts: dict[str, Any] = {part.name: None for part in needed if part.default is inspect.Parameter.empty}
    del parts["self"]
    return kind(**parts | {component: network, "scheduler": scheduler})


def adapted(kind: str, spec: Any) -> tuple[Any, Any]:
    network = network_of(kind)
    config = strategy_of(spec).apply(network)
    disturb(network)
    return network, config


def reloaded_error(name: str, component: str, kind: str, spec: Any, folder: Path) -> float:
    """How far a stock pipeline that loaded the file is from the adapted network."""
    network, config = adapted(kind, spec)
    pipe = pipeline_of(name, component, network_of(kind))
    assert save_diffusers_lora(network, config, folder, pipeline_class=type(pipe), component=component)
    pipe.load_lora_weights(folder, weight_name=DIFFUSERS_FILE)
    with torch.no_grad():
        found, expected = output_of(kind, getattr(pipe, component).eval()), output_of(kind, network)
        assert not torch.allclose(expected, output_of(kind, network_of(kind)), atol=1e-2)
    return float((found - expected).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "component", "kind"), PIPELINES)
@pytest.mark.parametrize("targets", ["attention", "all"])
def test_a_stock_pipeline_loads_the_file(
    name: str, component: str, kind: str, targets: str, tmp_path: Path
) -> None:
    spec = {"name": "lora", "rank": 2, "alpha": 5, "targets": targets}
    assert reloaded_error(name, component, kind, spec, tmp_path) <= 1e-6
    frozen = {"name": "frozen_a", "rank": 2, "alpha": 5}
    assert reloaded_error(name, component, kind, frozen, tmp_path / "frozen") <= 1e-6


@pytest.mark.parametrize("start", STARTS)
def test_what_every_start_of_the_factors_leaves_is_read_by_peft_or_by_both(
    start: str, tmp_path: Path
) -> None:
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["to_q"], init_lora_weights=start)
    if start not in ("olora", "pissa"):
        assert reloaded_error(*PIPELINES[2], config, tmp_path) <= 1e-6
        return
    network, made = adapted("sd3", config)
    options: dict[str, Any] = {"pipeline_class": StableDiffusion3Pipeline, "component": "transformer"}
    assert not save_diffusers_lora(network, made, tmp_path, **options)
    save_adapter(network, made, tmp_path)
    loaded = PeftModel.from_pretrained(network_of("sd3"), tmp_path).base_model.model
    with torch.no_grad():
        difference = output_of("sd3", network) - output_of("sd3", loaded.eval())
    assert float(difference.abs().max()) <= 1e-5


@pytest.mark.slow
@pytest.mark.planted
def test_a_file_without_its_scale_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusers_file, "_metadata", lambda config: None)
    spec = {"name": "lora", "rank": 2, "alpha": 8}
    assert reloaded_error(*PIPELINES[2], spec, tmp_path) > 1e-2


class Reads:
    """A pipeline's class that reads adapters of a transformer."""

    saved: dict[str, Any]

    @classmethod
    def save_lora_weights(
        cls,
        folder: Path,
        transformer_lora_layers: Any = None,
        transformer_lora_adapter_metadata: Any = None,
        weight_name: str | None = None,
    ) -> None:
        cls.saved = {"layers": transformer_lora_layers, "metadata": transformer_lora_adapter_metadata}

    def load_lora_weights(self) -> None:
        """Present, as in the pipelines that read the file."""


class ReadsNothing:
    """A pipeline's class without adapters, as `DDPMPipeline` or `DiTPipeline`."""


@pytest.mark.parametrize(
    ("kind", "spec", "written"),
    [
        ("sd3", {"name": "lora"}, True),
        ("sd3", {"name": "frozen_a"}, True),
        ("sd3", {"name": "lora", "also": ["norm"]}, False),
        ("sd3", {"name": "lora", "also": ["bias"]}, False),
        ("sd3", {"name": "attention"}, False),
        ("pixart", {"name": "full"}, False),
    ],
)
def test_it_is_written_for_low_rank_factors_alone(
    kind: str, spec: dict[str, Any], written: bool, tmp_path: Path
) -> None:
    network, config = adapted(kind, spec)
    options: dict[str, Any] = {"component": "transformer"}
    assert save_diffusers_lora(network, config, tmp_path, pipeline_class=Reads, **options) == written
    assert not save_diffusers_lora(network, config, tmp_path, pipeline_class=ReadsNothing, **options)
    other = {"component": "unet", "pipeline_class": Reads}
    assert not save_diffusers_lora(network, config, tmp_path, **other)
    if written:
        assert Reads.saved["metadata"]["lora_alpha"] == 8
        assert Reads.saved["metadata"]["target_modules"] == sorted(Reads.saved["metadata"]["target_modules"])
