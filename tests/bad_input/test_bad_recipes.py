"""Bad recipes: what is wrong with the text, its keys, its values, or between them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_rows import Row, check, is_well_said
from pydantic import BaseModel

from dp_diffusers.cli.main import report
from dp_diffusers.errors import RecipeError
from dp_diffusers.recipe import PretrainRecipe, Recipe

GOOD = """\
base: public
data: {path: images}
budget: {epsilon: 1}
mechanism: {population: 1000, steps: 10}
"""
PUBLIC = "data: [{source: drawn_digits, count: 100}]\n"
PLAN = ("plan", "{folder}/recipe.yaml")
PRETRAIN = ("pretrain", "{folder}/recipe.yaml", "--out", "{folder}/run")
INIT_WRITES_ONE = "init IMAGES"


def text(
    name: str, recipe: str | bytes, says: str, hint: str | None = None, *, problems: int = 1, code: int = 2
) -> Row:
    """`plan` on a recipe of this text."""
    return _row(name, PLAN, recipe, says, hint, problems, code)


def added(name: str, more: str, says: str, hint: str | None = None) -> Row:
    """`plan` on the good recipe with lines added to it."""
    return text(name, GOOD + more, says, hint)


def with_set(name: str, overrides: str, says: str, hint: str | None = None, *, code: int = 2) -> Row:
    """`plan` on the good recipe with `--set`, once for each word of `overrides`."""
    sets = [word for override in overrides.split(" ") for word in ("--set", override)]
    return _row(name, (*PLAN, *sets), GOOD, says, hint, 1, code)


def public(name: str, recipe: str, says: str, hint: str | None = None) -> Row:
    """`pretrain` on a recipe of this text."""
    return _row(name, PRETRAIN, recipe, says, hint, 1, 2)


def _row(
    name: str,
    command: tuple[str, ...],
    recipe: str | bytes,
    says: str,
    hint: str | None,
    problems: int,
    code: int,
) -> Row:
    data = recipe if isinstance(recipe, bytes) else recipe.encode()

    def write(folder: Path) -> None:
        (folder / "recipe.yaml").write_bytes(data)

    return Row(name=name, command=command, says=says, hint=hint, spoil=write, problems=problems, code=code)


def bomb(levels: int) -> str:
    """YAML whose aliases stand for 9^levels words."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


