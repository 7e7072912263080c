"""The options of `evaluate` reach the call of the Python API."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from dp_diffusers import evaluation
from dp_diffusers.cli import main
from dp_diffusers.evaluation import asking


def test_seeds_and_passes_reach_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Found:
        def explain(self) -> str:
            return ""

        def to_dict(self) -> dict[str, Any]:
            return {}

    def evaluate(images: Any, **given: Any) -> Found:
        seen.update(given)
        return Found()

    monkeypatch.setattr(evaluation, "evaluate", evaluate, raising=False)
    assert main.main(["evaluate", "x", "--reference", "y", "--seeds", "5", "--passes", "640"]) == 0
    assert (seen["seeds"], seen["passes"]) == (5, 640)
    assert main.main(["evaluate", "x", "--reference", "y"]) == 0
    assert (seen["seeds"], seen["passes"]) == (3, None)


def test_every_default_of_the_verb_is_that_of_the_call() -> None:
    from dp_diffusers.cli.making import evaluate

    of_the_call = inspect.signature(asking.evaluate).parameters
    for name, parameter in inspect.signature(evaluate).parameters.items():
        if name in of_the_call and name not in ("images", "public"):
            assert parameter.default == of_the_call[name].default, name
