"""One frozen tree, GanConfig: everything that decides what is computed. Keys are the same in YAML, on the command line and in MLflow."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, create_model, field_validator, model_validator

from gan_core import registry
from gan_core.losses import LOSSES
from gan_core.ratio import StepRatio
from gan_core.regularizers import REGULARIZERS
from gan_core.schema import Section, checked_keywords
from gan_core.variants import VARIANTS

Precision = Literal["auto", "float32", "bfloat16", "float64"]
Kimg = Annotated[float, Field(gt=0.0)]
Whole = Annotated[int, Field(gt=0)]

# Keys that may change when a run is resumed: when to stop and look, and where the same data lies (its content is compared).
FREE_ON_RESUME = (
    "total_kimg",
    "schedule.",
    *(f"diagnostics.{key}" for key in ("enabled", "images", "collapse", "saturation", "overfitting", "divergence", "patience")),
    "data.path",
    "data.cache_dir",
    "data.max_corrupt_fraction",
)
SUPPLIED_BY_DATA = frozenset({"resolution", "channels", "num_classes"})


class DataConfig(Section):
    """`name` is a file in gan_core/data; the other keys are the keyword arguments of its `load`."""

    model_config = ConfigDict(extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "name" not in given:
            return given
        options = {key: value for key, value in given.items() if key != "name"}
        load = registry.find("gan_core.data", str(given["name"])).load
        return {"name": str(given["name"]), **checked_keywords("data", load, options)}

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments for the data set's `load`."""
        return dict(self.model_extra or {})


class NetworkConfig(Section):
    """`name` is a file in gan_core/networks; `generator` and `discriminator` hold keyword arguments of its two functions.

    The discriminator judges `packing` images at once: PacGAN (1712.04086).
    """

    name: str
    z_dim: Whole = 64
    conditional: bool = False
    packing: Whole = 1
    generator: dict[str, Any] = Field(default_factory=dict)
    discriminator: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "name" not in given:
            return given
        module = registry.find("gan_core.networks", str(given["name"]))
        completed = dict(given)
        for player, supplied in (("generator", SUPPLIED_BY_DATA | {"z_dim"}), ("discriminator", SUPPLIED_BY_DATA)):
            options = given.get(player) or {}
            if not isinstance(options, dict):
                raise ValueError(f"network.{player}: must hold keys and values, given {options!r}")
            completed[player] = checked_keywords(f"network.{player}", getattr(module, player), options, supplied=supplied)
        return completed


class LossConfig(Section):
    """`name` is a key of gan_core.losses.LOSSES; `generator_objective` chooses between the two of an f-GAN (1606.00709, section 3.2)."""

    name: str = "non_saturating"
    generator_objective: Literal["exact", "alternative"] = "exact"

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        registry.require_choice("loss", name, LOSSES)
        return name

    @model_validator(mode="after")
    def _has_alternative(self) -> Self:
        if self.generator_objective == "alternative" and LOSSES[self.name].alternative_generator is None:
            with_one = ", ".join(name for name, loss in LOSSES.items() if loss.alternative_generator is not None)
            raise ValueError(
                f"loss.generator_objective: the loss '{self.name}' has one objective only; those with an alternative: {with_one}"
            )
        return self


_penalty_fields: dict[str, Any] = {}
for _name, _regularizer in REGULARIZERS.items():
    _penalty_fields[_regularizer.weight_key] = (Annotated[float, Field(ge=0.0)], 0.0)
    _penalty_fields[f"{_name}_interval"] = (Whole, 1)
_PenaltyFields = create_model("RegularizersConfig", __base__=Section, **_penalty_fields)


class RegularizersConfig(_PenaltyFields):
    """A weight and an interval for each of gan_core.regularizers.REGULARIZERS; a weight of 0 is off, an interval above 1 is lazy.

    `clip_weight` bounds every weight of the discriminator after each of its steps (1701.07875, algorithm 1), null for no bound;
    `spectral_norm` divides each of its layers by its largest singular value (1802.05957).
    """

    clip_weight: Annotated[float, Field(gt=0.0)] | None = None
    spectral_norm: bool = False

    @model_validator(mode="after")
    def _intervals_have_weights(self) -> Self:
        for name, regularizer in REGULARIZERS.items():
            if self.interval(name) > 1 and self.weight(name) == 0.0:
                raise ValueError(f"regularizers.{name}_interval has no effect, because regularizers.{regularizer.weight_key} is 0")
        return self

    def weight(self, name: str) -> float:
        """The weight in the config, not yet times the regulariser's factor."""
        return float(getattr(self, REGULARIZERS[name].weight_key))

    def interval(self, name: str) -> int:
        """Every how many discriminator steps it acts."""
        return int(getattr(self, f"{name}_interval"))

    @property
    def in_force(self) -> list[str]:
        """Those with a weight, in the order of REGULARIZERS."""
        return [name for name in REGULARIZERS if self.weight(name) > 0.0]


