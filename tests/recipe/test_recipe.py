"""Recipes: defaults, places of errors, overrides, paths, round trips."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from dp_diffusers.errors import RecipeError
from dp_diffusers.recipe import PretrainRecipe, Recipe, default_delta, defaulted
from dp_diffusers.recipe.sections import Timesteps
from dp_diffusers.recipe.study import load_study
from dp_diffusers.recipe.yaml_lines import YamlSyntaxError, parse, parse_value

SMALLEST: dict[str, Any] = {
    "base": "public",
    "data": {"path": "images.parquet"},
    "budget": {"epsilon": 1},
    "mechanism": {"population": 60000},
}


def written(folder: Path, value: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False))
    return path


def problems(path: Path, *overrides: str, kind: type[Any] = Recipe) -> list[tuple[str, str | None]]:
    with pytest.raises(RecipeError) as caught:
        kind.load(path, list(overrides))
    return caught.value.problems


def test_smallest_recipe_has_every_default(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, SMALLEST))
    assert recipe.mechanism.steps == 200
    assert recipe.mechanism.expected_units == 4096
    assert recipe.generation.images == 10_000
    assert recipe.budget.delta == 1e-5
    assert recipe.budget.cap is not None
    assert recipe.budget.cap.epsilon == 1
    assert recipe.data.label == "label"
    assert recipe.budget.ledger == str(tmp_path / "images.parquet.ledger")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["mechanism.max_units=10"],
            r"max_units in \[expected_units, population\) = \[4096, 60000\), got 10",
        ),
        (["mechanism.max_units=60000"], "got 60000"),
        (["mechanism.max_units=5000", "mechanism.name=none"], "max_units to be null without privacy"),
    ],
)
def test_a_limit_that_cannot_be(tmp_path: Path, overrides: list[str], message: str) -> None:
    ((said, _),) = problems(written(tmp_path, SMALLEST), *overrides)
    assert re.search(message, said)


def test_a_limit_and_replacement_reach_the_plan(tmp_path: Path) -> None:
    overrides = ["mechanism.max_units=150", "mechanism.expected_units=100", "mechanism.population=200"]
    overrides += ["mechanism.steps=3", "budget.adjacency=replace"]
    plan = Recipe.load(written(tmp_path, SMALLEST), overrides).plan()
    assert plan.record is not None
    assert (plan.record.max_units, plan.budget and plan.budget.adjacency) == (150, "replace")


@pytest.mark.parametrize(("population", "units"), [(1, 1), (5, 1), (1000, 100), (60_000, 4096)])
def test_expected_units_follow_the_population(tmp_path: Path, population: int, units: int) -> None:
    recipe = Recipe.load(written(tmp_path, SMALLEST), [f"mechanism.population={population}"])
    assert recipe.mechanism.expected_units == units


@pytest.mark.parametrize("population", [1, 99_999, 100_000, 100_001, 10**7])
def test_default_delta_is_below_one_over_population(population: int) -> None:
    assert default_delta(population) < 1 / population
    assert default_delta(population) <= 1e-5


def test_importing_recipes_costs_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, dp_diffusers.recipe; assert not {'numpy', 'torch', 'dp_accounting'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_readme_recipe_of_every_key_loads(tmp_path: Path) -> None:
    recipe = Recipe.load(
        written(
            tmp_path,
            """\
base: runs/public-digits
data: {path: mnist-train.parquet, label: label, classes: null, caption: null, resize: null}
budget: {epsilon: 10, delta: 1e-5, unit: image, adjacency: add_remove, ledger: mnist.ledger,
         cap: {epsilon: 10, delta: 1.0e-5}}
mechanism: {name: dpsgd, steps: 200, expected_units: 4096, population: 60000, clip_norm: 1.0,
            clipping: flat, max_units: null}
strategy: {name: lora, rank: 8, targets: attention}
training: {noise_draws: 4, augmentations: 1, max_images_per_unit: 8, learning_rate: 1.0e-3, optimizer: adam,
           ema: 0.95, timesteps: uniform, label_dropout: 0.1, seed: 0}
