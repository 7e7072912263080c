"""The progress line: its fields, and that nothing private is on it."""

from __future__ import annotations

import io

import pytest

from dp_diffusers.cli import output, progress


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    output.configure()
    monkeypatch.setattr(progress, "memory_bytes", lambda: 1_200_000_000)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_of_the_design() -> None:
    line = progress.progress_line(812, 2000, 1.3, {"epsilon": 0.61, "budget": 1.0})
    assert line == "step 812/2000  ε 0.61/1.00  1.3 s/step  1.2 GB  eta 26m"


def test_guarantee_no_loss_of_a_private_training_on_screen() -> None:
    stream = io.StringIO()
    progress.Terminal(stream=stream)(step=1, steps=1, seconds=1.0, loss=0.1234, grad_norm=3.0, batch=17)
    assert stream.getvalue() == "step 1/1  1 s/step  1.2 GB  eta 0s\n"


@pytest.mark.planted
def test_a_planted_loss_is_seen() -> None:
    stream = io.StringIO()
    progress.Terminal(stream=stream, public=True)(step=1, steps=1, seconds=1.0, loss=0.1234)
    assert "0.1234" in stream.getvalue()


def test_lines_are_rare_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    show = progress.Terminal(stream=stream)
    for step in range(1, 101):
        show(step=step, steps=100, seconds=0.01)
    assert len(stream.getvalue().splitlines()) == 2


def test_in_place_on_a_terminal_and_ended_before_a_message() -> None:
    screen = Screen()
    show = progress.Terminal(stream=screen)
    show(step=1, steps=100, seconds=1.0)
    show(message="resuming")
    assert screen.getvalue().startswith("\rstep 1/100")
    assert screen.getvalue().endswith("\nresuming\n")


def test_quiet_says_nothing() -> None:
    stream = io.StringIO()
    output.configure(quiet=True)
    show = progress.Terminal(stream=stream)
    show(step=1, steps=1)
    show(message="hello")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("seconds", "text"), [(3, "3s"), (59.4, "59s"), (240, "4m"), (7800, "2h10m")])
def test_duration(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
