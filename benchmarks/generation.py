"""Images a second beside stock diffusers': the same model, sampler, steps, guidance and batch.

Guarantees that all engines of a round draw in one process, in an order that turns with the rounds, and that
a ratio is one of two times of the same round. Models have random weights (those of `dp-diffusers bench`, with
an autoencoder that decodes); prompts are encoded beforehand, for the stock pipelines too.

    python benchmarks/generation.py --rounds 6 --out benchmarks/timings/generation.json

stock-adapter: the adapter loaded beside the weights, as its documentation says; stock-fused: merged into
them. Their pipelines give float arrays, which costs them less than pictures. Needs an idle machine, or
`--clock processor`.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMPipeline, UNet2DModel
from peft import PeftModel

from dp_diffusers.benching import models
from dp_diffusers.benching.machine import device_name
from dp_diffusers.benching.measuring import geometric_mean, interleaved, interval
from dp_diffusers.diffusion.base import Base, config_of
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.diffusion.generation import Sampling, _scheduler, sample
from dp_diffusers.diffusion.text import TextFamily
from dp_diffusers.drawing.drawing_model import drawing_model
from dp_diffusers.strategies import strategy_of
from dp_diffusers.strategies.diffusers_file import save_diffusers_lora
from dp_diffusers.strategies.lora import save_adapter

FAMILIES = ("pixel", "latent", "stable_diffusion", "dit", "stable_diffusion_3")
GUIDED = (
    "stable_diffusion",
    "stable_diffusion_3",
)  # the others' pipelines have none, or for 1000 classes only
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Draw = Callable[[int], Any]


def made(name: str) -> Family:
    """A model of the family, without classes where its pipeline draws none; its autoencoder decodes."""
    family = models.family(name)
    base = family.base
    if name in ("pixel", "latent"):
        network = UNet2DModel.from_config({**config_of(base.network), "num_class_embeds": None})
        base = replace(base, network=network, class_names=None)
    if name == "pixel":
        base = replace(base, pipeline="DDIMPipeline")
    base = replace(base, parts=dict.fromkeys(base.parts, _autoencoder()))
    again = family_of(base)
    if isinstance(again, TextFamily) and isinstance(family, TextFamily):
        again.use_encoded(family.prompts, family._table)  # type: ignore[arg-type]
    again.network.eval()
    return again


def _autoencoder() -> AutoencoderKL:
    """Of a quarter of the side, with fewer channels than usual: decoding must not hide the network."""
    torch.manual_seed(1)
    widths = (32, 64, 64)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=widths,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
        scaling_factor=0.5,
        shift_factor=0.0,  # which one stock pipeline does not do without
    )
    return vae.requires_grad_(False).eval()


def adapted(family: Family, targets: str, folder: Path) -> Any:
    """Trains nothing: an adapter whose factors are random, in the family's network and in `folder`."""
    config = strategy_of({"name": "lora", "rank": 8, "targets": targets}).apply(family.network)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in family.network.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    save_adapter(family.network, config, folder)
    holder = getattr(diffusers, family.base.pipeline)
    save_diffusers_lora(
        family.network, config, folder, pipeline_class=holder, component=family.base.component
    )


def stock(name: str, folder: Path, sampling: Sampling, batch: int, *, fused: bool, dtype: Any) -> Draw:
    """The stock pipeline's own call; seconds go to it alone."""
    family = made(name)
    base: Base = family.base
    pipeline = base.whole() if name != "pixel" else DDIMPipeline(base.network, base.scheduler)
    if hasattr(pipeline, "load_lora_weights"):
        pipeline.load_lora_weights(folder)
        if fused:
            pipeline.fuse_lora()
            pipeline.unload_lora_weights()
    else:
        network: Any = PeftModel.from_pretrained(base.network, folder)
        network = network.merge_and_unload() if fused else network.get_base_model()
        setattr(pipeline, base.component, network)
    pipeline.to(dtype)
    pipeline.scheduler = _scheduler(family, sampling)
    pipeline.set_progress_bar_config(disable=True)
    return partial(_call, pipeline, _given(name, family, sampling, batch, dtype))