class StepRatioScheduleConfig(Section):
    """How the step ratio changes in a run; null is off.

    `warmup_ratio` holds for the first `warmup_kimg`. With `advantage_low` and `advantage_high` the ratio moves, every `adjust_kimg` and
    between `lowest` and `highest`, so that the discriminator's advantage (share of reals judged rightly plus that of fakes, minus 1)
    stays between them; `step_ratio` is then the first one.
    """

    warmup_ratio: str | None = None
    warmup_kimg: Kimg | None = None
    advantage_low: Annotated[float, Field(ge=-1.0, le=1.0)] | None = None
    advantage_high: Annotated[float, Field(ge=-1.0, le=1.0)] | None = None
    adjust_kimg: Kimg = 2.0
    lowest: str = "1:4"
    highest: str = "8:1"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.warmup_ratio is None) != (self.warmup_kimg is None):
            raise ValueError("step_ratio_schedule: warmup_ratio and warmup_kimg belong together; give both or neither")
        if self.warmup_ratio is not None:
            StepRatio.parse(self.warmup_ratio, "step_ratio_schedule.warmup_ratio")
        if (self.advantage_low is None) != (self.advantage_high is None):
            raise ValueError("step_ratio_schedule: advantage_low and advantage_high belong together; give both or neither")
        if self.advantage_low is not None and self.advantage_high is not None and self.advantage_low >= self.advantage_high:
            raise ValueError(f"step_ratio_schedule: advantage_low {self.advantage_low} must be below advantage_high {self.advantage_high}")
        ladder = [StepRatio.parse(getattr(self, key), f"step_ratio_schedule.{key}").rung for key in ("lowest", "highest")]
        if ladder[0] is None or ladder[1] is None or ladder[0] > ladder[1]:
            raise ValueError(
                f"step_ratio_schedule: lowest {self.lowest} and highest {self.highest} must be d:1 or 1:g, with lowest the one that gives "
                f"the discriminator less"
            )
        return self

    @property
    def steers(self) -> bool:
        """Whether the ratio follows the discriminator's advantage."""
        return self.advantage_low is not None


class AdamConfig(Section):
    """Adam (1412.6980); `clip_norm` bounds the norm of the whole gradient, null for no bound."""

    lr: Annotated[float, Field(gt=0.0)] = 2e-4
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    eps: Annotated[float, Field(gt=0.0)] = 1e-8
    clip_norm: Annotated[float, Field(gt=0.0)] | None = None


class OptimizerConfig(Section):
    """One Adam for each player; different rates are TTUR (1706.08500). Defaults are DCGAN's (1511.06434, section 4)."""

    generator: AdamConfig = AdamConfig()
    discriminator: AdamConfig = AdamConfig()


class ScheduleConfig(Section):
    """When to look, in thousands of real images. A checkpoint is always evaluated, so that the best one is known."""

    report_kimg: Kimg = 5.0
    sample_kimg: Kimg = 50.0
    evaluate_kimg: Kimg = 50.0
    checkpoint_kimg: Kimg = 50.0
    sample_count: Annotated[int, Field(gt=0, le=1024)] = 64
    evaluate_count: Annotated[int, Field(gt=1)] = 1000


