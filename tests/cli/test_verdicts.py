"""What `ledger show`, `certificate verify`, `evaluate`, `demo` and a generation say to a reader."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dp_diffusers.cli import output, progress
from dp_diffusers.cli.main import main
from dp_diffusers.demo import DemoResult
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import LedgerError
from dp_diffusers.mechanisms.count import Count
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget, Cap
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.spending import Terms
from dp_diffusers.rounding import rounded_up_text


@pytest.fixture(scope="module")
def plan() -> Plan:
    budget = Budget(epsilon=2, delta=1e-3, cap=Cap(epsilon=8, delta=1e-3))
    return Plan.calibrate(budget, DPSGD(steps=3, expected_units=10, population=100))


def _issue(release: Path, plan: Plan, account: Any = None) -> None:
    (release / "adapter").mkdir(parents=True)
    (release / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    base = {"id": "base", "sha256": "0" * 64}
    Certificate.draft(plan=plan, account=account, base_model=base, adapter={"trainable_parameters": 1}).issue(
        release
    )


def _called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    return code, capsys.readouterr().out


@pytest.mark.slow
def test_verify_says_what_is_promised(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger.open(":memory:") as ledger:
        account = ledger.reserve(plan)
        account.open_lane(RunKeys.fresh())
        for step in range(3):
            account.charge(step)
        account.settle()
        _issue(tmp_path / "run", plan, account)
    code, out = _called(capsys, "certificate", "verify", str(tmp_path / "run"))
    assert code == 0
    first, second, third, fourth = out.splitlines()
    assert fourth == f"release: {tmp_path / 'run'}"
    assert first == "valid"
    assert third == "unsigned: shows consistency, not who issued it"
    assert second.startswith("epsilon ")
    assert second.endswith(" at delta 0.001 per image, adjacency add_remove")
    _, text = _called(capsys, "certificate", "verify", str(tmp_path / "run"), "--json")
    document = json.loads(text)
    assert set(document) == {
        *("valid", "epsilon", "problems", "not_private", "delta", "unit", "signed_by", "signer_known"),
        "release",
    }
    assert (document["not_private"], document["delta"], document["unit"]) == (False, 1e-3, "image")
    assert f"epsilon {rounded_up_text(document['epsilon'])} at" in second
    assert _called(capsys, "certificate", "keygen", str(tmp_path / "key"))[0] == 0
    _, out = _called(capsys, "certificate", "sign", str(tmp_path / "run"), "--key", str(tmp_path / "key"))
    assert out.startswith(f"{second}\nsigned with the key ")
    (tmp_path / "run" / "more").write_text("x")
    assert _called(capsys, "certificate", "verify", str(tmp_path / "run")) == (4, "not valid\n")


def test_guarantee_a_valid_certificate_without_privacy_says_so_beside_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _issue(tmp_path / "run", Plan.calibrate(None, NonPrivate(steps=1, expected_units=1, population=3)))
    code, out = _called(capsys, "certificate", "verify", str(tmp_path / "run"))
    assert code == 0
    assert out.startswith("valid\nNOT PRIVATE: ")
    _, text = _called(capsys, "certificate", "verify", str(tmp_path / "run"), "--json")
    document = json.loads(text)
    assert document["not_private"] is True
    assert document["epsilon"] is document["delta"] is document["unit"] is None


def test_a_ledger_is_shown_run_by_run(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.ledger"
    with Ledger.open(path) as ledger:
        done = ledger.reserve(plan, run_id="first")
        done.open_lane(RunKeys.fresh())
        done.charge(0)
        done.settle()
        ledger.reserve(plan, run_id="second")
        ledger.reserve(plan, run_id="third").cancel()
        limits = [run.limit for run in ledger.runs()]
    code, out = _called(capsys, "ledger", "show", str(path))
    assert code == 0
    head, first, second, third, total = out.splitlines()
    assert head.split() == ["run", "status", "unit", "steps/limit", "epsilon", "at", "delta", "0.001"]
    assert first.split()[:5] == ["first", "settled", "image", "training", f"1/{limits[0]}"]
    assert 0 < float(first.split()[5]) < 2
    assert second.split()[:5] == ["second", "open", "image", "training", f"0/{limits[1]}"]
    assert second.endswith("reserved")
    assert third.split() == ["third", "cancelled", "-", "training", f"0/{limits[2]}", "0"]
    assert " spent or reserved, cap 8, both at delta 0.001  [#" in total
    assert total.endswith(" %")
    entries = json.loads(_called(capsys, "ledger", "show", str(path), "--json")[1])["entries"]
    assert [entry["kind"] for entry in entries][:2] == ["terms", "reserve"]


def test_a_question_is_told_from_a_training_and_each_delta_stands_beside_its_epsilon(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, cap = tmp_path / "data.ledger", Cap(epsilon=8, delta=1e-3)
    asked = Plan.calibrate(Budget(epsilon=0.5, delta=1e-5, cap=cap), Count(population=100))
    with Ledger.open(path) as ledger:
        ledger.reserve(plan, run_id="training")
        ledger.reserve(asked, run_id="question")
    head, first, second, total = _called(capsys, "ledger", "show", str(path))[1].splitlines()
    assert head.endswith("epsilon")
    assert (first.split()[3], second.split()[3:5]) == ("training", ["question", "0/1"])
    assert " at delta 0.001  reserved" in first
    assert " at delta 1e-05  reserved" in second
    assert ", cap 8, both at delta 0.001  [" in total
    runs = json.loads(_called(capsys, "ledger", "show", str(path), "--json")[1])["runs"]
    assert [(run["kind"], run["delta"]) for run in runs] == [("training", 1e-3), ("question", 1e-5)]


@pytest.mark.slow
def test_guarantee_a_ledger_whose_cap_limits_nothing_says_so_and_takes_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cap is of a smaller population, or of an earlier version."""
    path, sizes = tmp_path / "data.ledger", {"steps": 3, "expected_units": 10}
    few = Plan.calibrate(Budget(2, 1e-3, cap=Cap(7, 0.015)), DPSGD(population=50, **sizes))
    many = Plan.calibrate(Budget(1, 1e-3), DPSGD(population=100, **sizes))
    with Ledger.open(path) as ledger:
        ledger.reserve(few)
        head = ledger.head
        for admit in (ledger.require_room, ledger.reserve, ledger.require_delta):
            with pytest.raises(LedgerError, match=r"has delta 0\.015, not below 1 / population = 0\.01"):
                admit(many)
        assert ledger.head == head
        monkeypatch.setattr(Terms, "require_delta", lambda *_: None)
        ledger.reserve(many)
    *_, total, said = _called(capsys, "ledger", "show", str(path))[1].splitlines()
    assert "both at delta 0.015" in total
    assert said == "delta 0.015 is not below 1 / population = 0.01: this total promises nothing"


