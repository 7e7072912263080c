"""What a benchmark says: JSON fields, tables, the picture, and which cases are asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dp_diffusers.benching.case import ENGINES, FAMILIES, OURS, PLAIN, chosen, default_grid, full_grid
from dp_diffusers.benching.results import BenchResult, Row
from dp_diffusers.errors import ParameterError

CONTRACT = {"family", "strategy", "engine", "units", "noise_draws", "dtype", "time_ratio", "memory_ratio"}


def row(engine: str, ratio: float | None, *, family: str = "pixel", **more: object) -> Row:
    timed = {} if ratio is None else {"low": 0.9 * ratio, "high": 1.1 * ratio, "seconds": 0.4 * ratio}
    facts = {"family": family, "strategy": "lora", "units": 4, "noise_draws": 4, "dtype": "float32"}
    return Row(**facts, engine=engine, time_ratio=ratio, **timed, **more)  # type: ignore[arg-type]


@pytest.fixture
def result() -> BenchResult:
    rows = (
        row(PLAIN, 1.0, gradient_error=1e-6, memory_ratio=1.0),
        row(OURS, 1.02, gradient_error=1e-6, memory_ratio=1.05),
        row("official", 3.0, gradient_error=0.52),
        row("opacus-ghost", None, reason="Parameter tying is not supported"),
        row(PLAIN, 1.0, family="dit"),
        row(OURS, 1.10, family="dit", memory_ratio=1.2),
    )
    return BenchResult(rows=rows, device="a machine", settings={"rounds": 6})


def test_the_document_has_the_fields_of_the_contract(result: BenchResult) -> None:
    document = json.loads(json.dumps(result.to_dict()))
    assert {"rows", "device"} <= set(document)
    assert all(set(found) >= CONTRACT for found in document["rows"])
    assert document["summary"]["lora"] == {
        "geometric_mean": pytest.approx((1.02 * 1.10) ** 0.5),
        "worst": 1.10,
        "worst_memory": 1.2,
        "cases": 2,
    }


def test_the_table_says_what_is_wrong_and_what_did_not_run(result: BenchResult) -> None:
    text = result.to_markdown()
    assert "| official | 3.00 | 2.70 to 3.30 | – | wrong: off by 52 % |" in text
    assert "| opacus-ghost | – | – | – | Parameter tying is not supported |" in text
    assert "| dp-diffusers | 1.02 | 0.92 to 1.12 | 1.05 | right |" in text
    assert "dp-diffusers, lora: 1.059 (worst 1.100) over 2 cases" in text


@pytest.mark.slow
def test_the_picture_is_drawn(result: BenchResult, tmp_path: Path) -> None:
    from dp_diffusers.benching.chart import draw

    svg = draw(result, tmp_path / "bench.svg").read_text()
    assert "<dc:date>" not in svg
    assert draw(result, tmp_path / "bench.png").stat().st_size > 10_000


def test_the_default_grid_has_every_family_and_engine() -> None:
    grid = default_grid()
    assert {case.family for case in grid} == set(FAMILIES)
    assert all(
        any(set(case.engines) == set(ENGINES) for case in grid if case.family == family)
        for family in FAMILIES
    )
    assert {case.noise_draws for case in full_grid()} == {1, 4, 8}


def test_only_keeps_what_fits_and_the_plain_step() -> None:
    kept = chosen(default_grid(), ["family=dit", "family=latent", "engine=vmap"])
    assert {case.family for case in kept} == {"dit", "latent"}
    assert {case.engines for case in kept} == {(PLAIN, "vmap")}


@pytest.mark.parametrize(
    ("only", "message", "hint"),
    [
        ("family", "expected KEY=VALUE", "--only family=dit"),
        ("famly=dit", "unknown key of a row 'famly'", "'family'"),
        ("family=ditt", "unknown family 'ditt'", "'dit'"),
        ("dtype=bfloat16", "no case of the grid fits", "--full"),
        ("engine=opacus-hook", "unknown engine 'opacus-hook'", "'opacus-hooks'"),
    ],
)
def test_only_refuses_what_it_does_not_know(only: str, message: str, hint: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        chosen(default_grid(), [only])
    assert hint in str(caught.value.hint)
