"""What a launcher's SIGTERM, sent while a reservation is given back, leaves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dp_diffusers.run import paying
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.run.paying import Paying


def test_a_reservation_is_given_back_before_the_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        (tmp_path / "given back").touch()

    monkeypatch.setattr(paying, "forget_unspent", slow)
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            Paying(folder=RunFolder(tmp_path)).forget()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM  # put off, not lost
    assert (tmp_path / "given back").exists()