def test_images_have_a_progress_line_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    output.configure()
    monkeypatch.setattr(progress, "memory_bytes", lambda: None)
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    show = progress.Terminal(stream=screen)
    show(step=3, steps=4, seconds=100.0)
    screen.truncate(0)
    monkeypatch.setattr(progress, "DRAW_EVERY_SECONDS", 0.0)
    show(step=250, steps=2000, unit="images", seconds=0.025)
    assert screen.getvalue().lstrip("\0").startswith("\rimages 250/2000  40 images/s  eta 44s")
    show(step=2000, steps=2000, unit="images", seconds=0.025)
    assert screen.getvalue().endswith("eta 0s\n") or screen.getvalue().rstrip(" \n").endswith("eta 0s")


def test_generate_takes_overrides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dp_diffusers import generating, release
    from dp_diffusers.run.folder import RunFolder

    asked: dict[str, Any] = {}
    opened = SimpleNamespace(
        settings=lambda: {"generation": {"steps": 3, "seed": 5}, "training": {"ema": 0.9}},
        folder=SimpleNamespace(recipe=Path("run/recipe.yaml")),
        teacher=None,
    )
    monkeypatch.setattr(release.Release, "open", classmethod(lambda cls, run: opened))
    monkeypatch.setattr(RunFolder, "require_finished", lambda self: None)
    monkeypatch.setattr(generating, "generate", lambda *_, **given: asked.update(given) or Path("images"))
    change = ["--set", "generation.steps=50", "--set", "generation.guidance=2", "--set", "runtime.device=cpu"]
    assert _called(capsys, "generate", "run", *change) == (0, "images\n")
    assert (asked["settings"].steps, asked["settings"].seed) == (50, 5)
    assert asked["settings"].guidance == 2.0
    assert asked["device"] == "cpu"
    assert (asked["settings"].dtype, asked["compiled"]) == ("float32", False)
    assert _called(capsys, "generate", "run", "--dtype", "bfloat16", "--compile") == (0, "images\n")
    assert (asked["settings"].dtype, asked["compiled"]) == ("bfloat16", True)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _called(capsys, "generate", "run") == (0, ""), "the first process answers"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["generate", "run"]) == 2
    assert "RANK" in capsys.readouterr().err
    monkeypatch.delenv("RANK")
    for relabel in (["--teacher", "relabel"], ["--set", "generation.teacher= 'relabel'"]):
        assert main(["generate", "run", *relabel]) == 2
        assert "run has no teacher to label its images" in capsys.readouterr().err
    assert _called(capsys, "generate", "run", "--teacher", "off") == (0, "images\n")
    assert main(["generate", "run", "--dtype", "float16"]) == 2
    assert "generation.dtype" in capsys.readouterr().err
    assert main(["generate", "run", "--set", "training.ema=0"]) == 2
    assert "--set training.ema=0: unknown key 'training'" in capsys.readouterr().err
    assert main(["generate", "run", "--set", "generation.setps=9"]) == 2
    assert "did you mean 'steps'?" in capsys.readouterr().err


