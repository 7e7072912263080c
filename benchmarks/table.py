"""One table of results from nothing: public models, trainings, images, scores, and one JSON file.

    python benchmarks/table.py benchmarks/tables/mnist.yaml --data FOLDER --out runs/table-mnist

Every command is one that a user would type. It may be stopped at any instant: again, it goes on, and what is
done is not done again; what was made by another recipe or other options is refused. FOLDER holds the data
files that the table names. OUT/table.json has a line for each figure, in the format of benchmarks/results/,
and what each command was asked, by which commit and machine, and its seconds.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from table_commands import ROOT, Command, Commands, digest, write
from table_rows import Made, Row, Table

RECIPES = ROOT / "recipes"
PARTS = ("train", "generate", "evaluate")


class Maker:
    """Makes the rows of one table in one folder."""

    def __init__(self, table: Table, data: Path, out: Path) -> None:
        self.table, self.data, self.out = table, data.resolve(), out.resolve()
        self.commands = Commands([self.out, self.data])
        self._bases = ""  # stands for the public models, once they are there
        (self.out / "ledgers").mkdir(parents=True, exist_ok=True)

    def split(self) -> None:
        """Parts the files that hold training and test units together."""
        for name, whole in self.table.split.items():
            target = self.out / "data" / name
            if not Path(f"{target}-test.parquet").exists():  # the last to be written
                target.parent.mkdir(parents=True, exist_ok=True)
                asked = [self.data / whole["path"], "--unit", whole["unit"], "--out", target]
                script = ROOT / "benchmarks" / "split_by_unit.py"
                subprocess.run([sys.executable, script, *asked], check=True)

    def bases(self) -> dict[str, dict[str, Any]]:
        """Pre-trains the public models that are not there yet."""
        made: dict[str, dict[str, Any]] = {}
        for name, recipe in self.table.bases.items():
            keys = self._placed(yaml.safe_load((RECIPES / recipe).read_text(encoding="utf-8")))
            target = self.out / "bases" / name
            done = self.out / "bases" / f"{name}.json"
            made[name] = self._run_recipe(
                done, "pretrain", keys, self.out / "recipes" / f"{name}.yaml", target, {}
            )
        self._bases = " ".join(map(digest, made.values()))
        return made

    def row(self, row: Row) -> Made:
        """Makes one row and says what came of it."""
        runs = [self._run(row, repeat) for repeat in range(self.table.origin(row).repeats)]
        recipe = Path(str(self.table.origin(row).recipe)).stem
        return Made(dataset=self.table.dataset, name=row.name, recipe=recipe, runs=runs)

    def is_done(self, row: Row) -> bool:
        """Whether nothing of the row is left to do."""
        repeats = range(self.table.origin(row).repeats)
        return all((self._kept(row, repeat) / "evaluate.json").exists() for repeat in repeats)

    def _kept(self, row: Row, repeat: int) -> Path:
        return self.out / "done" / row.name / str(repeat)

    def _run(self, row: Row, repeat: int) -> dict[str, Any]:
        origin, kept = self.table.origin(row), self._kept(row, repeat)
        run = self._run_of(origin, repeat)
        train, paid = self._trained(origin, repeat)
        images = run / "release" / "images" if row.draws else kept / "images"
        generate = self._images(row, kept, run, images, digest(train))
        evaluate = self._scores(row, kept, images, digest(generate))
        made = dict(zip(PARTS, (train, generate, evaluate), strict=True))
        commands = {
            name: {"asked": part["asked"]["command"], "seconds": part["seconds"], "by": part["by"]}
            for name, part in made.items()
        }
        return {"train": {**train["answer"], **paid}, "scores": evaluate["answer"], "commands": commands}

    def _run_of(self, row: Row, repeat: int) -> Path:
        return self.out / "runs" / row.name / str(repeat)

    def _merged(self, row: Row, repeat: int) -> Path:
        return self.out / "merged" / row.name / str(repeat)

    def _ledger(self, row: Row, repeat: int) -> Path:
        return self.out / "ledgers" / f"{(self.table.first(row) or row).name}-{repeat}.ledger"

    def _trained(self, row: Row, repeat: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The training of a row, after that of the row in its base, and what both have cost together."""
        first, kept = self.table.first(row), self._kept(row, repeat)
        made_of = {"bases": self._bases}
        if first is not None:
            before, _ = self._trained(first, repeat)
            made_of = {"bases": digest(self._merge(first, repeat, digest(before)))}
        recipe = self.out / "recipes" / f"{row.name}-{repeat}.yaml"
        keys, run = self._recipe_of(row, repeat), self._run_of(row, repeat)
        train = self._run_recipe(kept / "train.json", "train", keys, recipe, run, made_of)
        if first is None:
            return train, {}
        asked = ["show", str(self._ledger(row, repeat))]
        shown = Command(verb="ledger", arguments=asked, made_of={"after": digest(train)})
        ledger = self.commands.run(kept / "ledger.json", shown)["answer"]
        return train, {"epsilon": ledger["spent_epsilon"], "delta": ledger["delta"]}

    def _merge(self, row: Row, repeat: int, after: str) -> dict[str, Any]:
        done, merged = self._kept(row, repeat) / "merge.json", self._merged(row, repeat)
        if not done.exists():  # of a start that was killed before its answer was kept
            shutil.rmtree(merged, ignore_errors=True)
        asked = [str(self._run_of(row, repeat)), "--out", str(merged)]
        return self.commands.run(done, Command(verb="merge", arguments=asked, made_of={"after": after}))

    def _recipe_of(self, row: Row, repeat: int) -> dict[str, Any]:
        """The keys of a row's recipe, with its changes, and with paths and seeds of this repeat."""
        assert row.recipe is not None
        keys: dict[str, Any] = yaml.safe_load((RECIPES / row.recipe).read_text(encoding="utf-8"))
        for key, value in row.change.items():
            changed(keys, key.split("."), copy.deepcopy(value))
        changed(keys, ["budget", "ledger"], str(self._ledger(row, repeat)))
        if (first := self.table.first(row)) is not None:
            keys["base"] = str(self._merged(first, repeat))
        seeded = ["generation"] if keys["mechanism"].get("name") == "pe" else ["generation", "training"]
        for section in seeded:
            keys.setdefault(section, {}).setdefault("seed", repeat)
        placed: dict[str, Any] = self._placed(keys)
        return placed

    def _run_recipe(
        self,
        done: Path,
        verb: str,
        keys: Mapping[str, Any],
        recipe: Path,
        out: Path,
        made_of: Mapping[str, str],
    ) -> dict[str, Any]:
        """A command on a recipe, which is written down when it is run."""
        text = yaml.safe_dump(keys, allow_unicode=True, sort_keys=False)
        if not done.exists():
            recipe.parent.mkdir(parents=True, exist_ok=True)
            recipe.write_text(text, encoding="utf-8")
        asked = Command(
            verb=verb,
            arguments=[str(recipe), "--out", str(out)],
            made_of={"recipe": text, **made_of},
        )
        return self.commands.run(done, asked)

    def _images(self, row: Row, kept: Path, run: Path, images: Path, after: str) -> dict[str, Any]:
        done, where = kept / "generate.json", [] if row.draws else ["--out", str(images)]
        if where and not done.exists():  # of a start that was killed before its answer was kept
            shutil.rmtree(images, ignore_errors=True)
        verb, asked = "generate", [str(run), *where, *options(row.generate)]
        if row.label is not None:
            how = {name: value for name, value in row.label.items() if name != "images"}
            verb, public = "label_public.py", self._file(row.label["images"])
            asked = [str(run), str(public), *options(how), *where]
        elif row.moments is not None:
            verb, asked = "draw_moments.py", [str(run), *options(row.moments), *where]
        return self.commands.run(done, Command(verb=verb, arguments=asked, made_of={"after": after}))

    def _scores(self, row: Row, kept: Path, images: Path, after: str) -> dict[str, Any]:
        scoring = {**self.table.evaluate, **row.evaluate}
        scoring |= {key: str(self._file(scoring[key])) for key in ("real", "public") if key in scoring}
        asked = [str(images), "--reference", str(self._file(self.table.test)), *options(scoring)]
        return self.commands.run(
            kept / "evaluate.json", Command(verb="evaluate", arguments=asked, made_of={"after": after})
        )

    def _placed(self, value: Any) -> Any:
        """Names of bases and of data files as paths, wherever they stand."""
        if isinstance(value, Mapping):
            return {key: self._placed(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._placed(part) for part in value]
        if isinstance(value, str) and value in self.table.bases:
            return str(self.out / "bases" / value)
        return str(self._file(value)) if str(value).endswith(".parquet") else value

    def _file(self, name: str) -> Path:
        made = self.out / "data" / name
        return made if made.exists() else self.data / name


def options(asked: Mapping[str, Any]) -> list[str]:
    """`{images: 30000, fidelity: true}` as --images 30000 --fidelity; false and null say nothing."""
    found: list[str] = []
    for key, value in asked.items():
        flag = f"--{key.replace('_', '-')}"
        if value is True:
            found.append(flag)
        elif value is not None and value is not False:
            found += [flag, str(value)]
    return found


def changed(keys: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Sets one dotted key in place; None removes it."""
    for part in path[:-1]:
        keys = keys.setdefault(part, {})
    if value is None:
        keys.pop(path[-1], None)
    else:
        keys[path[-1]] = value


def document(maker: Maker, name: str, bases: Mapping[str, Any], rows: Sequence[Made]) -> dict[str, Any]:
    """All lines, and how they were made."""
    commands = [command for row in rows for run in row.runs for command in run["commands"].values()]
    head = {
        field: ", ".join(sorted({command["by"][field] for command in commands}))
        for field in ("commit", "machine")
    }
    kept = {base: {"seconds": part["seconds"], "by": part["by"]} for base, part in bases.items()}
    runs = {
        row.name: [
            {"train": {**run["train"], "release": maker.commands.plain(run["train"]["release"])}}
            | {"commands": run["commands"]}
            for run in row.runs
        ]
        for row in rows
    }
    lines: list[dict[str, Any]] = []
    for line in (line for row in rows for line in row.lines()):
        if not any(
            {**other, "beside": line["beside"]} == line for other in lines
        ):  # of the same public images
            lines.append(line)
    asked = {"title": maker.table.title, "command": f"benchmarks/table.py benchmarks/tables/{name}"}
    return {**asked, **head, "rows": lines, "bases": kept, "runs": runs}


def main() -> None:
    """Makes the table, and writes it after each row."""
    parser = argparse.ArgumentParser(description="Make one table of results.")
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data files that it names")
    parser.add_argument("--out", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--only", action="append", help="a row to make; may be repeated")
    asked = parser.parse_args()
    table = Table.read(asked.table)
    if unknown := set(asked.only or ()) - {row.name for row in table.rows}:
        parser.error(
            f"no row {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in table.rows)}"
        )
    maker = Maker(table, asked.data, asked.out)
    maker.split()
    bases = maker.bases()
    rows: list[Made] = []
    for row in table.rows:
        if asked.only is None or row.name in asked.only or maker.is_done(row):
            rows.append(maker.row(row))
            write(asked.out / "table.json", document(maker, asked.table.name, bases, rows))


if __name__ == "__main__":
    main()
