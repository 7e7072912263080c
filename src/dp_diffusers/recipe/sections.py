"""The sections of a fine-tuning recipe: every key with its type, range, default and purpose.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design; each description is the only source of help texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from dp_diffusers.recipe.problems import RefusedValueError, Section, shown

MOST_STEPS = 10**8  # the accountant takes minutes beyond it
MOST_UNITS = 10**12
MOST_ROWS = 10**6
SEEDS = 2**63 - 1
PARQUET_SUFFIXES = (".parquet", ".pq")
Target = Literal["attention", "linear", "convolution", "all"]
Timesteps = Literal["uniform", "logit_normal", "high_noise"]


def _targets(value: object) -> object:
    """`attention`, `linear`, `convolution`, `all`, or a list of module name endings."""
    known = get_args(Target)
    if isinstance(value, str) and value in known:
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
        return value
    message = (
        f"expected strategy.targets to be one of {', '.join(known)}, or a list of names, got {shown(value)}"
    )
    raise RefusedValueError(message, "a list holds endings of module names, as in [to_q, to_v]")


def _rows(value: object) -> object:
    """`auto` or a whole number > 0."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9):
        return value
    raise RefusedValueError(
        f"expected runtime.rows_per_pass to be auto or a whole number > 0, got {shown(value)}",
        "auto takes 256 rows or fewer",
    )


def _only(key: str, value: object, hint: str) -> AfterValidator:
    """Refuses all but `value`: nobody shall believe in a setting that has no effect."""

    def check(given: Any) -> Any:
        if given != value:
            raise RefusedValueError(
                f"expected {key} to be {shown(value)} in this version, got {shown(given)}", hint
            )
        return given

    return AfterValidator(check)


NO_CAPTIONS = "pixel models learn from labels and take no captions; leave it out"