def test_evaluate_goes_on_without_the_base_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dp_diffusers.drawing.images_out import write_images
    from dp_diffusers.errors import ModelError
    from dp_diffusers.evaluation import evaluating, sets

    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1)).astype(np.uint8)
    folder = tmp_path / "run" / "release" / "images"
    folder.parent.mkdir(parents=True)
    (folder.parent / "certificate.json").write_text("{}")
    write_images(images, np.arange(30) % 3, ("a", "b", "c"), folder, format="parquet")

    def gone(*_: Any) -> None:
        raise ModelError("base model /nowhere is not there")

    monkeypatch.setattr(evaluating, "public_model_images", gone)
    monkeypatch.setattr(sets, "public_images_of", lambda *_: None)
    scores = evaluating.evaluate(folder, folder, features=None, seeds=2, passes=64)
    assert scores.public_model is None
    assert "no row of the public model (ε = 0): base model /nowhere is not there" in scores.notes
    assert "/nowhere" in scores.explain()


def test_the_demo_is_summed_up_in_readable_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = DemoResult(
        release=Path("out/run/release"),
        epsilon=7.96,
        delta=1e-4,
        accuracy=91.3,
        public_accuracy=70.2,
        picture=Path("out/synthetic-digits.png"),
        accuracy_interval=(90.1, 92.5),
        public_interval=(68.0, 72.4),
        report=Path("out/report.html"),
    )
    monkeypatch.setattr("dp_diffusers.demo.demo", lambda *_: result)
    code, out = _called(capsys, "demo", "--out", str(tmp_path))
    assert code == 0
    assert out.splitlines() == [
        "release: out/run/release (certificate valid)",
        "epsilon 7.96 at delta 0.0001 for each private image",
        "accuracy on held-out real digits, trained on private synthetic images: "
        "91.3 % (95 % interval 90.1 to 92.5)",
        "the same, trained on images of the public model alone: 70.2 % (95 % interval 68.0 to 72.4)",
        "picture: out/synthetic-digits.png",
        "report: out/report.html",
    ]
    document = json.loads(_called(capsys, "demo", "--out", str(tmp_path), "--json")[1])
    assert document["release"] == "out/run/release"
    assert {"epsilon", "accuracy", "public_accuracy", "picture"} <= set(document)


@pytest.mark.slow
def test_a_killed_demo_goes_on(
    tiny_base_folder: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's stages on tiny ones: killed between placing the images and certifying them."""
    from dp_diffusers import demo, evaluation, finetuning, generating, pretraining, release
    from dp_diffusers.evaluation.intervals import Interval
    from dp_diffusers.recipe import PretrainRecipe, Recipe

    interval = Interval(mean=1.0, low=0.5, high=1.5)
    scores = SimpleNamespace(accuracy=interval, public_model=None)
    monkeypatch.setattr(demo, "prepare", lambda out: None)
    monkeypatch.setattr(demo, "draw", lambda images, path: path)
    monkeypatch.setattr(demo, "IMAGES", 9)
    monkeypatch.setattr(pretraining, "pretrain", lambda *_: None)
    monkeypatch.setattr(PretrainRecipe, "load", classmethod(lambda cls, path: None))
    recipe = Recipe.load(tiny_recipe, ["mechanism.name=none"])
    monkeypatch.setattr(Recipe, "load", classmethod(lambda cls, path: recipe))
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: scores, raising=False)
    monkeypatch.setattr(release, "verify_in_a_fresh_process", lambda _: None)
    finetuning.train(recipe, tmp_path / "demo" / "run")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(generating, "_certify_images", die)
        with pytest.raises(KeyboardInterrupt):
            demo.demo(tmp_path / "demo", lambda **_: None)
    assert not Certificate.verify(tmp_path / "demo" / "run" / "release").valid
    result = demo.demo(tmp_path / "demo", lambda **_: None)
    assert Certificate.verify(result.release).valid
    assert "report.html" in Certificate.read(result.release).files
    assert demo.demo(tmp_path / "demo", lambda **_: None).release == result.release