runtime: {device: auto, dtype: float32, rows_per_pass: auto, compile: false}
generation: {images: 10000, labels: uniform, prompts: null, sampler: ddim, steps: 25, guidance: 1.0, seed: 0}
audit: {public: null, canaries: 1000}
""",
        )
    )
    assert recipe.budget.delta == 1e-5
    assert recipe.budget.ledger == str(tmp_path / "mnist.ledger")


def test_json_is_a_recipe_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**SMALLEST, "budget": {"epsilon": 1, "delta": 1e-07}}))
    assert Recipe.load(path).budget.delta == 1e-7


def test_json_as_json_writes_it_is_a_recipe(tmp_path: Path) -> None:
    classes = ["\N{GRINNING FACE}", "a b", "1e5"]
    document = {**SMALLEST, "data": {"path": "x.parquet", "classes": classes}}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(document, indent="\t"))
    assert Recipe.load(path).data.classes == classes
    path.write_text(path.read_text().replace("\\ude00", ""))
    with pytest.raises(RecipeError, match="not valid YAML"):
        Recipe.load(path)


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.0e-5", "1.e-5", ".00001", "+1e-5"])
def test_floats_are_numbers(text: str) -> None:
    assert parse_value(text) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("text", "value"),
    [("e5", "e5"), ("1e", "1e"), ("0x10", 16), ("12", 12), ("1.2.3", "1.2.3"), ("-", [None])],
)
def test_what_is_no_float_stays_what_it_is(text: str, value: object) -> None:
    assert parse_value(text) == value


def test_yaml_builds_no_objects() -> None:
    with pytest.raises(YamlSyntaxError, match="constructor"):
        parse("a: !!python/object/apply:os.system ['true']")


def test_every_key_has_its_line() -> None:
    located = parse("a: 1\nb:\n  c: 2\n  d: [1,\n      2]\n")
    assert located.lines == {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "d"): 4,
        ("b", "d", 0): 4,
        ("b", "d", 1): 5,
    }


def test_all_problems_of_a_file_at_once_with_lines(tmp_path: Path) -> None:
    found = problems(
        written(
            tmp_path,
            """\
base: public
data: {path: images.parquet}
budget:
  epsilon: 0
  delta: 0.5
mechanism:
  population: 100
  steps: many
  expected_units: 200
training:
  nosie_draws: 4
  optimizer: adm
  ema: 1
