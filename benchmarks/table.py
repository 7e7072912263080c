"""One table of results from nothing: public models, trainings, images, scores, and one JSON file.

    python benchmarks/table.py benchmarks/tables/mnist.yaml --data FOLDER --out runs/table-mnist

Every command is one that a user would type. It may be stopped at any instant: again, it goes on, and what is
done is not done again. FOLDER holds the data files that the table names. The result, OUT/table.json, has the
commit, the commands, the machine, the seconds of each command, and each figure with its interval.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from dp_diffusers.benching.machine import device_name, versions
from dp_diffusers.evaluation.evaluating import PUBLIC_MODEL
from dp_diffusers.evaluation.intervals import Interval

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: a recipe and what is different in it, or the images of another row made anew.

    change: dotted keys and values; a section's name replaces the section, null removes it. of: another row,
    whose run is used. generate, evaluate: options of these commands, as `{images: 30000, teacher: off}`.
    label: instead of `generate`, a file of public images to be labelled, and options of label_public.py.
    """

    name: str
    recipe: str | None = None
    of: str | None = None
    change: Mapping[str, Any] = field(default_factory=dict)
    repeats: int = 1
    generate: Mapping[str, Any] = field(default_factory=dict)
    label: Mapping[str, Any] | None = None
    evaluate: Mapping[str, Any] = field(default_factory=dict)


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
        """From YAML. Raises `SystemExit` for a row of a row that is not there."""
        found = yaml.safe_load(path.read_text())
        rows = tuple(Row(**row) for row in found.pop("rows"))
        runs = {row.name for row in rows if row.recipe is not None}
        for row in rows:
            if (row.recipe is None) == (row.of is None) or (row.of is not None and row.of not in runs):
                raise SystemExit(
                    f"error: row {row.name} of {path} needs a recipe, or `of` a row that has one"
                )
        return cls(rows=rows, **found)


@dataclass(frozen=True, kw_only=True)
class Made:
    """What came of one row: the answers of its commands, a mapping for each repeat."""

    dataset: str
    name: str
    runs: Sequence[Mapping[str, Any]]

    def figures(self) -> list[dict[str, Any]]:
        """One line for each figure, as all files of benchmarks/results have them."""
        train = self.runs[0]["train"]
        paid = {"epsilon": train["epsilon"], "delta": train["delta"]}
        lines = [self._line(self.name, paid, "accuracy", "accuracy")]
        nothing: dict[str, Any] = {"epsilon": 0, "delta": None}
        lines += [
            self._line("public", nothing, "accuracy of the public model's images", "public_model"),
            self._line("public", nothing, "accuracy", "public"),
            self._line(self.name, paid, "accuracy with the public images", "with_public"),
            self._line("real", {"epsilon": None, "delta": None}, "accuracy", "real"),
        ]
        scores = self.runs[0]["scores"]
        for row in scores["rows"]:
            whose = {"synthetic": (self.name, paid), PUBLIC_MODEL: ("public", nothing)}.get(row["trained_on"])
            if whose is not None and row["fid"] is not None:
                metric = f"fid ({scores['features']}, {row['images']} images)"
                one = {"mean": row["fid"], "low": None, "high": None, "seeds": 1}
                lines.append(self._about(*whose, metric, one))
        return [line for line in lines if line is not None]

    def _line(self, strategy: str, paid: Mapping[str, Any], metric: str, key: str) -> dict[str, Any] | None:
        """The mean over trainings, or over the classifiers of one."""
        found = [run["scores"][key] for run in self.runs]
        if found[0] is None:
            return None
        if len(found) == 1:
            return self._about(strategy, paid, metric, {**found[0], "seeds": self.runs[0]["scores"]["seeds"]})
        over = Interval.of([one["mean"] for one in found]).to_dict()
        return self._about(strategy, paid, metric, {**over, "seeds": len(found)})

    def _about(
        self, strategy: str, paid: Mapping[str, Any], metric: str, value: Mapping[str, Any]
    ) -> dict[str, Any]:
        about = {"dataset": self.dataset, **paid, "strategy": strategy, "metric": metric, **value}
        return about | {"trainings": len(self.runs)}


