"""One run with a report for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_support import make_run, score

from dp_diffusers.reporting import report


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with scores and a report in its release; not to be changed."""
    run = make_run(tmp_path_factory.mktemp("shown") / "run")
    score(run)
    report(run)
    return run
