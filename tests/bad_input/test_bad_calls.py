"""Bad calls of the Python API: an error of ours that says what and what to do, with nothing spent."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_rows import PYTHON, contents

import dp_diffusers as dpd
from dp_diffusers.errors import DPDiffusersError
from dp_diffusers.privacy.events import GaussianMechanism

SIZES = {"steps": 2, "expected_units": 10, "population": 30}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call with a folder, what its error says, and a hint where one has to be there."""

    name: str
    call: Callable[[Path], Any]
    says: str
    hint: str | None
    code: int = 2


def call(name: str, function: Callable[[Path], Any], says: str, hint: str | None, code: int = 2) -> Call:
    return Call(name=name, call=function, says=says, hint=hint, code=code)


def images(**changes: Any) -> dpd.PrivateImages:
    arrays: dict[str, Any] = {
        "images": np.zeros((3, 8, 8, 1), np.uint8),
        "labels": np.arange(3, dtype=np.int64),
        "class_names": ("a", "b", "c"),
        "owner": np.arange(3, dtype=np.int64),
        "unit_count": 3,
    }
    return dpd.PrivateImages(**{**arrays, **changes})


def plan(**budget: Any) -> dpd.Plan:
    return dpd.Plan.calibrate(dpd.Budget(1.0, 1e-3, **budget), dpd.DPSGD(**SIZES))


def finetune(folder: Path, data: Any = None, **given: Any) -> Any:
    given = {"ledger": folder / "data.ledger", **given}
    return dpd.finetune(folder / "none", data or images(), plan(), out=folder / "run", **given)