class Maker:
    """Runs the commands of one table in one folder."""

    def __init__(self, table: Table, data: Path, out: Path) -> None:
        self.table, self.data, self.out = table, data.resolve(), out.resolve()

    def bases(self) -> None:
        """Pre-trains the public models that are not there yet."""
        for name, recipe in self.table.bases.items():
            target = self.out / "bases" / name
            asked = self._recipe(recipe, {}, self.out / "recipes" / f"{name}.yaml")
            self._command(self.out / "bases" / f"{name}.json", "pretrain", asked, "--out", target)

    def seconds_of_bases(self) -> dict[str, float]:
        """How long each public model took."""
        paths = {name: self.out / "bases" / f"{name}.json" for name in self.table.bases}
        return {name: json.loads(path.read_text())["seconds"] for name, path in paths.items()}

    def split(self) -> None:
        """Parts the files that hold training and test units together."""
        for name, whole in self.table.split.items():
            target = self.out / "data" / name
            if not Path(f"{target}-test.parquet").exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                script = Path(__file__).parent / "split_by_unit.py"
                asked = [
                    sys.executable,
                    script,
                    self.data / whole["path"],
                    "--unit",
                    whole["unit"],
                    "--out",
                    target,
                ]
                subprocess.run([str(part) for part in asked], check=True)

    def row(self, row: Row) -> Made:
        """Makes one row and says what came of it."""
        origin = row if row.of is None else next(other for other in self.table.rows if other.name == row.of)
        runs = [self._run(row, origin, repeat) for repeat in range(origin.repeats)]
        return Made(dataset=self.table.dataset, name=row.name, runs=runs)

    def _run(self, row: Row, origin: Row, repeat: int) -> dict[str, Any]:
        run = self.out / "runs" / origin.name / str(repeat)
        kept = self.out / "done" / row.name / str(repeat)
        assert origin.recipe is not None
        ledger = str(self.out / "ledgers" / f"{origin.name}-{repeat}.ledger")
        (self.out / "ledgers").mkdir(exist_ok=True)
        change = {**origin.change, "budget.ledger": ledger, "generation.seed": repeat}
        if "training" not in change:
            change["training.seed"] = repeat
        asked = self._recipe(origin.recipe, change, self.out / "recipes" / f"{origin.name}-{repeat}.yaml")
        trained = self._command(
            self.out / "done" / origin.name / str(repeat) / "train.json", "train", asked, "--out", run
        )
        images = run / "release" / "images" if row.of is None else kept / "images"
        where = () if row.of is None else ("--out", images)
        made = kept / "generate.json"
        if row.label is None:
            self._command(made, "generate", run, *where, *options(row.generate))
        else:
            how = dict(row.label)
            script = Path(__file__).parent / "label_public.py"
            asked = [run, self._file(how.pop("images")), *options(how), *where]
            self._command(made, "label_public.py", *asked, program=[str(script)])
        scoring = {**self.table.evaluate, **row.evaluate}
        test = ("--reference", self._file(self.table.test))
        scores = self._command(kept / "evaluate.json", "evaluate", images, *test, *self._scoring(scoring))
        return {
            "train": trained["answer"],
            "scores": scores["answer"],
            "commands": {
                name: self._kept(kept, origin, repeat, name) for name in ("train", "generate", "evaluate")
            },
        }

    def _kept(self, kept: Path, origin: Row, repeat: int, name: str) -> dict[str, Any]:
        folder = self.out / "done" / origin.name / str(repeat) if name == "train" else kept
        found = json.loads((folder / f"{name}.json").read_text())
        return {"command": found["command"], "seconds": found["seconds"]}

    def _scoring(self, asked: Mapping[str, Any]) -> list[str]:
        files = {key: str(self._file(asked[key])) for key in ("real", "public") if key in asked}
        return options({**asked, **files})

    def _recipe(self, name: str, change: Mapping[str, Any], target: Path) -> Path:
        """The recipe with its changes, and with paths of this machine."""
        keys = yaml.safe_load((RECIPES / name).read_text())
        for key, value in change.items():
            changed(keys, key.split("."), value)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yaml.safe_dump(self._placed(keys), allow_unicode=True, sort_keys=False))
        return target

    def _placed(self, value: Any) -> Any:
        """Names of bases and of data files as paths, wherever they stand."""
        if isinstance(value, Mapping):
            return {key: self._placed(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._placed(part) for part in value]
        if value in self.table.bases:
            return str(self.out / "bases" / value)
        return str(self._file(value)) if str(value).endswith(".parquet") else value

    def _file(self, name: str) -> Path:
        made = self.out / "data" / name
        return made if made.exists() else self.data / name

    def _command(self, done: Path, verb: str, *parts: object, program: Sequence[str] = ()) -> dict[str, Any]:
        """Runs one command unless it has been; keeps its answer and the seconds of all its starts.

        program: a script, where it is not a verb of the package."""
        if done.exists():
            found: dict[str, Any] = json.loads(done.read_text())
            return found
        done.parent.mkdir(parents=True, exist_ok=True)
        given = [*map(str, parts)]
        asked = [*program, *given] if program else ["-m", "dp_diffusers", verb, *given, "--json"]
        print(verb, *given, flush=True)
        times = done.with_suffix(".seconds")
        began = time.monotonic()
        try:
            called = subprocess.run([sys.executable, *asked], stdout=subprocess.PIPE, text=True)
        except KeyboardInterrupt:
            raise SystemExit(5) from None
        finally:
            with times.open("a") as file:
                print(round(time.monotonic() - began, 1), file=file)
        if called.returncode != 0:  # it has said why
            raise SystemExit(called.returncode)
        seconds = sum(map(float, times.read_text().split()))
        command = " ".join([verb, *given]).replace(f"{self.out}/", "").replace(f"{self.data}/", "")
        found = {"command": command, "seconds": seconds, "answer": json.loads(called.stdout)}
        unfinished = done.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(found))
        unfinished.replace(done)
        return found


