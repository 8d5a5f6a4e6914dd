"""One frozen tree, GanConfig: everything that decides what is computed. Keys are the same in YAML, on the command line and in MLflow."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from gan_core import registry
from gan_core.losses import LOSSES
from gan_core.ratio import StepRatio
from gan_core.schema import Section, checked_keywords, keyword_schema
from gan_core.sections import (
    AugmentConfig,
    DiagnosticsConfig,
    EvaluationConfig,
    Kimg,
    LossConfig,
    OptimizerConfig,
    RegularizersConfig,
    ScheduleConfig,
    StepRatioScheduleConfig,
    Whole,
)
from gan_core.variants import VARIANTS
from gan_core.wording import brief

Precision = Literal["auto", "float32", "bfloat16", "float64"]

# Keys that may change when a run is resumed: when to stop and look, and where the same data lies (its content is compared).
FREE_ON_RESUME = (
    "total_kimg",
    "schedule.",
    "speed.",
    *(f"diagnostics.{key}" for key in ("enabled", "images", "collapse", "saturation", "overfitting", "divergence", "patience")),
    "data.path",
    "data.cache_dir",
    "data.max_corrupt_fraction",
    "evaluation.extractor.path",
    "evaluation.extractor.weights",
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
        for key in given.keys() - cls.model_fields.keys():
            players = [player for player in ("generator", "discriminator") if key in keyword_schema(getattr(module, player)).model_fields]
            if players:
                meant = " or ".join(f"network.{player}.{key}" for player in players)
                raise ValueError(f"unknown key 'network.{key}'; did you mean {meant}?")
        for player, supplied in (("generator", SUPPLIED_BY_DATA | {"z_dim"}), ("discriminator", SUPPLIED_BY_DATA)):
            options = given.get(player) or {}
            if not isinstance(options, dict):
                raise ValueError(f"network.{player}: must hold keys and values, given {brief(options)}")
            completed[player] = checked_keywords(f"network.{player}", getattr(module, player), options, supplied=supplied)
        return completed


class SpeedConfig(Section):
    """How the same numbers, up to rounding, are computed sooner.

    `cuda_graphs` records whole steps on a CUDA GPU and replays them; `compile` runs the networks through torch.compile, after a check that
    they compute the same. `data_on_device` keeps pixels on the GPU; null does so where they take a quarter of its free memory at most.
    """

    cuda_graphs: bool = False
    compile: bool = False
    data_on_device: bool | None = None


class GanConfig(Section):
    """What is computed. `batch_size` is global, over all ranks; budgets are in real images shown to the discriminator.

    `variant` names a preset of gan_core.variants.VARIANTS, for the keys that are not given beside it. With `reuse_fakes` the first step of
    the generator in a round takes the fakes that the discriminator was shown last, in place of new ones: one forward pass less.
    """

    data: DataConfig
    network: NetworkConfig
    variant: str | None = None
    loss: LossConfig = LossConfig()
    regularizers: RegularizersConfig = RegularizersConfig()
    augment: AugmentConfig = AugmentConfig()
    step_ratio: str = "1:1"
    step_ratio_schedule: StepRatioScheduleConfig = StepRatioScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: Whole = 64
    accumulation_steps: Whole = 1
    reuse_fakes: bool = False
    ema_halflife_kimg: Annotated[float, Field(gt=0.0)] | None = 10.0
    precision: Precision = "auto"
    total_kimg: Kimg = 100.0
    seed: Annotated[int, Field(ge=0)] = 0
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()
    speed: SpeedConfig = SpeedConfig()

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
    def _consistent(self) -> "GanConfig":
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
        if self.reuse_fakes and self.accumulation_steps > 1:
            raise ValueError("reuse_fakes: keeps the graph of the whole batch, which accumulation_steps is to divide; set it to false")
        if loss.on_witness and self.network.conditional:
            raise ValueError(f"network.conditional: the loss '{self.loss.name}' reads features that know no classes; set it to false")
        if self.regularizers.spectral_norm and self.regularizers.clip_weight is not None:
            raise ValueError("regularizers.clip_weight: spectral_norm rescales what is clipped; set one of them to null or false")
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