ROWS = [
    call("epsilon nan", lambda _: dpd.Budget(float("nan")), r"epsilon in \[0\.01, 100\], got nan", "usual"),
    call("epsilon text", lambda _: dpd.Budget("1"), "expected epsilon to be a number, got '1'", "usual"),
    call("delta one", lambda _: dpd.Budget(1.0, 1.0), r"delta in \(1e-15, 1\), got 1", "1 / population"),
    call("unit empty", lambda _: dpd.Budget(1.0, unit=" "), "unit to name whose privacy", "'patient_id'"),
    call("adjacency", lambda _: dpd.Budget(1.0, adjacency="add"), "unknown adjacency 'add'", "add_remove"),
    call("cap a number", lambda _: dpd.Budget(1.0, cap=3), r"expected cap to be null or {epsilon", r"Cap\(3"),
    call("cap delta", lambda _: dpd.Budget(1.0, cap={"epsilon": 1, "delta": 2}), r"cap\.delta in", "1 / pop"),
    call(
        "steps",
        lambda _: dpd.DPSGD(**{**SIZES, "steps": 0}),
        "expected steps to be an integer >= 1, got 0",
        None,
    ),
    call(
        "steps true",
        lambda _: dpd.DPSGD(**{**SIZES, "steps": True}),
        "expected steps to be an integer >= 1, got True",
        None,
    ),
    call(
        "units",
        lambda _: dpd.DPSGD(**{**SIZES, "expected_units": 31}),
        "expected_units <= population",
        "mean",
    ),
    call("clip nan", lambda _: dpd.DPSGD(**SIZES, clip_norm=float("nan")), "clip_norm finite and > 0", None),
    call("limit", lambda _: dpd.DPSGD(**SIZES, max_units=5), r"max_units in \[expected_units", "five"),
    call("no budget", lambda _: dpd.Plan.calibrate(None, dpd.DPSGD(**SIZES)), "needs a budget", r"Budget\("),
    call(
        "delta",
        lambda _: dpd.Plan.calibrate(dpd.Budget(1.0, 0.1), dpd.DPSGD(**SIZES)),
        "delta < 1 /",
        "outright",
    ),
    call("no plan", lambda _: dpd.Plan.from_json("{"), "not a plan: ", "to_json"),
    call("half a plan", lambda _: dpd.Plan.from_json('{"schema": 1}'), "not a plan: ", "to_json"),
    call("images of floats", lambda _: images(images=np.zeros((3, 8, 8, 1))), "images of uint8", "0 to 255"),
    call(
        "images without channels",
        lambda _: images(images=np.zeros((3, 8, 8), np.uint8)),
        "channels",
        "one ch",
    ),
    call("labels of floats", lambda _: images(labels=np.zeros(3)), "labels of int64", r"astype\(np\.int64\)"),
    call("a label too many", lambda _: images(class_names=("a",)), "labels from 0 to 0", None),
    call("owners with gaps", lambda _: images(owner=np.array([0, 2, 2])), "without gaps", None),
    call(
        "an image of two", lambda _: images(owner=np.array([0, 0, 1]), unit_count=2), "its own owner", "unit="
    ),
    call("too few owners", lambda _: images(owner=np.arange(2)), "one owner and one label for each", None),
    call("no folder", lambda f: dpd.PrivateImages.from_folder(f / "none"), "folder not found", None),
    call("no file", lambda f: dpd.PrivateImages.from_parquet(f / "none"), "file not found", None),
    call("no base", finetune, "base model .*none is not there", "pretrain"),
    call(
        "another unit",
        lambda f: finetune(f, images(unit="user")),
        "budget protects each 'image'",
        "same unit=",
    ),
    call(
        "data a path", lambda f: finetune(f, "images"), "data to be PrivateImages, got str", "PrivateImages.o"
    ),
    call(
        "a budget for a plan",
        lambda f: dpd.finetune(f / "none", images(), dpd.Budget(1.0), out=f / "run"),
        "expected plan to be Plan, got Budget",
        "Plan.calibrate",
    ),
    call(
        "a budget in the mechanism's place",
        lambda _: dpd.Plan.calibrate(dpd.DPSGD(**SIZES), dpd.Budget(1.0)),
        "expected budget to be Budget, got DPSGD",
        "in this order",
    ),
    call(
        "no mechanism",
        lambda _: dpd.Plan.calibrate(dpd.Budget(1.0), {"steps": 2}),
        "expected mechanism to be DPSGD or PE or Count or NonPrivate, got dict",
        "in this order",
    ),
    call(
        "a key of the training misspelt",
        lambda f: finetune(f, training={"nosie_draws": 2}),
        "^training: unknown key 'nosie_draws'$",
        "did you mean 'noise_draws'",
    ),
    call(
        "two keys that are wrong",
        lambda f: finetune(f, training={"noise_draws": 0, "learning_rate": "high"}),
        "expected training.noise_draws >= 1, got 0; expected training.learning_rate to be a number, got",
        "noise_draws",
    ),
    call(
        "runtime a name",
        lambda f: finetune(f, runtime="cpu"),
        "expected runtime to be RuntimeSettings or a mapping, got str",
        "device",
    ),
    call(
        "a device of nobody's",
        lambda f: finetune(f, runtime={"device": "tpu"}),
        "expected runtime.device to be auto, cpu",
        "device",
    ),
    call(
        "a teacher's name", lambda f: finetune(f, teacher="pixels"), "teacher to be TeacherSettings or a", "f"
    ),
    call("warm", lambda f: finetune(f, warmup={"steps": -1}), "expected warmup.steps >= ", "steps"),
    call(
        "evolution a mapping",
        lambda f: finetune(f, evolution={"samples": 3}),
        "expected evolution to be EvolutionSettings, got dict",
        None,
    ),
    call(
        "a mapping that fits", lambda f: finetune(f, training={"noise_draws": 2}), "base model .*none", "pre"
    ),
    call(
        "images as text", lambda f: dpd.generate(f, images="3"), "images to be a whole number, got '3'", None
    ),
    call(
        "half an image", lambda f: dpd.generate(f, images=2.5), "images to be a whole number, got 2.5", None
    ),
    call("half of a label", lambda f: dpd.generate(f, per_label=0.5), "per_label to be a whole number", None),
    call(
        "settings misspelt",
        lambda f: dpd.generate(f, settings={"step": 3}),
        "^settings: unknown key 'step'$",
        "did you mean 'steps'",
    ),
    call(
        "a base of another kind",
        lambda f: dpd.Release.open(f, base=object()),
        "expected base to be Base, got object",
        "`finetune`",
    ),
    call("no release", lambda f: dpd.generate(f / "none"), "holds no finished run", "train"),
    call("no ledger", lambda f: dpd.Ledger.open(f / "x", create=False), "no ledger at", "first"),
    call("no certificate", lambda _: dpd.Certificate.from_json("[]"), "not a certificate", None),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_calls(row: Call, tmp_path: Path) -> None:
    with pytest.raises(DPDiffusersError) as caught:
        row.call(tmp_path)
    error = caught.value
    assert error.exit_code == row.code
    assert re.search(row.says, error.message), error.message
    assert "\n" not in error.message
    assert not PYTHON.search(error.message), error.message
    assert re.search(row.hint or "", error.hint or ""), error.hint
    assert row.hint is None or error.hint
    assert contents(tmp_path) == {}


def test_a_record_of_numbers_that_are_none_is_refused() -> None:
    with pytest.raises(DPDiffusersError):
        GaussianMechanism(
            name="dpsgd",
            sampling_probability=0.1,
            max_units=None,
            clip_norm=1.0,
            noise_multiplier=float("nan"),
            clipping="flat",
            **SIZES,
        )
