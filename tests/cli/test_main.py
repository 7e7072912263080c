"""The front of the command line: codes, error form, crash log, speed, and what each verb loads."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dp_diffusers.cli import main, making
from dp_diffusers.cli.output import configure, settings
from dp_diffusers.errors import BudgetError, GuaranteeError, InputError, Interrupted, VerificationError

VERBS = [
    "demo",
    "init",
    "plan",
    "pretrain",
    "train",
    "generate",
    "merge",
    "evaluate",
    "near-copies",
    "audit",
    "bench",
    "ledger show",
    "certificate verify",
]


def processor_time() -> float:
    """Seconds of processor time of all finished child processes: other work on the machine does not count."""
    spent = os.times()
    return spent.children_user + spent.children_system


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = called(capsys, *verb.split(), "--help")
    assert code == 0
    assert "Usage: dp-diffusers" in out
    assert "--json" in out
    assert "--quiet" in out


@pytest.mark.parametrize("verb", ["", "ledger", "certificate", *VERBS])
def test_help_is_plain_and_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    _, out, _ = called(capsys, *verb.split(), "--help")
    assert "..." not in out.replace("[ARGS]...", "")
    for odd in ("{", "}", "list[", "<path>", "<str>", "<int>", "<float>"):
        assert odd not in "\n".join(line for line in out.splitlines() if line.startswith(("Usage", "  -")))
    if verb == "evaluate":
        assert "--public PATH" in out
    if verb == "generate":
        assert "--format parquet|imagefolder" in out


def test_the_formats_of_images_are_choices(capsys: pytest.CaptureFixture[str]) -> None:
    from dp_diffusers.drawing.images_out import FORMATS

    assert {item.value for item in making.ImageFormat} == set(FORMATS)
    code, _, err = called(capsys, "generate", "run", "--format", "gif")
    assert code == 2
    assert "expected --format to be one of parquet, imagefolder, got gif" in err
    assert "imagefolder" in err


def test_help_is_instant_and_loads_nothing_heavy() -> None:
    heavy = "('torch', 'numpy', 'pydantic', 'yaml', 'rich', 'dp_accounting')"
    code = (
        "import sys\nfrom dp_diffusers.cli.main import main\ncode = main(['--help'])\n"
        f"assert not [name for name in {heavy} if name in sys.modules]\nassert code == 0"
    )
    seconds = []
    for _ in range(5):
        began = processor_time()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        seconds.append(processor_time() - began)
    assert statistics.median(seconds) < 0.3


def test_version_and_bare_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, "--version")[:2] == (0, "dp-diffusers 0.1.0\n")
    code, out, _ = called(capsys)
    assert code == 0
    assert "Usage:" in out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["plna"], "no such command 'plna'", "did you mean 'plan'?"),
        (["ledger", "shwo"], "no such command 'shwo'", "did you mean 'show'?"),
        (["ledger", "init"], "no such command 'init'", "`dp-diffusers ledger --help` lists what there is"),
        (["plan", "x", "--jsn"], "no such option: --jsn", "did you mean '--json'?"),
        (["plan"], "missing argument 'RECIPE'", "`dp-diffusers plan --help` lists what there is"),
        (
            ["ledger", "show", "k.ledger", "--picture"],
            "option '--picture' requires an argument",
            "`dp-diffusers ledger show --help` lists what there is",
        ),
        (["ledger"], "missing command", "`dp-diffusers ledger --help` lists what there is"),
        (
            ["generate", "x", "--images", "0"],
            "expected --images >= 1, got 0",
            "`dp-diffusers generate --help`",
        ),
    ],
)
def test_usage_errors_have_the_same_form(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, hint: str
) -> None:
    code, out, err = called(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert f"\n\nhint: {hint}" in err


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Makes `evaluate` fail."""

    def refuse(*_: Any) -> None:
        configure(out=settings.out)
        raise error

    monkeypatch.setattr(making, "Terminal", refuse)
    monkeypatch.setattr("dp_diffusers.evaluation.evaluate", lambda *_, **__: None, raising=False)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("bad", hint="better"), 2, "error: bad\n\nhint: better\n"),
        (BudgetError("too much"), 3, "error: too much\n"),
        (VerificationError("no"), 4, "error: no\n"),
        (Interrupted("stopped"), 130, "error: stopped\n"),
        (KeyboardInterrupt(), 130, "interrupted\n\nhint: run the same command again to resume"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: disk is full\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "ro/x"),
            2,
            "error: cannot use ro/x: ",
        ),
        (ZeroDivisionError("secret 17"), 1, "error: unexpected ZeroDivisionError; details in "),
        (GuaranteeError("receipt used twice"), 1, "error: internal error: receipt used twice; details in "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_failure_has_its_code_and_no_traceback(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    text: str,
) -> None:
    failing(monkeypatch, error)
    got, out, err = called(capsys, "evaluate", "x", "--reference", "y")
    assert got == code
    assert out == ""
    assert text in err
    assert "Traceback" not in err
    assert "secret" not in err


def test_a_crash_writes_its_log_into_the_safe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    configure(out=tmp_path)
    assert main.report(ZeroDivisionError("secret 17")) == 1
    log = tmp_path / "private" / "crash.log"
    assert str(log) in capsys.readouterr().err
    assert "secret 17" in log.read_text()
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


def test_a_crash_makes_no_run_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    configure(out=tmp_path / "new")
    main.report(ZeroDivisionError())
    assert not (tmp_path / "new").exists()


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from dp_diffusers.cli import output

    class Screen:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output._colourful(Screen())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output._colourful(Screen())  # type: ignore[arg-type]


def recipe(folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "base": "public",
                "data": {"path": "nowhere.parquet"},
                "budget": {"epsilon": 2},
                "mechanism": {"population": 1000, "steps": 20},
            }
        )
    )
    return path


