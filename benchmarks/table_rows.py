"""What a table of results asks for, and the lines that its answers make.

Guarantees that a row has one run, its own or another row's, and that an ε is the largest of what its runs
cost: that of the certificate, or of the ledger where one run follows another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from dp_diffusers.evaluation.evaluating import PUBLIC_MODEL, SYNTHETIC
from dp_diffusers.evaluation.intervals import Interval

SAME_IN_ALL: Final = ("public", "real")  # figures of images that are the same beside every training


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: a recipe and what is different in it, or the images of another row made anew.

    change: dotted keys and values; a section's name replaces the section, null removes it. of: another row,
    whose run is used. generate, evaluate: options of these commands, as `{images: 30000, teacher: "off"}`.
    label: instead of `generate`, a file of public images to be labelled, and options of label_public.py; with
    a recipe, the row is of a run whose own images are not looked at.
    moments: instead of `generate`, options of draw_moments.py, which draws what a warm-up learnt from.
    after: a row whose adapter is merged into the base that this recipe starts from, both in one ledger, whose
    ε is the row's.
    """

    name: str
    recipe: str | None = None
    of: str | None = None
    change: Mapping[str, Any] = field(default_factory=dict)
    repeats: int = 1
    generate: Mapping[str, Any] = field(default_factory=dict)
    label: Mapping[str, Any] | None = None
    moments: Mapping[str, Any] | None = None
    after: str | None = None
    evaluate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def draws(self) -> bool:
        """Whether its images are those of its own run, in the release."""
        return self.of is None and self.label is None

    def require_whole(self) -> None:
        """Raises `SystemExit` for a row that cannot be made."""
        if (self.recipe is None) == (self.of is None):
            raise SystemExit(f"error: row {self.name} needs a recipe, or `of`, the row whose run it shows")
        if self.of is None and self.moments is not None:
            raise SystemExit(f"error: row {self.name}: `moments` goes with `of`")
        if sum(map(bool, (self.generate, self.label, self.moments))) > 1:
            raise SystemExit(f"error: row {self.name} has one of `generate`, `label` and `moments`")
        if self.of is not None and (self.change or self.repeats != 1 or self.after):
            raise SystemExit(f"error: row {self.name}: `change`, `repeats` and `after` go with a recipe")


@dataclass(frozen=True, kw_only=True)
class Table:
    """What to make: `bases` name a recipe of `pretrain` each, `split` files to be parted by unit.

    split: `{xrays: {path: chestxray64.parquet, unit: patient_id}}` gives xrays-train and xrays-test.parquet.
    """

    title: str
    dataset: str
    test: str
    bases: Mapping[str, str]
    rows: tuple[Row, ...]
    split: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Table:
        """From YAML. Raises `SystemExit` for rows that cannot be made."""
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = tuple(Row(**row) for row in found.pop("rows"))
        table = cls(rows=rows, **found)
        for row in rows:
            row.require_whole()
            table.origin(row)
            table.first(row)
        return table

    def first(self, row: Row) -> Row | None:
        """The row whose adapter is in the base; None without one. Raises `SystemExit` for a wrong one."""
        if row.after is None:
            return None
        found = [
            one for one in self.rows if one.name == row.after and one.recipe is not None and not one.after
        ]
        if len(found) != 1 or found[0].repeats != row.repeats:
            raise SystemExit(f"error: row {row.name} is after {row.after}, which is no row of its own recipe")
        return found[0]

    def origin(self, row: Row) -> Row:
        """The row whose run is shown. Raises `SystemExit` where there is none."""
        found = [one for one in self.rows if one.recipe is not None and one.name == (row.of or row.name)]
        if len(found) != 1:
            raise SystemExit(f"error: row {row.name} is of {row.of}, which is no row with a recipe")
        return found[0]


@dataclass(frozen=True, kw_only=True)
class Made:
    """What came of one row: the answers of its commands, a mapping for each repeat.

    recipe: the name of the recipe that was trained; a row that is called otherwise is a variant of it.
    """

    dataset: str
    name: str
    recipe: str
    runs: Sequence[Mapping[str, Any]]

    def lines(self) -> list[dict[str, Any]]:
        """One line for each figure, as all files of benchmarks/results have them."""
        paid = {name: self._largest(name) for name in ("epsilon", "delta")}
        nothing = {"epsilon": 0, "delta": None}
        own = self.recipe
        lines = [
            self._line(own, paid, "accuracy", "accuracy"),
            self._line("public", nothing, "accuracy of the public model's images", "public_model"),
            self._line("public", nothing, "accuracy", "public"),
            self._line(own, paid, "accuracy with the public images", "with_public"),
            self._line("real", {"epsilon": None, "delta": None}, "accuracy", "real"),
            self._distance(own, paid, SYNTHETIC),
            self._distance("public", nothing, PUBLIC_MODEL),
        ]
        return [line for line in lines if line is not None]

    def _largest(self, name: str) -> float | None:
        """Of all runs; None where they are not private."""
        found = [run["train"][name] for run in self.runs]
        return None if None in found else max(found)

    def _line(self, strategy: str, paid: Mapping[str, Any], metric: str, key: str) -> dict[str, Any] | None:
        """The mean over trainings, or over the classifiers of one, as where no training changes a figure."""
        found = [run["scores"][key] for run in self.runs]
        if None in found:
            return None
        if len(found) == 1 or key in SAME_IN_ALL:
            value = {**found[0], "seeds": self.runs[0]["scores"]["seeds"], "trainings": 1}
        else:
            value = {**Interval.of([one["mean"] for one in found]).to_dict(), "seeds": len(found)}
        return self._about(strategy, paid, metric, value)

    def _distance(self, strategy: str, paid: Mapping[str, Any], whose: str) -> dict[str, Any] | None:
        """The Fréchet distance of a set of images; without an interval for one training."""
        scores = [run["scores"] for run in self.runs]
        rows = [row for one in scores for row in one["rows"] if row["trained_on"] == whose]
        values = [row["fid"] for row in rows if row["fid"] is not None]
        if not values or len(values) < len(scores):
            return None
        value: dict[str, Any] = {"mean": values[0], "low": None, "high": None, "seeds": 1}
        if len(values) > 1:
            value = {**Interval.of(values, highest=float("inf")).to_dict(), "seeds": len(values)}
        return self._about(
            strategy, paid, f"fid ({scores[0]['features']}, {rows[0]['images']} images)", value
        )

    def _about(
        self, strategy: str, paid: Mapping[str, Any], metric: str, value: Mapping[str, Any]
    ) -> dict[str, Any]:
        about: dict[str, Any] = {"dataset": self.dataset, **paid, "strategy": strategy}
        if strategy == self.recipe != self.name:
            about["variant"] = self.name.removeprefix(f"{self.recipe}-")
        about |= {"metric": metric, **value}
        return {**about, "trainings": value.get("trainings", len(self.runs)), "beside": self.name}