def _given(name: str, family: Family, sampling: Sampling, batch: int, dtype: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"num_inference_steps": sampling.steps, "output_type": "np"}
    if name in ("pixel", "latent"):
        return {**given, "batch_size": batch}
    given["guidance_scale"] = sampling.guidance
    if name == "dit":
        return {**given, "class_labels": [number % models.CLASSES for number in range(batch)]}
    assert isinstance(family, TextFamily)
    labels = torch.arange(batch) % family.classes
    for sign, numbers in (("", labels), ("negative_", torch.full_like(labels, family.classes))):
        found = {key: value.to(dtype) for key, value in family.conditions(numbers, torch.zeros(1)).items()}
        given[f"{sign}prompt_embeds"] = found["text"]
        if "pooled" in found:
            given[f"{sign}pooled_prompt_embeds"] = found["pooled"]
    return {**given, "height": family.size, "width": family.size}


def _call(pipeline: Any, given: dict[str, Any], number: int) -> Any:
    return pipeline(generator=torch.Generator().manual_seed(number), **given).images


def ours(name: str, targets: str, sampling: Sampling, batch: int, **options: Any) -> Draw:
    """What `generate` does for one part of its images."""
    family = made(name)
    with tempfile.TemporaryDirectory() as folder:
        adapted(family, targets, Path(folder))
    family = drawing_model(family, **options)
    labels = np.arange(batch) % family.classes if family.classes else None
    return lambda number: list(sample(family, labels, batch, replace(sampling, seed=number)))


def measured(name: str, options: argparse.Namespace, dtype: str) -> list[dict[str, Any]]:
    """Rows of one family."""
    guidance = 3.0 if name in GUIDED else 1.0
    sampling = Sampling(sampler="ddim", steps=options.steps, guidance=guidance, batch=options.batch)
    with tempfile.TemporaryDirectory() as place:
        adapted(made(name), options.targets, Path(place))
        engines: dict[str, Draw] = {
            f"stock-{kind}": stock(
                name,
                Path(place),
                sampling,
                options.batch,
                fused=kind == "fused",
                dtype=getattr(torch, dtype),
            )
            for kind in ("adapter", "fused")
        }
    engines["dp-diffusers"] = ours(name, options.targets, sampling, options.batch, dtype=dtype)
    if options.compile:
        engines["dp-diffusers-compiled"] = ours(
            name, options.targets, sampling, options.batch, dtype=dtype, compiled=True
        )
    times = interleaved(engines, options.rounds, clock=CLOCKS[options.clock])
    rows = []
    for engine in times.seconds:
        stocks = [to for to in ("stock-adapter", "stock-fused") if to in times.seconds]
        found = {to: interval(times.ratios(to, engine)) for to in stocks}
        rows.append(
            {
                "family": name,
                "engine": engine,
                "dtype": dtype,
                "guidance": guidance,
                "images_per_second": options.batch / interval(times.seconds[engine]).median,
                **{
                    f"{field}_{to.replace('-', '_')}": getattr(value, key)
                    for to, value in found.items()
                    for key, field in (("median", "ratio_to"), ("low", "low_to"), ("high", "high_to"))
                },
            }
        )
    for engine, reason in times.refused.items():  # another library's refusal is a result
        rows.append({"family": name, "engine": engine, "dtype": dtype, "reason": reason})
    return rows


def main() -> None:
    """Prints a line for each engine, and writes the document."""
    parser = argparse.ArgumentParser(description="Images a second beside stock diffusers.")
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--dtype", action="append", choices=("float32", "bfloat16"))
    parser.add_argument("--targets", default="linear")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    rows: list[dict[str, Any]] = []
    for dtype in options.dtype or ["float32"]:
        for name in options.family or FAMILIES:
            rows += measured(name, options, dtype)
            for row in rows[-4:]:
                if row["family"] == name and row["dtype"] == dtype:
                    print(json.dumps(row))
    ratios = [
        row["ratio_to_stock_fused"]
        for row in rows
        if row["engine"] == "dp-diffusers" and "ratio_to_stock_fused" in row
    ]
    if ratios:
        print(f"dp-diffusers to stock-fused: {geometric_mean(ratios):.3f}, worst {min(ratios):.3f}")
    if options.out is not None:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout
        document = {
            "commit": commit.strip(),
            "command": f"benchmarks/generation.py --rounds {options.rounds} --clock {options.clock}",
            "machine": device_name(torch.device("cpu")),
            "rows": rows,
        }
        options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
