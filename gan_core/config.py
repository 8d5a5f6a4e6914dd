"""One frozen tree, GanConfig: everything that decides what is computed. Keys are the same in YAML, on the command line and in MLflow."""

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, field_validator, model_validator

from gan_core import registry
from gan_core.losses import LOSSES
from gan_core.schema import Section, checked_keywords

Precision = Literal["auto", "float32", "bfloat16", "float64"]
Kimg = Annotated[float, Field(gt=0.0)]
Whole = Annotated[int, Field(gt=0)]

# Keys that may change when a run is resumed: when to stop and look, and where the same data lies (its content is compared).
FREE_ON_RESUME = ("total_kimg", "schedule.", "data.path", "data.cache_dir", "data.max_corrupt_fraction")
SUPPLIED_BY_DATA = frozenset({"resolution", "channels", "num_classes"})


class StepRatio(NamedTuple):
    """`d` discriminator steps, then `g` generator steps: one round. Goodfellow et al. 2014, algorithm 1, has k:1."""

    d: int
    g: int

    @classmethod
    def parse(cls, text: object) -> "StepRatio":
        """Read "5:1".

        Raises:
            ValueError: not two whole numbers above zero.
        """
        match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", str(text))
        if match is None:
            raise ValueError(
                f'step_ratio: {text!r} is not d:g with two whole numbers above 0, such as "5:1" (5 discriminator steps, then 1 '
                f'generator step) or "1:2"'
            )
        return cls(int(match[1]), int(match[2]))


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
    """`name` is a file in gan_core/networks; `generator` and `discriminator` hold keyword arguments of its two functions."""

    name: str
    z_dim: Whole = 64
    conditional: bool = False
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
    """`name` is a key of gan_core.losses.LOSSES."""

    name: str = "non_saturating"

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        registry.require_choice("loss", name, LOSSES)
        return name


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


class GanConfig(Section):
    """What is computed. `batch_size` is global, over all ranks; budgets are in real images shown to the discriminator."""

    data: DataConfig
    network: NetworkConfig
    loss: LossConfig = LossConfig()
    step_ratio: str = "1:1"
    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: Whole = 64
    accumulation_steps: Whole = 1
    ema_halflife_kimg: Annotated[float, Field(gt=0.0)] | None = 10.0
    precision: Precision = "auto"
    total_kimg: Kimg = 100.0
    seed: Annotated[int, Field(ge=0)] = 0
    schedule: ScheduleConfig = ScheduleConfig()

    @field_validator("step_ratio", mode="before")
    @classmethod
    def _ratio(cls, text: object) -> str:
        ratio = StepRatio.parse(text)
        return f"{ratio.d}:{ratio.g}"

    @property
    def ratio(self) -> StepRatio:
        return StepRatio.parse(self.step_ratio)

    def require_divisible(self, ranks: int) -> None:
        """Check that every rank, in every accumulation step, gets the same whole number of images.

        Raises:
            ValueError: with the nearest batch sizes that would do.
        """
        parts = ranks * self.accumulation_steps
        if self.batch_size % parts:
            below, above = self.batch_size // parts * parts, (self.batch_size // parts + 1) * parts
            share = f"{ranks} ranks" + (f" x {self.accumulation_steps} accumulation steps" if self.accumulation_steps > 1 else "")
            near = f"{below} or {above}" if below else f"{above}"
            raise ValueError(f"batch_size {self.batch_size} is not divisible by {share}; try {near}")