class DiagnosticsConfig(Section):
    """What is measured at each report beside the losses, and when an alarm goes off; null turns an alarm off.

    `held_out` is the share of the data that is never trained on. Alarms, after `patience` reports in a row: `collapse` below a ratio of
    feature variances fake/real, `saturation` above a share of fakes without gradient, `overfitting` above a difference of D's
    accuracy on training and held-out reals, `divergence` above a gradient norm.
    """

    enabled: bool = True
    images: Annotated[int, Field(gt=1)] = 128
    held_out: Annotated[float, Field(ge=0.0, le=0.5)] = 0.05
    collapse: Annotated[float, Field(gt=0.0)] | None = 0.05
    saturation: Annotated[float, Field(ge=0.0, le=1.0)] | None = 0.9
    overfitting: Annotated[float, Field(ge=0.0, le=1.0)] | None = 0.3
    divergence: Annotated[float, Field(gt=0.0)] | None = 10_000.0
    patience: Whole = 3


class GanConfig(Section):
    """What is computed. `batch_size` is global, over all ranks; budgets are in real images shown to the discriminator.

    `variant` names a preset of gan_core.variants.VARIANTS, for the keys that are not given beside it.
    """

    data: DataConfig
    network: NetworkConfig
    variant: str | None = None
    loss: LossConfig = LossConfig()
    regularizers: RegularizersConfig = RegularizersConfig()
    step_ratio: str = "1:1"
    step_ratio_schedule: StepRatioScheduleConfig = StepRatioScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: Whole = 64
    accumulation_steps: Whole = 1
    ema_halflife_kimg: Annotated[float, Field(gt=0.0)] | None = 10.0
    precision: Precision = "auto"
    total_kimg: Kimg = 100.0
    seed: Annotated[int, Field(ge=0)] = 0
    schedule: ScheduleConfig = ScheduleConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()

    @field_validator("step_ratio", mode="before")
    @classmethod
    def _ratio(cls, text: object) -> str:
        ratio = StepRatio.parse(text)
        return f"{ratio.d}:{ratio.g}"

    @property
    def ratio(self) -> StepRatio:
        return StepRatio.parse(self.step_ratio)

    @model_validator(mode="before")
    @classmethod
    def _expand_variant(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("variant") is None:
            return given
        registry.require_choice("variant", str(given["variant"]), VARIANTS)
        return under(given, VARIANTS[str(given["variant"])])

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        loss = LOSSES[self.loss.name]
        if self.variant is not None and VARIANTS[self.variant]["loss"]["name"] != self.loss.name:
            raise ValueError(
                f"loss.name: the variant '{self.variant}' has the loss '{VARIANTS[self.variant]['loss']['name']}', given "
                f"'{self.loss.name}'; set variant=null to choose a loss by itself"
            )
        if self.accumulation_steps > 1 and (loss.across_batch or loss.on_witness):
            raise ValueError(
                f"accumulation_steps: the loss '{self.loss.name}' compares samples across the batch, which cannot be divided; set it to 1"
            )
        if self.network.packing > 1 and self.network.conditional:
            raise ValueError("network.packing: packed images would need one class; set network.conditional to false, or packing to 1")
        if self.step_ratio_schedule.steers:
            ends = [StepRatio.parse(text).rung for text in (self.step_ratio_schedule.lowest, self.step_ratio_schedule.highest)]
            rung = self.ratio.rung
            if rung is None or not (ends[0] or 0) <= rung <= (ends[1] or 0):
                raise ValueError(
                    f"step_ratio: {self.step_ratio} is not between step_ratio_schedule.lowest {self.step_ratio_schedule.lowest} and "
                    f"highest {self.step_ratio_schedule.highest} as d:1 or 1:g"
                )
        return self

    def require_divisible(self, ranks: int) -> None:
        """Check that every rank, in every accumulation step, gets the same whole number of decisions.

        Raises:
            ValueError: with the nearest batch sizes that would do.
        """
        parts = ranks * self.accumulation_steps * self.network.packing
        if self.batch_size % parts:
            below, above = self.batch_size // parts * parts, (self.batch_size // parts + 1) * parts
            share = f"{ranks} ranks"
            share += f" x {self.accumulation_steps} accumulation steps" if self.accumulation_steps > 1 else ""
            share += f" x {self.network.packing} packed images" if self.network.packing > 1 else ""
            near = f"{below} or {above}" if below else f"{above}"
            raise ValueError(f"batch_size {self.batch_size} is not divisible by {share}; try {near}")


def under(given: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    """`given` with what it lacks taken from `preset`, section by section."""
    merged = {**preset, **given}
    for key, value in preset.items():
        if isinstance(value, dict) and isinstance(given.get(key), dict):
            merged[key] = under(given[key], value)
    return merged
