from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import dp_diffusers as dpd
from dp_diffusers.errors import BudgetError, DataError, InputError, RunFolderError
from dp_diffusers.finetuning import train
from dp_diffusers.generating import generate
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import Recipe
from dp_diffusers.release import Release
from loop_support import cheap_trainings


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is not about the plan or the fresh process: the whole path has both."""
    cheap_trainings(monkeypatch.setattr)


def _ledger(recipe: Path) -> Ledger:
    return Ledger.open(recipe.parent / "tiny.ledger")


def test_the_whole_path(tiny_recipe: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    recipe = Recipe.load(tiny_recipe)
    release = train(recipe, tmp_path / "run", lambda **facts: lines.append(facts))
    steps = [facts for facts in lines if "step" in facts]
    assert [facts["step"] for facts in steps] == [1, 2, 3]
    assert all(set(facts) <= {"step", "steps", "epsilon", "budget", "seconds"} for facts in steps)
    assert 0 < steps[0]["epsilon"] <= steps[2]["epsilon"] <= 5
    certificate = json.loads((release.path / "certificate.json").read_text())
    assert certificate["mechanisms"][0]["steps_charged"] == 3
    assert not certificate["not_private"]
    assert 4.95 <= certificate["epsilon"] <= 5
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "README.md"} <= set(
        certificate["files"]
    )
    assert (tmp_path / "run" / "private").stat().st_mode & 0o777 == 0o700
    with _ledger(tiny_recipe) as ledger:
        assert ledger.spent().epsilon == pytest.approx(certificate["epsilon"])
        assert [run.status for run in ledger.runs()] == ["settled"]

    images = generate(release)
    table = pq.read_table(images / "data" / "train-00000-of-00001.parquet")
    assert np.bincount(table["label"].to_numpy()).tolist() == [3, 3, 3]
    assert dpd.Certificate.verify(release.path).valid
    assert "images/data/train-00000-of-00001.parquet" in release.certificate.files

    again = train(Recipe.load(tiny_recipe), tmp_path / "run")
    assert again.certificate.files == release.certificate.files
    with _ledger(tiny_recipe) as ledger:
        assert len(ledger.runs()) == 1


@pytest.mark.slow
def test_a_changed_recipe_is_refused_with_the_fields_that_differ(tiny_recipe: Path, tmp_path: Path) -> None:
    train(Recipe.load(tiny_recipe), tmp_path / "run")
    changed = Recipe.load(tiny_recipe, ["training.learning_rate=0.5", "mechanism.steps=4"])
    with pytest.raises(RunFolderError, match=r"mechanism\.steps, training\.learning_rate differ"):
        train(changed, tmp_path / "run")
    slower = Recipe.load(tiny_recipe, ["runtime.rows_per_pass=3"])
    assert train(slower, tmp_path / "run").path.exists()


@pytest.mark.usefixtures("cheap")
def test_a_second_run_beyond_the_cap_is_refused_before_anything_is_read(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    train(Recipe.load(tiny_recipe), tmp_path / "run")
    with pytest.raises(BudgetError, match="above its cap"):
        train(Recipe.load(tiny_recipe), tmp_path / "other")
    with _ledger(tiny_recipe) as ledger:
        assert len(ledger.runs()) == 1


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param("missing file", marks=pytest.mark.slow),
        pytest.param("no such column", marks=pytest.mark.slow),
        pytest.param("another size", marks=pytest.mark.slow),
    ],
)
def test_a_failure_before_the_first_charge_spends_nothing(
    tiny_recipe: Path, tmp_path: Path, failure: str
) -> None:
    overrides = {
        "missing file": ["data.path=nowhere.parquet"],
        "no such column": ["data.label=diagnosis"],
        "another size": ["data.classes=[a, b]"],
    }[failure]
    with pytest.raises(InputError):
        train(Recipe.load(tiny_recipe, overrides), tmp_path / "run")
    with _ledger(tiny_recipe) as ledger:
        assert ledger.spent().epsilon == 0
        assert all(run.status == "cancelled" for run in ledger.runs())
    assert train(Recipe.load(tiny_recipe), tmp_path / "good").path.exists()


@pytest.mark.slow
def test_an_interrupted_run_resumes_and_pays_for_what_it_redoes(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dp_diffusers import checkpoint

    recipe = Recipe.load(tiny_recipe, ["mechanism.steps=6"])

    def stop(**facts: Any) -> None:
        if facts.get("step") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", stop)
    state = checkpoint.load(tmp_path / "run" / "private" / "checkpoint.pt")
    assert state is not None
    assert state["step"] == 3
    state["step"] = 2  # as if the process had died before the last checkpoint
    checkpoint.save_atomic(state, tmp_path / "run" / "private" / "checkpoint.pt")
    messages: list[str] = []
    release = train(recipe, tmp_path / "run", lambda **facts: messages.append(str(facts.get("message"))))
    assert "resuming at step 2" in messages
    with _ledger(tiny_recipe) as ledger:
        (run,) = ledger.runs()
        charged = [entry for entry in ledger.entries() if entry.kind == "charge"]
        assert len({entry.content["lane"] for entry in charged}) == 2
        assert run.steps_charged == len(charged) <= run.limit
        assert ledger.spent().epsilon <= 5
    assert release.certificate.mechanisms[0]["steps_charged"] == len(charged)
    assert dpd.Certificate.verify(release.path).valid


@pytest.mark.slow
def test_a_crash_after_the_last_step_costs_nothing_more(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dp_diffusers.run import running

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running, "write_release", fail)
    with pytest.raises(OSError, match="No space"):
        train(Recipe.load(tiny_recipe), tmp_path / "run")
    monkeypatch.undo()
    release = train(Recipe.load(tiny_recipe), tmp_path / "run")
    assert release.certificate.mechanisms[0]["steps_charged"] == 3


@pytest.mark.usefixtures("cheap")
def test_the_non_private_run_says_so_everywhere(tiny_recipe: Path, tmp_path: Path) -> None:
    release = train(Recipe.load(tiny_recipe, ["mechanism.name=none"]), tmp_path / "run")
    assert release.certificate.not_private
    assert release.certificate.epsilon is None
    assert "NOT PRIVATE" in (release.path / "README.md").read_text()
    assert not (tmp_path / "tiny.ledger").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("cheap")
def test_python_api(tiny_base: Any, tmp_path: Path) -> None:
    from diffusers import DDPMPipeline
    from peft import LoraConfig

    base = tiny_base()
    pipe = DDPMPipeline(unet=base.network, scheduler=base.scheduler)
    plan = dpd.Plan.calibrate(
        dpd.Budget(epsilon=2.0, delta=1e-3), dpd.DPSGD(steps=2, expected_units=10, population=30)
    )
    images = np.random.default_rng(0).integers(0, 255, (30, 4, 4, 4), dtype=np.uint8)
    data = dpd.PrivateImages(
        images=images,
        labels=np.arange(30) % 3,
        class_names=("a", "b", "c"),
        owner=np.arange(30),
        unit_count=30,
    )
    release = dpd.finetune(
        pipe,
        data,
        plan,
        out=tmp_path / "run",
        ledger=tmp_path / "x.ledger",
        strategy=LoraConfig(r=2, target_modules=["to_q", "to_v"]),
    )
    assert dpd.Certificate.verify(release.path).valid
    assert dpd.Certificate.verify(release.path).epsilon <= 2
    assert Release.open(tmp_path / "run").certificate == release.certificate
    images = dpd.generate(release, per_label=2, out=tmp_path / "synthetic")
    assert len(pq.read_table(images / "data" / "train-00000-of-00001.parquet")) == 6


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("as_object", [False, True])
def test_a_finished_run_opened_again_carries_its_adapter(
    tiny_base_folder: Path, tiny_images: Any, tmp_path: Path, as_object: bool
) -> None:
    from dp_diffusers.diffusion.loading import load_base
    from dp_diffusers.mechanisms.none import NonPrivate

    plan = dpd.Plan.calibrate(None, NonPrivate(steps=1, expected_units=10, population=30))
    images, labels = tiny_images
    data = dpd.PrivateImages(
        images=images, labels=labels, class_names=("a", "b", "c"), owner=np.arange(30), unit_count=30
    )

    def run() -> dict[str, Any]:
        base = replace(load_base(tiny_base_folder), in_memory=True) if as_object else tiny_base_folder
        release = dpd.finetune(base, data, plan, out=tmp_path / "run")
        return {name: value.clone() for name, value in release.family().network.state_dict().items()}

    first, again = run(), run()
    assert any(".lora_B." in name and value.any() for name, value in first.items())
    assert set(first) == set(again)
    assert all(bool((first[name] == again[name]).all()) for name in first)


@pytest.mark.usefixtures("cheap")
def test_more_classes_than_the_base_has_are_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    names = "data.classes=[dark, grey, light, more]"
    with pytest.raises(DataError, match="3 classes"):
        train(Recipe.load(tiny_recipe, [names]), tmp_path / "run")


@pytest.mark.slow
def test_certificates_verify_with_dp_accounting_alone(tiny_recipe: Path, tmp_path: Path) -> None:
    train(Recipe.load(tiny_recipe), tmp_path / "run")
    script = """
import json, sys
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
certificate = json.load(open(sys.argv[1]))
accountant = PLDAccountant()
for entry in certificate["mechanisms"]:
    step = dp_event.PoissonSampledDpEvent(
        entry["expected_units"] / entry["population"], dp_event.GaussianDpEvent(entry["noise_multiplier"])
    )
    accountant.compose(step, entry["steps_charged"])
epsilon = accountant.get_epsilon(certificate["delta"])
assert abs(epsilon / certificate["epsilon"] - 1) < 0.01, (epsilon, certificate["epsilon"])
assert "dp_diffusers" not in sys.modules
"""
    path = tmp_path / "run" / "release" / "certificate.json"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)


@pytest.mark.slow
def test_a_folder_whose_run_spent_nothing_is_free_for_another_recipe(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        train(Recipe.load(tiny_recipe, ["data.label=diagnosis"]), tmp_path / "run")
    assert train(Recipe.load(tiny_recipe), tmp_path / "run").path.exists()
    with pytest.raises(BudgetError):
        train(Recipe.load(tiny_recipe), tmp_path / "other")
    wider = Recipe.load(tiny_recipe, ["budget.ledger=other.ledger"])
    assert train(wider, tmp_path / "other").path.exists()