@pytest.mark.slow
def test_plan_needs_neither_torch_nor_the_images(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom dp_diffusers.cli.main import main\ncode = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )
    command = [sys.executable, "-c", code, "plan", str(recipe(tmp_path)), "--json"]
    began = processor_time()
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "NO_COLOR": "1"}
    )
    assert processor_time() - began < 4  # below 2 s on an idle machine
    document = json.loads(found.stdout)
    assert set(document) == {
        "epsilon",
        "delta",
        "noise_multiplier",
        "sampling_probability",
        "steps",
        "expected_units",
        "epsilon_rdp",
        "memory_bytes",
        "seconds_per_step",
        "rows_per_pass",
        "not_private",
    }
    assert 1.98 <= document["epsilon"] <= 2
    assert document["seconds_per_step"] is None
    assert document["memory_bytes"] is None
    assert [item.name for item in tmp_path.iterdir()] == ["recipe.yaml"]


def test_plan_of_the_non_private_run_has_no_epsilon(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = called(capsys, "plan", str(recipe(tmp_path)), "--json", "--set", "mechanism.name=none")
    assert code == 0
    assert json.loads(out)["epsilon"] is None


def test_plan_prints_the_defaults(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = called(capsys, "plan", str(recipe(tmp_path)), "--set", "training.noise_draws=2")
    assert code == 0
    assert "  mechanism.expected_units: 100\n" in out
    assert "training.noise_draws" not in out


def test_init_writes_a_recipe_that_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from dp_diffusers.recipe import Recipe

    (tmp_path / "images.parquet").write_bytes(b"never opened")
    arguments = ["init", str(tmp_path / "images.parquet"), "--population", "5000", "--epsilon", "2"]
    code, out, err = called(capsys, *arguments)
    path = tmp_path / "recipe.yaml"
    assert (code, out) == (0, f"{path}\n")
    assert f"dp-diffusers plan {path}" in err
    written = Recipe.load(path)
    assert written.data.path == str(tmp_path / "images.parquet")
    assert written.mechanism.population == 5000
    assert written.budget.epsilon == 2
    uncommented = path.read_text().replace("\n  # ", "\n  ")
    path.write_text(uncommented)
    assert Recipe.load(path).differences(written) == []
    assert called(capsys, *arguments)[0] == 2


@pytest.mark.parametrize(
    ("layout", "label"),
    [
        (("data/train.parquet",), "label"),
        (("ant/x.png", "bee/y.png"), "folder"),
        (("x.png",), None),
        (("p1/scan/IM1.dcm", "p2/scan/IM1.dcm"), None),
        (("data-00000-of-00001.arrow",), "label"),
    ],
)
def test_init_looks_where_the_labels_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, layout: tuple[str, ...], label: str | None
) -> None:
    from dp_diffusers.recipe import Recipe

    for name in layout:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"never opened")
    assert called(capsys, "init", str(tmp_path / "images"), "--population", "10")[0] == 0
    written = Recipe.load(tmp_path / "recipe.yaml")
    assert written.data.label == label
    assert written.budget.unit == ("PatientID" if "IM1" in layout[0] else "image")


def test_init_of_a_manifest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from dp_diffusers.recipe import Recipe

    (tmp_path / "list.csv").write_text("never opened")
    assert called(capsys, "init", str(tmp_path / "list.csv"), "--population", "10")[0] == 0
    assert Recipe.load(tmp_path / "recipe.yaml").data.label == "label"


def test_memory_is_estimated_from_config_files(tiny_base_folder: Path, tmp_path: Path) -> None:
    from dp_diffusers.cli.memory import _parameters, estimate_memory
    from dp_diffusers.recipe import Recipe

    small = Recipe.load(recipe(tmp_path), [f"base={tiny_base_folder}", "runtime.rows_per_pass=1"])
    large = Recipe.load(recipe(tmp_path), [f"base={tiny_base_folder}", "runtime.rows_per_pass=10000"])
    assert _parameters(tiny_base_folder / "unet") > 1000
    assert (estimate_memory(small) or 0) < (estimate_memory(large) or 0)


def test_plan_says_what_a_training_would_not_find(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "base: b\ndata: {path: x.csv}\nbudget: {epsilon: 8, unit: patient}\n"
        "mechanism: {population: 1000, steps: 10}\n"
    )
    assert main.main(["plan", str(recipe)]) == 0
    said = capsys.readouterr()
    assert "memory while training: unknown until base b is there" in said.out
    assert "note: base b is no folder here" in said.err
    assert f"note: data.path {tmp_path / 'x.csv'} is not there" in said.err
    assert "note: class names are not declared" in said.err
    assert "every unit named by patient takes part on its own" in said.out
    power, factor = re.search(r"at most e\^([\d.]+) = ([\d,]+), plus delta", said.out).groups()  # type: ignore[union-attr]
    assert f"{math.ceil(math.exp(float(power))):,}" == factor
