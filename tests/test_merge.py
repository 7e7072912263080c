"""`merge`: a release as one diffusers folder, what it says of itself, and what a training on it says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline

import dp_diffusers as dpd
from certificate_support import forge, read
from dp_diffusers import merging
from dp_diffusers.cards.merging_card import merged_card
from dp_diffusers.cli.main import main
from dp_diffusers.diffusion import merged_from
from dp_diffusers.diffusion.base import Base, fingerprint
from dp_diffusers.diffusion.loading import base_of_pipeline, load_base
from dp_diffusers.diffusion.patch import Patch
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import ModelError, ParameterError, RunFolderError, VerificationError
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.privacy.files import sha256_of_file
from dp_diffusers.release import Release
from dp_diffusers.rounding import rounded_up_text
from dp_diffusers.strategies import strategy_of
from dp_diffusers.strategies.adapter import save_adapter
from family_support import stir
from loop_support import cheap_trainings
from network_support import network_of, output_of
from unet_support import disturb

ORIGIN = {
    "certificate_sha256": "a" * 64,
    "adapter_sha256": "b" * 64,
    "not_private": False,
    "epsilon": 2.0,
    "delta": 1e-5,
    "unit": "image",
    "adjacency": "add_remove",
}
OF_NONE = {**ORIGIN, "not_private": True, **dict.fromkeys(("epsilon", "delta", "unit", "adjacency"))}


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The accountant answers the same question once."""
    cheap_trainings(monkeypatch.setattr)


@lru_cache(maxsize=1)
def _plan() -> dpd.Plan:
    return dpd.Plan.calibrate(dpd.Budget(1.0, 1e-4), dpd.DPSGD(steps=2, expected_units=500, population=1000))


def _account(plan: dpd.Plan, ledger: dpd.Ledger) -> Any:
    account = ledger.reserve(plan)
    account.open_lane(RunKeys.fresh())
    for step in range(plan.mechanism.steps):
        account.charge(step)
    account.settle()
    return account


def _certify(
    release: Path, origins: Sequence[Any] = (), *, private: bool = True, base_sha256: str = "0" * 64
) -> None:
    """A certificate for what lies in a release, of a run on a base that comes from `origins`."""
    earlier = {"merged_from": [dict(origin) for origin in origins]} if origins else {}
    facts = {
        "base_model": {"id": "base", "sha256": base_sha256, **earlier},
        "adapter": {"trainable_parameters": 1},
    }
    plan = (
        _plan() if private else dpd.Plan.calibrate(None, NonPrivate(steps=1, expected_units=1, population=3))
    )
    with dpd.Ledger.open(":memory:") as ledger:
        account = _account(plan, ledger) if private else None
        dpd.Certificate.draft(plan=plan, account=account, **facts).issue(release)


