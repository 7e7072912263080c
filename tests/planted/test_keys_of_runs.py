"""Keys of real trainings: never on disk, and never the same in a restored or copied run folder."""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_diffusers.cli.main import main
from dp_diffusers.engine import private_gradient
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import LedgerError
from dp_diffusers.finetuning import train
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import Recipe
from loop_support import cheap_trainings, small_budget


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch, tiny_recipe: Path) -> None:
    cheap_trainings(monkeypatch.setattr)
    small_budget(tiny_recipe)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[RunKeys]:
    """All keys that the process makes."""
    seen: list[RunKeys] = []
    fresh = Plan.fresh_keys

    def noted() -> RunKeys:
        seen.append(fresh())
        return seen[-1]

    monkeypatch.setattr(Plan, "fresh_keys", staticmethod(noted))
    return seen


def forms(secret: bytes) -> list[bytes]:
    """The bytes, and how a text would write them; base64 at each of its three alignments."""
    texts = [secret.hex(), secret.hex().upper(), repr(secret)[2:-1], ", ".join(map(str, secret))]
    texts.append(secret.decode("latin-1"))  # how old pickle protocols write bytes
    shifted = [base64.b64encode(bytes(shift) + secret)[4:40] for shift in range(3)]
    return [secret, secret[::-1], *(text.encode() for text in texts), *shifted]


def files_with_a_key(folder: Path, keys: RunKeys) -> list[str]:
    """Files that hold the key, half of it, or the key of a stream of the first steps."""
    assert keys._key is not None
    key = bytes(keys._key)
    streams = [
        bytes(keys._subkey(kind, domain, step))
        for kind, domain in (("all", "sampling"), ("noise", "0/parameters"), ("uniform", "timestep"))
        for step in range(3)
    ]
    sought = [form for secret in (key, *streams) for form in forms(secret)] + [key[:16], key[16:]]
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if any(form in content for form in sought):
            found.append(path.relative_to(folder).as_posix())
    return found