class DataSettings(Section):
    """The private images."""

    path: str = Field(min_length=1, description="private images: a folder or a parquet file")
    label: str | None = Field(
        description="`folder` (class folders), a label column, null (no labels), or `auto`: the column "
        "`label` of parquet files, else class folders"
    )
    classes: list[str] | None = Field(
        default=None,
        description="class names in order; null takes them from the data, and the certificate says so",
    )
    caption: Annotated[str | None, _only("data.caption", None, NO_CAPTIONS)] = Field(
        default=None, description="caption of an image: null in this version"
    )
    resize: Literal["fit", "crop"] | None = Field(
        default=None,
        description="`fit` pads, `crop` cuts to a square of the model's size; null resizes square images of "
        "one other size and says so; mixed sizes are refused",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_label(cls, value: Any) -> Any:
        if isinstance(value, dict) and "label" not in value:
            suffix = Path(str(value.get("path", ""))).suffix.lower()
            return {**value, "label": "label" if suffix in PARQUET_SUFFIXES else "auto"}
        return value

    @field_validator("classes")
    @classmethod
    def _distinct(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and (not names or len(set(names)) < len(names) or "" in names):
            raise RefusedValueError(
                "expected data.classes to be distinct names, at least one", "null takes the data's"
            )
        return names


class CapSettings(Section):
    """The limit of a data set over all of its runs."""

    epsilon: float = Field(ge=0.01, le=100, description="limit of the sum over runs")
    delta: float = Field(default=1e-5, gt=1e-15, lt=1, description="limit of the sum over runs")


class BudgetSettings(Section):
    """What may be spent, and where it is written down."""

    epsilon: float = Field(ge=0.01, le=100, description="privacy loss of this run at most; smaller is safer")
    delta: float = Field(gt=1e-15, lt=1, description="must be below 1/population")
    unit: str = Field(
        default="image",
        min_length=1,
        description="`image`, or the column that names a person, of the parquet file (lists, where images "
        "show several) or of the folder's metadata.csv",
    )
    adjacency: Literal["add_remove", "zero_out", "replace"] = Field(
        default="add_remove",
        description="what neighbouring data sets differ by: one unit's presence, its images against none "
        "(`zero_out`), or its images against any others (`replace`, about twice the epsilon)",
    )
    ledger: str | None = Field(
        default=None, min_length=1, description="ledger of the data set; null: beside data.path"
    )
    cap: CapSettings | None = Field(
        default=None, description="limit of the data set over all runs (default: this budget); null: no limit"
    )

    @model_validator(mode="before")
    @classmethod
    def _delta_of_the_cap(cls, value: Any) -> Any:
        """A cap without delta has the budget's."""
        cap = value.get("cap") if isinstance(value, dict) else None
        delta = value.get("delta") if isinstance(value, dict) else None
        if isinstance(cap, dict) and "delta" not in cap and isinstance(delta, float) and 1e-15 < delta < 1:
            return {**value, "cap": {**cap, "delta": delta}}
        return value

    @model_validator(mode="after")
    def _cap_is_the_budget(self) -> BudgetSettings:
        if "cap" not in self.model_fields_set:
            cap = CapSettings(epsilon=self.epsilon, delta=self.delta)
            object.__setattr__(self, "cap", cap)
        return self


class MechanismSettings(Section):
    """How privacy is bought: all of it public and fixed before the run."""

    name: Literal["dpsgd", "none"] = Field(
        default="dpsgd", description="`none` is the non-private run, for ceilings only"
    )
    steps: int = Field(default=200, ge=1, le=MOST_STEPS, description="noisy steps")
    expected_units: int = Field(
        ge=1, le=MOST_UNITS, description="mean number of units in a step (default: a tenth, at most 4096)"
    )
    population: int = Field(
        ge=1, le=MOST_UNITS, description="declared public number of units in the data; never counted"
    )
    clip_norm: float = Field(default=1.0, gt=0, le=1e6, description="how far one unit can move a step")
    clipping: Literal["flat"] = Field(default="flat", description="clipping rule")
    max_units: int | None = Field(
        default=None,
        ge=1,
        le=MOST_UNITS,
        description="hard limit of a step, drawn from exactly `population` slots; free at five standard "
        "deviations above expected_units; null: none",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_expected_units(cls, value: Any) -> Any:
        if isinstance(value, dict) and "expected_units" not in value:
            population = value.get("population")
            units = population // 10 if isinstance(population, int) else 1
            return {**value, "expected_units": min(4096, max(1, units))}
        return value


class StrategySettings(Section):
    """Which parameters are trained."""

    name: Literal["lora"] = Field(default="lora", description="fine-tuning strategy")
    rank: int = Field(default=8, ge=1, le=MOST_ROWS, description="rank of the adapters")
    alpha: float | None = Field(
        default=None, gt=0, le=1e6, description="scale of the adapters; null: the rank"
    )
    targets: Annotated[Target | list[str], BeforeValidator(_targets)] = Field(
        default="attention", description="attention, linear, convolution, all, or endings of module names"
    )
    freeze_a: bool = Field(default=False, description="train only the B half of each adapter")
    also: list[Literal["bias", "norm", "embedding"]] = Field(
        default_factory=list, description="trained besides the adapters: bias, norm, embedding"
    )


class TrainingSettings(Section):
    """How the model learns; nothing here can change epsilon."""

    noise_draws: int = Field(
        default=4, ge=1, le=MOST_ROWS, description="noise draws per image and step, averaged before the clip"
    )
    augmentations: Annotated[
        int, _only("training.augmentations", 1, "noise_draws makes several rows of an image")
    ] = Field(default=1, description="augmented copies per image: 1 in this version")
    max_images_per_unit: int = Field(
        default=8, ge=1, le=MOST_ROWS, description="images of one unit used in a step at most"
    )
    learning_rate: float = Field(default=1e-3, gt=0, le=1e3, description="step size")
    optimizer: Literal["sgd", "adam", "adamw"] = Field(default="adam", description="sgd, adam or adamw")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="learning rate after the warm-up"
    )
    warmup_steps: int = Field(
        default=0, ge=0, le=MOST_STEPS, description="steps until the learning rate is reached"
    )
    ema: float = Field(default=0.95, ge=0, lt=1, description="averaging of weights per step; 0 is off")
    timesteps: Timesteps = Field(default="uniform", description="distribution of the noise level")
    label_dropout: float = Field(default=0.1, ge=0, lt=1, description="share of rows trained without label")
    seed: int = Field(default=0, ge=0, le=SEEDS, description="initial adapters only; never the noise")


class RuntimeSettings(Section):
    """Where it runs; may change on resume."""

    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, mps"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of the forward and backward pass (autocast); norms, clip, sums and noise stay float32 "
        "or better",
    )
    rows_per_pass: Annotated[Literal["auto"] | int, BeforeValidator(_rows)] = Field(
        default="auto", description="rows in memory at once"
    )
    compile: Annotated[bool, _only("runtime.compile", False, "models are not compiled; leave it out")] = (
        Field(default=False, description="torch.compile: false in this version")
    )


class GenerationSettings(Section):
    """The synthetic images."""

    images: int = Field(default=10_000, ge=1, le=10**9, description="number of synthetic images")
    labels: Literal["uniform", "histogram"] = Field(
        default="uniform",
        description="`uniform`: the same number of each class; `histogram`: as the private images have them, "
        "by noisy counts that the training pays for once, with about a tenth of epsilon",
    )
    prompts: Annotated[list[str] | None, _only("generation.prompts", None, NO_CAPTIONS)] = Field(
        default=None, description="prompts of a text-to-image model: null in this version"
    )
    sampler: Literal["ddim", "dpmsolver++"] = Field(default="ddim", description="ddim or dpmsolver++")
    steps: int = Field(default=25, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(default=1.0, ge=0, le=1e3, description="classifier-free guidance; 1 is off")
    seed: int = Field(default=0, ge=0, le=SEEDS, description="one random stream per image")


class AuditSettings(Section):
    """The empirical check of epsilon, without private data; `dp-diffusers audit` makes it."""

    public: str | None = Field(
        default=None,
        min_length=1,
        description="public images, a folder or a parquet file, to train beside the canaries; null: "
        "procedural ones of the base's size",
    )
    canaries: int = Field(
        default=1000,
        ge=20,
        le=MOST_ROWS,
        description="artificial units, each in or out by a fair coin; more see more",
    )