def _make(folder: Path, strategy: Any, *, private: bool = True) -> Path:
    """A run folder with a certified adapter, and its base beside it, without a training."""
    network = network_of("unet")
    stir(network)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    names = ("class 0", "class 1", "class 2")
    base = Base(network=network, scheduler=scheduler, patch=Patch(size=2), class_names=names)
    base.save(folder / "base")
    run = folder / "run"
    (run / "release").mkdir(parents=True)
    (run / "recipe.yaml").write_text(f"base: {folder / 'base'}\n")
    digest = fingerprint(base)
    config = strategy_of(strategy).apply(network)
    disturb(network)
    save_adapter(network, config, run / "release" / "adapter")
    _certify(run / "release", private=private, base_sha256=digest)
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run` and `base` of a private release, and its `merged` model; never written to."""
    folder = tmp_path_factory.mktemp("made")
    _make(folder, {"name": "lora", "also": ["norm", "embedding"]})
    dpd.merge(folder / "run", folder / "merged")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run and its base that a test may change."""
    for name in ("run", "base"):
        shutil.copytree(made / name, tmp_path / name)
    (tmp_path / "run" / "recipe.yaml").write_text(f"base: {tmp_path / 'base'}\n")
    return tmp_path / "run"


def _adapted_output(run: Path) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(output_of("unet", Release.open(run).family().network.eval()))


def _holds_the_adapter(folder: Path) -> None:
    """Asserts that `merged` is the base's pipeline with the adapter of `run` in its weights."""
    merged, base = folder / "merged", folder / "base"
    pipe = DiffusionPipeline.from_pretrained(merged)
    assert type(pipe) is DDPMPipeline
    with torch.no_grad():
        found = output_of("unet", pipe.unet.eval())
        public = output_of("unet", load_base(base).network.eval())
    expected = _adapted_output(folder / "run")
    assert (found - expected).abs().max() < 1e-6 * max(1.0, float(expected.abs().max()))
    assert (public - expected).abs().max() > 1e-2
    again = load_base(merged)
    assert (again.patch.size, again.class_names) == (2, ("class 0", "class 1", "class 2"))
    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "classes.json"):
        assert (merged / name).read_bytes() == (base / name).read_bytes()


def test_guarantee_a_merged_pipeline_computes_what_the_adapter_computes(made: Path) -> None:
    _holds_the_adapter(made)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen_a", "attention", "bias", "full", "scratch"])
def test_other_strategies_merge_too(tmp_path: Path, name: str) -> None:
    dpd.merge(_make(tmp_path, {"name": name}), tmp_path / "merged")
    _holds_the_adapter(tmp_path)


def test_a_merged_folder_says_where_it_comes_from(made: Path, tmp_path: Path) -> None:
    merged, release = made / "merged", made / "run" / "release"
    certificate = read(release)
    (origin,) = load_base(merged).merged_from
    assert origin == {
        "certificate_sha256": sha256_of_file(release / "certificate.json"),
        "adapter_sha256": certificate["adapter"]["sha256"],
        **{name: certificate[name] for name in ("not_private", "epsilon", "delta", "unit", "adjacency")},
    }
    card = (merged / "README.md").read_text()
    assert f"epsilon = {rounded_up_text(certificate['epsilon'])}" in card
    assert "differ by a factor of at most e^epsilon, plus delta." in card
    several = merged_card({**certificate, "not_private": False}, [{**origin, "delta": 0.000123444}])
    assert several.count(", 0.0001235) per") == 2, "in the promise and among the releases"
    assert origin["certificate_sha256"] in card
    assert "NOT PRIVATE" not in card
    assert not (merged / "certificate.json").exists()
    assert str(made) not in "".join(path.read_text() for path in merged.rglob("*.[jm][sd]*"))
    again = base_of_pipeline(DiffusionPipeline.from_pretrained(merged))
    assert again.merged_from == (origin,)
    again.save(tmp_path)
    assert merged_from.load(tmp_path) == (origin,)


@pytest.mark.slow
def test_what_is_not_private_says_so_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = _make(tmp_path, {"name": "lora"}, private=False), tmp_path / "merged"
    capsys.readouterr()
    assert main(["merge", str(folder), "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document == {"model": str(out), "epsilon": None, "delta": None, "not_private": True}
    assert "NOT PRIVATE" in said.err
    card = (out / "README.md").read_text()
    assert card.count("NOT PRIVATE") >= 3
    assert "Trained with differential privacy" not in card
    assert merged_from.load(out)[0]["not_private"] is True


@pytest.mark.slow
def test_the_verb_answers_with_a_path_and_a_bound(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    out.mkdir()  # an empty folder is free
    assert main(["merge", str(run / "release"), "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    certificate = read(run / "release")
    bound = {"epsilon": certificate["epsilon"], "delta": certificate["delta"], "not_private": False}
    assert document == {"model": str(out), **bound}


@pytest.mark.slow
def test_a_release_that_left_its_run_is_merged_with_a_base(run: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(run / "release", tmp_path / "received")
    with pytest.raises(ParameterError, match="no recipe beside it") as refused:
        dpd.merge(alone, tmp_path / "merged")
    assert "--base" in str(refused.value.hint)
    with pytest.raises(ModelError, match="is not there"):
        dpd.merge(alone, tmp_path / "merged", base=tmp_path / "nowhere")
    assert dpd.merge(alone, tmp_path / "merged", base=tmp_path / "base") == tmp_path / "merged"
    assert dpd.Certificate.verify(alone).valid


def test_parts_that_no_training_needs_are_kept(tmp_path: Path) -> None:
    source, folder = tmp_path / "base", tmp_path / "merged"
    index = {"unet": ["a", "B"], "safety_checker": ["a", "B"], "vae": [None, None], "../secret": ["a", "B"]}
    texts = {
        name: name for name in ("unet/config.json", "unet/weights", "safety_checker/weights", "LICENSE.md")
    }
    texts |= {"model_index.json": json.dumps(index), "README.md": "x", "all.ckpt": "x", "../secret/x": "x"}
    for name, text in texts.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    network = SimpleNamespace(save_pretrained=lambda path: path.mkdir())
    folder.mkdir()
    merging._write(SimpleNamespace(source=str(source), component="unet", network=network), folder)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"LICENSE.md", "model_index.json", "safety_checker/weights", "unet/config.json"}


def _spoil_adapter(folder: Path) -> None:
    path = folder / "release" / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")


def _lower_epsilon(folder: Path) -> None:
    forge(folder / "release", {**read(folder / "release"), "epsilon": 0.1})


def _other_base(folder: Path) -> None:
    path = folder.parent / "base" / "classes.json"
    path.write_text('["a", "b", "c"]\n')


def _no_adapter(folder: Path) -> None:
    (folder / "release" / "adapter").rename(folder / "release" / "population")


def _unfinished(folder: Path) -> None:
    (folder / "private").mkdir()
    (folder / "private" / "run.json").write_text("{}")


REFUSED = {
    "a changed adapter": (_spoil_adapter, VerificationError, "adapter_model.safetensors was changed"),
    "a lower epsilon": (_lower_epsilon, VerificationError, "does not follow"),
    "another base": (_other_base, ModelError, "is not the model that the adapter was trained on"),
    "no adapter": (_no_adapter, ParameterError, "no adapter, so there is nothing to merge"),
    "not finished": (_unfinished, RunFolderError, "has not finished"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_nothing(run: Path, tmp_path: Path, case: str) -> None:
    spoil, error, says = REFUSED[case]
    spoil(run)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=says):
        dpd.merge(run, tmp_path / "merged")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_taken_is_refused(made: Path) -> None:
    with pytest.raises(ParameterError, match="is there already"):
        dpd.merge(made / "run", made / "base")
    with pytest.raises(ParameterError, match="lies in the release"):
        dpd.merge(made / "run", made / "run" / "release" / "merged")
    assert not (made / "run" / "release" / "merged").exists()


@pytest.mark.slow
@pytest.mark.parametrize("instant", ["_write", "merged_card", "sync_folder"])
def test_guarantee_a_merge_that_dies_leaves_no_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: str
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patched:
        patched.setattr(merging, instant, die)
        with pytest.raises(KeyboardInterrupt):
            dpd.merge(run, tmp_path / "merged")
    assert sorted(tmp_path.rglob("*")) == before
    assert load_base(dpd.merge(run, tmp_path / "merged")).merged_from


def _finetuned(base: Any, folder: Path) -> dpd.Release:
    """A private run on a base."""
    data = dpd.PrivateImages(
        images=np.zeros((20, 8, 8, 1), np.uint8),
        labels=np.arange(20) % 3,
        class_names=("class 0", "class 1", "class 2"),
        owner=np.arange(20),
        unit_count=20,
    )
    return dpd.finetune(base, data, _plan(), out=folder / "run", ledger=folder / "x.ledger")


def test_guarantee_nothing_private_is_trained_on_what_is_not(
    tiny_base: Callable[..., Any], tmp_path: Path
) -> None:
    replace(tiny_base(), merged_from=(ORIGIN, OF_NONE)).save(tmp_path / "base")
    for base in (tmp_path / "base", DiffusionPipeline.from_pretrained(tmp_path / "base")):
        with pytest.raises(ModelError, match="merged from a release that is NOT PRIVATE"):
            _finetuned(base, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


@pytest.mark.slow
def test_guarantee_a_training_on_a_merged_base_says_what_is_in_it(
    tiny_base: Callable[..., Any], tmp_path: Path
) -> None:
    assert _problems(tiny_base, tmp_path) == []


@pytest.mark.slow
@pytest.mark.planted
def test_a_sidecar_that_nobody_reads_is_seen(
    tiny_base: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_from, "load", lambda _: ())
    assert _problems(tiny_base, tmp_path) == ["certificate", "assumptions", "merged again"]


def _problems(tiny_base: Callable[..., Any], folder: Path) -> list[str]:
    """Where a run on a merged base is silent about what is in the base."""
    replace(tiny_base(), merged_from=(ORIGIN,)).save(folder / "base")
    release = _finetuned(folder / "base", folder)
    document = read(release.path)
    said = [line for line in document["assumptions"] if "merged from other releases" in line]
    merged = dpd.merge(release, folder / "merged")
    found = json.loads((merged / merged_from.SIDECAR).read_text())["merged_from"]
    holds = {
        "certificate": document["base_model"].get("merged_from") == [ORIGIN],
        "assumptions": len(said) == 1 and f"epsilon {2 + document['epsilon']:.4g}" in said[0],
        "merged again": [origin["epsilon"] for origin in found] == [2.0, document["epsilon"]],
        "verified": dpd.Certificate.verify(release.path).valid,
    }
    return [name for name, held in holds.items() if not held]


def test_what_is_said_of_a_merged_base_follows_from_the_certificate(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    _certify(tmp_path, [ORIGIN, {**ORIGIN, "unit": "patient_id"}])
    assert dpd.Certificate.verify(tmp_path).problems == ()
    document = read(tmp_path)
    (said,) = [line for line in document["assumptions"] if line.startswith("Public data and base model")]
    assert "epsilon 2 at delta 1e-05 per patient_id" in said
    assert said.endswith("the sum of these epsilons and deltas and this release's.")  # of two kinds of units
    (answer,) = [item["answer"] for item in document["statements"] if item["topic"] == "public_data"]
    assert "merged from other releases" in answer
    for changed in ([ORIGIN], [], [{}], "x"):
        forge(tmp_path, {**document, "base_model": {**document["base_model"], "merged_from": changed}})
        assert re.search("do not follow", " ".join(dpd.Certificate.verify(tmp_path).problems))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"merged_from": []}',
        '{"merged_from": [{}]}',
        '{"merged_from": ["x"]}',
        '{"merged_from": 1}',
    ]
    + [
        json.dumps({"merged_from": [{**ORIGIN, name: value}]})
        for name, value in (("epsilon", None), ("epsilon", -1.0), ("delta", True), ("unit", None))
    ],
)
def test_a_damaged_sidecar_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / merged_from.SIDECAR).write_text(text)
    with pytest.raises(ModelError, match=r"merged_from\.json is damaged"):
        merged_from.load(tmp_path)