def crash(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that breaks while it draws the noise of its second step, through the command line."""
    draw = RunKeys.noise

    def broken(self: RunKeys, step: int, name: str, size: int) -> Any:
        if step == 1:
            raise RuntimeError("out of luck")
        return draw(self, step, name, size)

    with monkeypatch.context() as patch:
        patch.setattr(RunKeys, "noise", broken)
        assert main(["train", str(recipe), "--out", str(recipe.parent / "run")]) == 1
    log = recipe.parent / "run" / "private" / "crash.log"
    assert "out of luck" in log.read_text()
    return log


@pytest.mark.slow
def test_guarantee_no_key_is_ever_on_disk(
    tiny_recipe: Path, made: list[RunKeys], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash (crash.log, checkpoint, ledger and all), and after the run has ended."""
    monkeypatch.setattr(tempfile, "tempdir", str(tiny_recipe.parent))
    crash(tiny_recipe, monkeypatch)
    assert (tiny_recipe.parent / "run" / "private" / "checkpoint.pt").exists()
    assert files_with_a_key(tiny_recipe.parent, made[0]) == []
    train(Recipe.load(tiny_recipe), tiny_recipe.parent / "run")
    assert len(made) == 2
    assert [files_with_a_key(tiny_recipe.parent, keys) for keys in made] == [[], []]


@pytest.mark.planted
def test_planted_key_in_the_checkpoint(
    tiny_recipe: Path, made: list[RunKeys], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resuming "exactly where it stopped" by keeping the random state, as published loops do."""
    from dp_diffusers.training import Loop

    state = Loop.state

    def with_key(self: Loop) -> dict[str, Any]:
        return {**state(self), "random_state": bytes(self.keys._key)}

    monkeypatch.setattr(Loop, "state", with_key)
    log = crash(tiny_recipe, monkeypatch)
    log.write_text(f"key = {bytes(made[0]._key or b'')!r}")
    assert files_with_a_key(tiny_recipe.parent, made[0]) == [
        "run/private/checkpoint.pt",
        "run/private/crash.log",
    ]


class Noise:
    """The noise of each release by lane and step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn: dict[tuple[str, int], np.ndarray] = {}
        noisy = private_gradient.noisy

        def noted(total: Any, keys: RunKeys, step: int, std: float) -> Any:
            released = noisy(total, keys, step, std)
            values = ((released.double() - total) / std).numpy().ravel()
            known = self.drawn.get((keys.lane.hex(), step), np.zeros(0))
            self.drawn[keys.lane.hex(), step] = np.concatenate([known, values])
            return released

        monkeypatch.setattr(private_gradient, "noisy", noted)

    def of_step(self, step: int) -> list[np.ndarray]:
        return [values for (_, number), values in self.drawn.items() if number == step]


def unrelated(first: np.ndarray, second: np.ndarray) -> bool:
    """The property: correlation within 5.5 standard deviations of none (false alarm 4e-8)."""
    return bool(abs(np.corrcoef(first, second)[0, 1]) < 5.5 / np.sqrt(len(first)))


def stopped(recipe: Path) -> None:
    """A training that is interrupted after its first step."""

    def stop(**facts: Any) -> None:
        if facts.get("step") == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Recipe.load(recipe), recipe.parent / "run", stop)


def copied_with_its_ledger(recipe: Path) -> Path:
    """Everything, as a restored snapshot of the disk has it."""
    twin = recipe.parent / "twin"
    twin.mkdir()
    shutil.copytree(recipe.parent / "run", twin / "run")
    shutil.copy(recipe.parent / "tiny.ledger", twin / "tiny.ledger")
    text = recipe.read_text().replace(str(recipe.parent / "tiny.ledger"), str(twin / "tiny.ledger"))
    (twin / "recipe.yaml").write_text(text)
    resolved = twin / "run" / "recipe.yaml"
    old = str(recipe.parent / "tiny.ledger")
    resolved.write_text(resolved.read_text().replace(old, str(twin / "tiny.ledger")))
    return twin / "recipe.yaml"


def both_go_on(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Noise]:
    """The lanes and the noise when a run folder and its copy, ledger included, both go on."""
    noise = Noise(monkeypatch)
    stopped(recipe)
    twin = copied_with_its_ledger(recipe)
    for each in (recipe, twin):
        train(Recipe.load(each), each.parent / "run")
    lanes = []
    for ledger in (recipe.parent / "tiny.ledger", twin.parent / "tiny.ledger"):
        with Ledger.open(ledger) as opened:
            found = [entry.content["lane"] for entry in opened.entries() if entry.kind == "lane"]
            lanes.append(found[-1])
    return lanes, noise


def apart(lanes: list[str], noise: Noise) -> bool:
    """The property: two lanes, and step 1 (released by both) with unrelated noise."""
    one, two = (noise.of_step(1) + [np.zeros(2)] * 2)[:2]
    return len(set(lanes)) == 2 and len(one) == len(two) and unrelated(one, two)


@pytest.mark.slow
def test_guarantee_a_restored_copy_repeats_no_noise(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes, noise = both_go_on(tiny_recipe, monkeypatch)
    assert len(noise.of_step(1)) == 2
    assert apart(lanes, noise)


@pytest.mark.slow
@pytest.mark.planted
def test_planted_keys_made_from_the_run(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that follows from the run's name comes back with a copy of its folder."""

    def from_the_run() -> RunKeys:
        name = b"the run, restored"
        return RunKeys(hashlib.sha256(name).digest(), np.random.default_rng().bytes(16), not_private=False)

    subkey = RunKeys._subkey

    def without_lane(self: RunKeys, kind: str, domain: str, step: int) -> Any:
        lane, self._lane = self._lane, bytes(16)
        try:
            return subkey(self, kind, domain, step)
        finally:
            self._lane = lane

    monkeypatch.setattr(Plan, "fresh_keys", staticmethod(from_the_run))
    monkeypatch.setattr(RunKeys, "_subkey", without_lane)
    assert not apart(*both_go_on(tiny_recipe, monkeypatch))


@pytest.mark.slow
def test_guarantee_a_copy_on_the_same_ledger_is_void(tiny_recipe: Path) -> None:
    """Of a folder and its copy on one ledger, only the one that was opened last can pay."""
    stopped(tiny_recipe)
    twin = tiny_recipe.parent / "twin"
    shutil.copytree(tiny_recipe.parent / "run", twin)

    def overtaken(**facts: Any) -> None:
        if facts.get("step") == 2:
            with pytest.raises(KeyboardInterrupt):
                train(Recipe.load(tiny_recipe), twin, stop_at_once)

    def stop_at_once(**facts: Any) -> None:
        if str(facts.get("message")).startswith("resuming"):  # its lane is open, and nothing charged yet
            raise KeyboardInterrupt

    with pytest.raises(LedgerError, match="taken over by another process"):
        train(Recipe.load(tiny_recipe), tiny_recipe.parent / "run", overtaken)
