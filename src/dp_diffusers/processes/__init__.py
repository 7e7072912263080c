"""One training in several processes: who does what, and how they agree.

Guarantees that a training in one process opens no connection and waits for nobody. May import torch; never
the accountant or the ledger, which the first process alone has. `team` is the way in.
"""

from __future__ import annotations

from dp_diffusers.processes.team import ALONE, Alone, Team, team

__all__ = ["ALONE", "Alone", "Team", "team"]