""",
        )
    )
    assert [message.split(":")[1] for message, _ in found] == ["4", "5", "8", "9", "11", "12", "13"]
    assert ("recipe.yaml:11: unknown key 'nosie_draws'", "did you mean 'noise_draws'?") in found
    assert found[-2][1] == "did you mean 'adam'?"
    assert "1/population = 0.01, got 0.5" in found[1][0]


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("training.nosie_draws=8", "unknown key 'nosie_draws'", "did you mean 'noise_draws'?"),
        ("noise_draws=8", "unknown key 'noise_draws'", "did you mean 'training.noise_draws'?"),
        ("training.noise_draws=lots", "to be a whole number, got 'lots'", None),
        ("mechanism.steps", "expected key=value", "write it as --set mechanism.steps=VALUE"),
        ("data.classes.0", "expected key=value", "write it as --set data.classes.0=VALUE"),
        ("mechanism.steps: 8", "expected key=value", "write it as --set training.noise_draws=8"),
        ("=8", "expected key=value", "write it as --set training.noise_draws=8"),
        ("base.x=1", "does not lead to a key", None),
        ("training.ema=[", "not valid YAML", None),
        ("budget.epsilon=.nan", "to be finite, got nan|>= 0.01, got nan", None),
        ("budget.epsilon=true", "to be a number, got true", None),
        ("strategy.name=lra", "to be one of lora, frozen_a, ", "did you mean 'lora'?"),
        ("strategy.targets=[]", "or a list of names, got", "a list holds endings of module names"),
        ("strategy.also=[norm, norm]", "without repetitions", None),
        ("runtime.rows_per_pass=0", "auto or a whole number > 0, got 0", None),
        ("runtime.device=gpu", "runtime.device to be auto, cpu, mps, cuda or cuda:N, got 'gpu'", None),
        ("data.classes=[a, a]", "distinct names", "null takes the base's"),
        ("data.path=", "expected data.path to be text, got null", None),
        ("training=3", "expected training to be a mapping of keys, got 3", None),
        ("budget.adjacency=replaced", "to be one of", "did you mean 'replace'?"),
        ("mechanism.max_units=0", "expected mechanism.max_units", None),
        ("budget.adjacency=swap", "one of add_remove, zero_out, replace, got 'swap'", None),
        ("training.augmentations=0", "expected training.augmentations >= 1, got 0", None),
        ("runtime.compile=3", "expected runtime.compile to be true or false, got 3", None),
        (
            "runtime.dtype=float16",
            "to be one of float32, bfloat16, got 'float16'",
            "did you mean 'bfloat16'?",
        ),
        ("generation.prompts=[]", "generation.prompts to be distinct texts", "null takes"),
        ("data.caption=a {lable}", "data.caption: unknown {lable} in 'a {lable}'", "did you mean {label}?"),
        (
            "data.window=[40]",
            "data.window to be [center, width] with a width above 0, got [40.0]",
            "in units",
        ),
        ("audit.canaries=10", "expected audit.canaries >= 20, got 10", None),
        ('audit.public=""', "expected audit.public not to be empty", None),
    ],
)
def test_an_override_that_cannot_be(tmp_path: Path, override: str, message: str, hint: str | None) -> None:
    ((said, hinted),) = problems(written(tmp_path, SMALLEST), override)
    assert said.startswith(f"--set {override}: ")
    assert re.search(message, said) or message in said
    assert hint is None or (hinted or "").startswith(hint)


@pytest.mark.parametrize(
    ("path", "label"),
    [("a.parquet", "label"), ("a.PQ", "label"), ("a/", "auto"), ("a.parquet.d", "auto"), ("a", "auto")],
)
def test_the_default_label_follows_the_name_of_the_data_alone(tmp_path: Path, path: str, label: str) -> None:
    recipe = Recipe.load(written(tmp_path, SMALLEST), [f"data.path={path}"])
    assert recipe.data.label == label


def test_every_distribution_of_noise_levels_can_be_asked_for(tmp_path: Path) -> None:
    from dp_diffusers.diffusion.objective import TIMESTEPS

    for name in TIMESTEPS:
        recipe = Recipe.load(written(tmp_path, SMALLEST), [f"training.timesteps={name}"])
        assert recipe.training.timesteps == name
    assert set(get_args(Timesteps)) == set(TIMESTEPS)


def test_overrides_are_read_as_yaml(tmp_path: Path) -> None:
    overrides = [
        "training.noise_draws=8",
        "budget.cap=null",
        "strategy.targets=[to_q, to_v]",
        "training.ema=0",
    ]
    recipe = Recipe.load(written(tmp_path, SMALLEST), overrides)
    assert recipe.training.noise_draws == 8
    assert recipe.budget.cap is None
    assert recipe.strategy.targets == ["to_q", "to_v"]


def test_a_cap_without_delta_has_the_budgets(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, SMALLEST), ["budget.cap={epsilon: 5}", "budget.delta=1e-7"])
    assert recipe.budget.cap is not None
    assert recipe.budget.cap.delta == 1e-7


def test_an_empty_section_is_its_defaults(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, {**SMALLEST, "training": None}))
    assert recipe.training.noise_draws == 4


@pytest.mark.parametrize("key", ["base", "data.path", "budget.epsilon", "mechanism.population"])
def test_a_required_key_is_named(tmp_path: Path, key: str) -> None:
    value = json.loads(json.dumps(SMALLEST))
    section, _, leaf = key.rpartition(".")
    del (value[section] if section else value)[leaf]
    ((message, hint),) = problems(written(tmp_path, value))
    assert message.endswith(f"missing key {key!r}")
    assert hint and hint.startswith(f"{leaf}: ") if section else True


def test_duplicated_keys_are_refused(tmp_path: Path) -> None:
    text = yaml.safe_dump(SMALLEST, sort_keys=False) + "  population: 7\n"
    ((message, _),) = problems(written(tmp_path, text))
    assert message == "recipe.yaml:7: duplicated key 'population', again on line 8"


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    inside = Recipe.load(written(tmp_path, {**SMALLEST, "data": {"path": "xrays/"}}))
    assert inside.base == str(tmp_path / "public")
    assert inside.data.label == "auto"
    assert inside.budget.ledger == str(tmp_path / "xrays.ledger")
    hub = Recipe.load(written(tmp_path, {**SMALLEST, "base": "google/ddpm-cifar10-32"}))
    assert hub.base == "google/ddpm-cifar10-32"


def test_a_base_that_only_the_working_directory_has_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "public").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = written(tmp_path / "recipes", SMALLEST)
    assert Recipe.load(path).base == str(tmp_path / "here" / "public")
    (tmp_path / "recipes" / "public").mkdir()
    assert Recipe.load(path).base == str(tmp_path / "recipes" / "public"), "the recipe's folder goes first"


def test_resolved_yaml_loads_equal(tmp_path: Path) -> None:
    recipe = Recipe.load(
        written(tmp_path, SMALLEST), ["data.classes=['0', 'null', '1e5']", "budget.cap=null"]
    )
    again = tmp_path / "elsewhere"
    again.mkdir()
    assert Recipe.load(written(again, recipe.resolved_yaml())) == recipe


def test_differences_name_the_keys(tmp_path: Path) -> None:
    path = written(tmp_path, SMALLEST)
    one = Recipe.load(path)
    other = Recipe.load(
        path, ["training.ema=0", "runtime.device=cpu", "budget.cap.epsilon=3", "data.classes=[a]"]
    )
    assert one.differences(other) == ["data.classes", "budget.cap.epsilon", "training.ema"]
    assert "runtime.device" in one.differences(other, ignoring="")
    assert one.differences(one) == []


def test_defaulted_lists_what_was_not_written() -> None:
    assert defaulted({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}, "d": 3}) == {"a.c": 2, "d": 3}


def test_a_recipe_never_changes(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, SMALLEST))
    with pytest.raises(ValueError, match="frozen"):
        recipe.training.ema = 0.5  # type: ignore[misc]


PUBLIC = "data:\n  - {source: drawn_digits}\n  - {source: files, path: more, keep_labels: false}\n"


def test_pretraining_defaults(tmp_path: Path) -> None:
    recipe = PretrainRecipe.load(written(tmp_path, PUBLIC))
    assert recipe.model.widths == [32, 64]
    assert recipe.sources()[1]["path"] == str(tmp_path / "more")
    again = PretrainRecipe.load(written(tmp_path, recipe.resolved_yaml()))
    assert again == recipe
    assert recipe.differences(again) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.size=30", "expected model.size to be a multiple of 4, got 30"),
        ("model.attention=[true]", "expected model.attention to have 2 items"),
        ("model.widths=[30, 64]", "multiples of norm_groups = 8, got 30"),
        ("model.attention_head_dim=48", "with attention to be multiples of 48, got 64"),
        ("data.0.fontz=1", "unknown key 'fontz'"),
        ("data.1.source=flies", "to be one of drawn_digits, files, got 'flies'"),
        ("data=[]", "expected data to have at least 1 item"),
        ("data=[{count: 5}]", "missing key 'data.0.source'"),
        ("autoencoder=vae", "expected autoencoder to be a mapping of keys, got 'vae'"),
        ("autoencoder={factor: 3}", "expected autoencoder.factor to be one of 2, 4, 8, got 3"),
        ("autoencoder={factor: 8}", "expected model.size to be a multiple of 16, got 28"),
        ("autoencoder={widths: [16]}", "expected autoencoder.widths to have 2 items for factor 2, got 1"),
        (
            "autoencoder={factor: 2, widths: [16, 20]}",
            "expected autoencoder.widths to be multiples of norm_gr",
        ),
        (
            "autoencoder={kind: vq, kl_weight: 1.0}",
            "autoencoder.kl_weight has no effect with kind",
        ),
        ("autoencoder={codebook: 8}", "autoencoder.codebook has no effect with kind kl"),
    ],
)
def test_pretraining_refuses(tmp_path: Path, override: str, message: str) -> None:
    ((said, _),) = problems(written(tmp_path, PUBLIC), override, kind=PretrainRecipe)
    assert message in said


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("recipes/*.yaml")), ids=lambda p: p.stem
)
def test_shipped_recipes_load(path: Path) -> None:
    text = path.read_text()
    if "\ncells:" in text:
        assert load_study(path).cells
    else:
        (Recipe if "budget:" in text else PretrainRecipe).load(path)