TEXTS = [
    text("empty", "", "the recipe is empty", INIT_WRITES_ONE),
    text("comments only", "# nothing\n", "the recipe is empty", INIT_WRITES_ONE),
    text("a list", "- base\n", "expected keys and values, got a list", INIT_WRITES_ONE),
    text("a word", "base\n", "expected keys and values, got text", INIT_WRITES_ONE),
    text("a number", "7\n", "expected keys and values, got a number", INIT_WRITES_ONE),
    text("not text", b"\xff\xfe\x00\x80", "not a text file", "UTF-8"),
    text("bad yaml", "base: [a\ndata: b\n", r"recipe\.yaml:\d+: not valid YAML", "colons"),
    text("a tab", "base: a\n\tdata: b\n", r"recipe\.yaml:2: not valid YAML", "colons"),
    text("two documents", "base: a\n---\nbase: b\n", "not valid YAML", "colons"),
    text("an object", "base: !!python/object:os.x {}\n", "not valid YAML", "colons"),
    text("unhashable key", "? [a]\n: b\n", "not valid YAML", "colons"),
    text("a control character", "base: \x01\n", r"recipe\.yaml:1: not valid YAML", "colons"),
    text("deep nesting", "a: " + "[" * 500, "nested too deeply", "lists and mappings"),
    text("aliases without end", "a: &a [*a]\n", "nested too deeply", "lists and mappings"),
    text("aliases that multiply", bomb(12), "more than 10000 keys and values", "aliases"),
    text("merge keys", "a: &a {x: 1}\nb: {<<: *a}\n", r"recipe\.yaml:2: merge keys", "write the keys out"),
    text("a public recipe", PUBLIC, "recipe of a public pre-training", "dp-diffusers pretrain"),
    public("a private recipe", GOOD, "private fine-tuning", "dp-diffusers train"),
]
KEYS = [
    added("number as key", "7: x\n", r":5: unknown key '7'", "known: base"),
    added("misspelt key", "training: {nosie_draws: 4}\n", r":5: unknown key 'nosie_draws'", "'noise_draws'"),
    added("misspelt section", "trainig: {}\n", r":5: unknown key 'trainig'", "'training'"),
    added("key in no section", "noise_draws: 4\n", "unknown key 'noise_draws'", r"'training\.noise_draws'"),
    added("duplicated key", "base: other\n", r":1: duplicated key 'base', again on line 5", "keep one"),
    added(
        "section as a word",
        "training: fast\n",
        "expected training to be a mapping of keys, got 'fast'",
        "How the",
    ),
    text("no base", GOOD.replace("base: public\n", ""), "missing key 'base'", "public model"),
    text(
        "no path", GOOD.replace("path: images", ""), r"missing key 'data\.path'", "private images: a folder"
    ),
    text("no epsilon", GOOD.replace("epsilon: 1", ""), r"missing key 'budget\.epsilon'", "smaller is safer"),
    text(
        "no population",
        GOOD.replace("population: 1000, ", ""),
        r":4: missing key 'mechanism\.population'",
        "declared",
    ),
    text(
        "two problems", "base: a\ndata: {path: b}\n", "missing key 'budget'", "What may be spent", problems=2
    ),
    with_set("no equals sign", "training", "expected key=value", "--set training.noise_draws=8"),
    with_set("no key", "=4", "expected key=value", "--set training.noise_draws=8"),
    with_set("a dot too many", "training..ema=0", "expected key=value", "--set training.noise_draws=8"),
    with_set("override into a word", "base.x=1", "'base.x' does not lead to a key", "no keys below it"),
    with_set("override of an unknown key", "training.emma=0", "--set training.emma=0: unknown", "'ema'"),
    with_set("override that is no YAML", "base=[a", r"--set base=\[a: not valid YAML", "quote"),
    with_set(
        "override without a blank",
        "budget.cap={epsilon:400,delta:0.01}",
        r"--set budget\.cap=\S+: 'epsilon:400' is a key without a value",
        "a blank after the colon: epsilon: 400",
    ),
    added("no blank in the file", "training: {ema:0}\n", r":5: unknown key 'ema:0'", "colon: ema: 0"),
    with_set("override by the bomb", "base=" + "[" * 500, "nested too deeply", "quote"),
]
VALUES = [
    with_set("epsilon zero", "budget.epsilon=0", r"expected budget\.epsilon >= 0\.01, got 0", "loss of this"),
    with_set("epsilon huge", "budget.epsilon=101", r"expected budget\.epsilon <= 100, got 101", "loss of"),
    with_set(
        "epsilon a word", "budget.epsilon=low", r"expected budget\.epsilon to be a number, got 'low'", "l"
    ),
    with_set("epsilon quoted", "budget.epsilon='1'", "to be a number, got '1'", "without the quotes"),
    with_set(
        "delta at 1/population", "budget.delta=1e-3", r"delta < 1/population = 0\.001, got 0\.001", "1e-05"
    ),
    with_set(
        "cap delta at 1/population",
        "budget.cap.epsilon=7 budget.cap.delta=1e-3",
        r"budget\.cap\.delta < 1/population = 0\.001, got 0\.001",
        "publishing one unit outright",
    ),
    with_set("delta zero", "budget.delta=0", r"expected budget\.delta > 1e-15, got 0", "below 1/population"),
    with_set("delta one", "budget.delta=1", r"expected budget\.delta < 1, got 1", "below 1/population"),
    with_set(
        "an unknown unit of Python", "budget.unit=3", "expected budget.unit to be text, got 3", "quotes"
    ),
    with_set("unit empty", "budget.unit=", "expected budget.unit to be text, got null", "column"),
    with_set(
        "adjacency swap", "budget.adjacency=swap", "one of add_remove, zero_out, replace, got", "neighbour"
    ),
    with_set(
        "cap a number", "budget.cap=3", "expected budget.cap to be a mapping of keys, got 3", "over all"
    ),
    with_set(
        "cap below the budget", "budget.cap.epsilon=0.5", "above budget.cap.epsilon 0.5", "lower", code=3
    ),
    with_set(
        "cap delta below",
        "budget.cap.epsilon=1 budget.cap.delta=1e-9",
        "at delta 1e-09, above",
        "raise",
        code=3,
    ),
    with_set("expected above", "mechanism.expected_units=1001", "<= population = 1000, got 1001", "lower"),
    with_set(
        "population a fraction", "mechanism.population=1.5", "to be a whole number, got 1.5", "declared"
    ),
    with_set(
        "population beyond measure", f"mechanism.population={10**400}", "mechanism.population <=", "decl"
    ),
    with_set("steps beyond measure", "mechanism.steps=10000000000", "mechanism.steps <=", "noisy steps"),
    with_set("clipping", "mechanism.clipping=adptive", "per_layer, adaptive, got 'adptive'", "'adaptive'"),
    with_set(
        "clipping without privacy",
        "mechanism.name=none mechanism.clipping=automatic",
        r"to be flat without privacy \(mechanism.name: none\), got 'automatic'",
        "clips nothing",
    ),
    with_set(
        "quantile of flat clipping",
        "mechanism.target_quantile=0.5",
        "expected mechanism.target_quantile to be null with mechanism.clipping flat, got 0.5",
        "no effect",
    ),
    with_set(
        "quantile of one",
        "mechanism.clipping=adaptive mechanism.target_quantile=1",
        "mechanism.target_quantile < 1, got 1",
        "unclipped",
    ),
    with_set(
        "count with too little noise",
        "mechanism.clipping=adaptive mechanism.quantile_noise=0.1",
        "quantile_noise above half the noise multiplier",
        "raise mechanism.quantile_noise",
    ),
    with_set(
        "unknown mechanism", "mechanism.name=dpsdg", "to be one of dpsgd, pe, none, got 'dpsdg'", "'dpsgd'"
    ),
    with_set("limit too small", "mechanism.max_units=50", r"\[expected_units, population\)", "five standard"),
    with_set("limit at population", "mechanism.max_units=1000", r"\[expected_units, population\)", "five"),
    with_set("limit without privacy", "mechanism.name=none mechanism.max_units=200", "null without", "leave"),
    with_set(
        "no population for the limit", "mechanism.population=1 mechanism.max_units=1", "no room", "null"
    ),
    with_set(
        "noise draws zero", "training.noise_draws=0", r"training\.noise_draws >= 1, got 0", "noise draws"
    ),
    with_set("ema one", "training.ema=1", r"expected training\.ema < 1, got 1", "averaging"),
    with_set("unknown optimizer", "training.optimizer=adm", "adam, adamw, adam_bc, got 'adm'", "'adam'"),
    with_set(
        "correction without noise",
        "mechanism.name=none training.optimizer=adam_bc",
        r"another one without privacy \(mechanism.name: none\), got 'adam_bc'",
        "adam;",
    ),
    with_set(
        "layers chosen without noise",
        "mechanism.name=none strategy.name=sapf",
        r"another one without privacy \(mechanism.name: none\), got 'sapf'",
        "lora",
    ),
    with_set(
        "samples of dpsgd",
        "mechanism.samples=100",
        r"mechanism\.samples to be null with mechanism\.name dpsgd, got 100",
        "pe",
    ),
    with_set("public without a place", "training.public={}", r"missing key 'training\.public\.path'", "see"),
    added(
        "public weight",
        "training: {public: {path: x, weight: 0}}\n",
        r"training\.public\.weight > 0, got 0",
        "mean gradient",
    ),
    with_set("augmentations", "training.augmentations=0", "training.augmentations >= 1, got 0", "copies"),
    with_set(
        "kinds of one copy",
        "training.augment=[flip]",
        "expected training.augment to be null with training.augmentations 1, got",
        "no effect",
    ),
    with_set(
        "unknown augmentation",
        "training.augmentations=2 training.augment=[flop]",
        "to be one of flip, shift, got 'flop'",
        "flip",
    ),
    with_set(
        "augmentation twice",
        "training.augmentations=2 training.augment=[flip,flip]",
        "to name flip, shift or both",
        "once",
    ),
    with_set("classes twice", "data.classes=[a,a]", "data.classes to be distinct names", "null takes"),
    with_set("classes numbered", "data.classes=[0]", "data.classes.0 to be text, got 0", "quotes"),
    with_set("mapped without names", "data.base_classes=[1]", "base_classes needs declared", "data.classes"),
    with_set(
        "mapped in part", "data.classes=[a,b] data.base_classes=[1]", "2 entries, .* got 1", "one class of"
    ),
    with_set(
        "mapped twice", "data.classes=[a,b] data.base_classes=[1,1]", "distinct classes .* got 1", "its own"
    ),
    with_set(
        "mapped to a fraction", "data.classes=[a] data.base_classes=[1.5]", "names and whole .*1.5", "by name"
    ),
    with_set("mapped to less", "data.classes=[a] data.base_classes=[-1]", r"numbers from 0, got \[-1", "by"),
    with_set("mapped to yes", "data.classes=[a] data.base_classes=[true]", "numbers from 0, got .True", "by"),
    with_set(
        "mapped by a word", "data.classes=[a] data.base_classes=car", "be a list of .* 'car'", "by name"
    ),
    with_set(
        "classes without labels", "data.classes=[a] data.label=null", "data.label to name", "the column"
    ),
    with_set("resize stretch", "data.resize=stretch", "to be one of fit, crop, got 'stretch'", "pads"),
    with_set("unknown sampler", "generation.sampler=dimm", "to be one of ddim, dpmsolver", "'ddim'"),
    with_set(
        "unknown label rule", "generation.labels=all", "one of uniform, histogram, got 'all'", "same number"
    ),
    with_set(
        "histogram, no classes", "generation.labels=histogram", "needs declared classes", "data.classes"
    ),
    with_set(
        "histogram without labels",
        "generation.labels=histogram data.label=null",
        "for images without labels",
        "uniform",
    ),
    with_set(
        "histogram without privacy",
        "generation.labels=histogram mechanism.name=none",
        "without privacy",
        "uniform",
    ),
    with_set(
        "prompts twice", "generation.prompts=[x,x]", "expected generation.prompts to be distinct", "null"
    ),
    with_set("no prompt", "generation.prompts=[]", "expected generation.prompts to be distinct", "null"),
    with_set(
        "prompts and a histogram",
        "generation.labels=histogram generation.prompts=[x] data.classes=[a,b]",
        "generation.prompts to be null with generation.labels histogram",
        "leave it out",
    ),
    with_set(
        "unknown strategy", "strategy.name=lroa", "to be one of lora, frozen_a, .* got 'lroa'", "'lora'"
    ),
    with_set(
        "rank of attention",
        "strategy.name=attention strategy.rank=8",
        r"strategy\.rank has no effect with strategy\.name attention",
        "one of lora, frozen_a, sapf",
    ),
    with_set(
        "frozen twice",
        "strategy.name=frozen_a strategy.freeze_a=true",
        r"strategy\.freeze_a has no effect with strategy\.name frozen_a",
        "lora",
    ),
    with_set(
        "everything and more",
        "strategy.name=full strategy.also=[norm]",
        r"strategy\.also has no effect with strategy\.name full",
        "attention",
    ),
    with_set(
        "fraction of lora",
        "strategy.fraction=0.5",
        r"strategy\.fraction has no effect with strategy\.name lora",
        "sapf",
    ),
    with_set(
        "no rank", "strategy.rank=null", r"expected strategy\.rank to have a value, got null", "default"
    ),
    with_set("no targets", "strategy.targets=null", r"expected strategy\.targets to have a value", "default"),
    with_set("targets nothing", "strategy.targets=[]", "strategy.targets to be one of", "endings"),
    with_set("also twice", "strategy.also=[bias,bias]", "without repetitions", "once"),
    with_set("also unknown", "strategy.also=[bais]", "one of bias, norm, embedding, got 'bais'", "'bias'"),
    with_set(
        "device gpu", "runtime.device=gpu", "expected runtime.device to be auto, cpu, mps, cuda", "cuda"
    ),
    with_set("compile", "runtime.compile=3", "runtime.compile to be true or false, got 3", "C.. compiler"),
    with_set("rows per pass zero", "runtime.rows_per_pass=0", "auto or a whole number > 0, got 0", "auto"),
    with_set("canaries few", "audit.canaries=3", r"expected audit\.canaries >= 20, got 3", "artificial"),
    with_set("audit unknown", "audit.canary=9", "unknown key 'canary'", "'canaries'"),
    with_set(
        "a hopeless budget", "budget.epsilon=100 mechanism.steps=1", "noise multiplier below", "more", code=3
    ),
    public("odd size", PUBLIC + "model: {size: 27}\n", "a multiple of 4, got 27", "number of widths"),
    public(
        "too little attention", PUBLIC + "model: {attention: [true]}\n", "2 items, one per width", "lists"
    ),
    public(
        "widths", PUBLIC + "model: {widths: [30, 64]}\n", "multiples of norm_groups = 8, got 30", "norm_g"
    ),
    public("attention heads", PUBLIC + "model: {widths: [32, 72]}\n", "multiples of 16, got 72", "head_dim"),
    public("no source", "data: []\n", "expected data to have at least 1 item", "public sources"),
    public("unknown source", "data: [{source: drawn}]\n", "to be one of drawn_digits, files, got 'drawn'"),
    public("source without a kind", "data: [{count: 10}]\n", r"missing key 'data\.0\.source'", None),
    public("a lone source", "data: {source: drawn_digits}\n", "expected data to be a list, got", "sources"),
    public(
        "autoencoder", PUBLIC + "autoencoder: kl\n", "autoencoder to be a mapping of keys, got 'kl'", "null"
    ),
    public(
        "factor", PUBLIC + "autoencoder: {factor: 3}\n", "autoencoder.factor to be one of 2, 4, 8", "pixels"
    ),
    public(
        "patches of latents",
        PUBLIC + "autoencoder: {}\nmodel: {patch: 2}\n",
        "expected model.patch to be 1 with an autoencoder, got 2",
        "leave model.patch out",
    ),
    public(
        "latents too small",
        PUBLIC + "autoencoder: {factor: 8}\n",
        "model.size to be a multiple of 16, got 28",
        "factor",
    ),
    public(
        "a codebook of Gaussians",
        PUBLIC + "autoencoder: {codebook: 64}\n",
        "autoencoder.codebook has no effect with kind kl",
        "leave it out",
    ),
    public(
        "dropped labels of a model without",
        PUBLIC + "model: {conditional: false}\ntraining: {label_dropout: 0.2}\n",
        "label_dropout has no effect without class embeddings",
        "conditional",
    ),
    public("depth", PUBLIC + "model: {channels: 2}\n", "to be one of 1, 3, got 2", "grey"),
]
ROWS = [*TEXTS, *KEYS, *VALUES]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_recipes(row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(row, tmp_path, capsys)


WRONG = [".nan", ".inf", "-1", "0", "1e400", "'10'", "true", "null", "[1]", "1.5", f"{10**30}", ""]
# What some keys do take, of these.
TAKEN = {
    "0": {"training.warmup_steps", "training.ema", "training.label_dropout", "generation.guidance"},
    "null": {"mechanism.max_units", "strategy.alpha", "runtime.threads", "data.0.scan"},
    "": {"mechanism.max_units", "strategy.alpha", "runtime.threads", "data.0.scan"},
    "1.5": {"strategy.alpha", "mechanism.clip_norm", "budget.epsilon", "budget.cap.epsilon"},
}
for nothing in ("null", ""):
    TAKEN[nothing] |= {f"mechanism.{key}" for key in ("target_quantile", "quantile_rate", "quantile_noise")}
for nothing in ("null", ""):
    TAKEN[nothing] |= {"strategy.fraction", "mechanism.samples", "mechanism.threshold", "teacher.clusters"}
TAKEN["0"] |= {"training.seed", "generation.seed", "data.0.fonts"}
TAKEN["1.5"] |= {"training.public.weight", "mechanism.clip_norm", "warmup.learning_rate"}
TAKEN["1.5"] |= {"generation.guidance", "training.learning_rate", "data.0.weight"}
TAKEN["1.5"] |= {"training.save_every_seconds", "runtime.process_timeout"}
for number, keys in {"0": ("warmup_steps", "ema"), "1.5": ("learning_rate",)}.items():
    TAKEN[number] |= {f"autoencoder.{key}" for key in ("kl_weight", "detail_weight", *keys)}


def numeric_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of the keys of a recipe that hold one number."""
    for name, info in model.model_fields.items():
        kinds = getattr(info.annotation, "__args__", (info.annotation,))
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if inner and name != "data":
            yield from numeric_keys(inner[0], f"{prefix}{name}.")
        elif name != "widths" and {int, float} & set(kinds) and info.annotation is not bool:
            yield prefix + name


KEYS_WITH_NUMBERS = [(Recipe, key) for key in numeric_keys(Recipe)]
KEYS_WITH_NUMBERS += [(PretrainRecipe, key) for key in numeric_keys(PretrainRecipe)]
KEYS_WITH_NUMBERS += [(PretrainRecipe, f"data.0.{key}") for key in ("count", "fonts", "scan", "weight")]


@pytest.mark.parametrize(
    ("kind", "key"), KEYS_WITH_NUMBERS, ids=lambda value: getattr(value, "__name__", value)
)
def test_numbers_that_are_none(
    kind: Any, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    good = GOOD.replace("1}", "1, cap: {epsilon: 1}}") + "training: {public: {path: shown}}\n"
    path.write_text(good if kind is Recipe else PUBLIC)
    for value in WRONG:
        if key in TAKEN.get(value, ()):
            assert kind.load(path, [f"{key}={value}"])
            continue
        with pytest.raises(RecipeError) as caught:
            kind.load(path, [f"{key}={value}"])
        assert report(caught.value) == 2
        last = key.rpartition(".")[2]
        is_well_said(rf"--set [^ ]*: expected .*{last}", "", capsys.readouterr().err)


def test_every_numeric_key_is_tried() -> None:
    assert len(KEYS_WITH_NUMBERS) >= 40
    assert math.isinf(float(WRONG[4]))