def options(asked: Mapping[str, Any]) -> list[str]:
    """`{images: 30000, fidelity: true}` as --images 30000 --fidelity."""
    found: list[str] = []
    for key, value in asked.items():
        flag = f"--{key.replace('_', '-')}"
        found += [flag] if value is True else [flag, "off" if value is False else str(value)]
    return found


def changed(keys: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Sets one dotted key in place; None removes it."""
    for part in path[:-1]:
        keys = keys.setdefault(part, {})
    if value is None:
        keys.pop(path[-1], None)
    else:
        keys[path[-1]] = value


def commit() -> str:
    """The commit of this checkout, with a mark where files differ from it."""
    asked = ["git", "-C", str(RECIPES), "describe", "--always", "--dirty", "--abbrev=7"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Makes the table, and writes it after each row."""
    parser = argparse.ArgumentParser(description="Make one table of results.")
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data files that it names")
    parser.add_argument("--out", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--only", action="append", help="a row; may be repeated; those that are done stay")
    asked = parser.parse_args()
    table = Table.read(asked.table)
    asked.out.mkdir(parents=True, exist_ok=True)
    maker = Maker(table, asked.data, asked.out)
    maker.split()
    maker.bases()
    head = {"title": table.title, "commit": commit(), "machine": device_name(torch.device("cpu"))}
    head |= {"command": f"benchmarks/table.py benchmarks/tables/{asked.table.name}", "versions": versions()}
    rows: list[dict[str, Any]] = []
    runs: dict[str, Any] = {}
    for row in table.rows:
        if asked.only is None or row.name in asked.only:
            made = maker.row(row)
            rows += [line for line in made.figures() if line not in rows]
            runs[row.name] = [{"train": run["train"], "commands": run["commands"]} for run in made.runs]
            found = {**head, "rows": rows, "runs": runs, "bases": maker.seconds_of_bases()}
            text = json.dumps(found, indent=1, ensure_ascii=False).replace(f"{maker.out}/", "")
            (asked.out / "table.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
