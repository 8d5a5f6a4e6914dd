"""The sections of the config that stand on their own: each a frozen part of GanConfig with its defaults, bounds and checks."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, create_model, field_validator, model_validator

from gan_core import registry
from gan_core.losses import LOSSES
from gan_core.measures import MEASURES, scores_of
from gan_core.ratio import StepRatio
from gan_core.regularizers import REGULARIZERS
from gan_core.schema import Section, checked_keywords, keyword_schema
from gan_core.wording import brief

Kimg = Annotated[float, Field(gt=0.0)]
Whole = Annotated[int, Field(gt=0)]
DEFAULT_METRICS = ("kernel_distance", "mode_coverage")  # the second where the data are points of a known mixture
SUPPLIED_TO_EXTRACTORS = frozenset({"device", "cache_dir"})


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
    def _has_alternative(self) -> "LossConfig":
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

    `path_length_weight` and `path_length_interval` are those of the generator's own penalty (1912.04958, section 3.2).
    `clip_weight` bounds every weight of the discriminator after each of its steps (1701.07875, algorithm 1), null for no bound;
    `spectral_norm` divides each of its layers by its largest singular value (1802.05957).
    """

    path_length_weight: Annotated[float, Field(ge=0.0)] = 0.0
    path_length_interval: Whole = 1
    clip_weight: Annotated[float, Field(gt=0.0)] | None = None
    spectral_norm: bool = False

    @model_validator(mode="after")
    def _intervals_have_weights(self) -> "RegularizersConfig":
        for name, regularizer in REGULARIZERS.items():
            if self.interval(name) > 1 and self.weight(name) == 0.0:
                raise ValueError(f"regularizers.{name}_interval has no effect, because regularizers.{regularizer.weight_key} is 0")
        if self.path_length_interval > 1 and self.path_length_weight == 0.0:
            raise ValueError("regularizers.path_length_interval has no effect, because regularizers.path_length_weight is 0")
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
    def _whole(self) -> "StepRatioScheduleConfig":
        if (self.warmup_ratio is None) != (self.warmup_kimg is None):
            raise ValueError("step_ratio_schedule: warmup_ratio and warmup_kimg belong together; give both or neither")
        if self.warmup_ratio is not None:
            StepRatio.parse(self.warmup_ratio, "step_ratio_schedule.warmup_ratio")
        if (self.advantage_low is None) != (self.advantage_high is None):
            raise ValueError("step_ratio_schedule: advantage_low and advantage_high belong together; give both or neither")
        if self.advantage_low is not None and self.advantage_high is not None and self.advantage_low >= self.advantage_high:
            raise ValueError(f"step_ratio_schedule: advantage_low {self.advantage_low} must be below advantage_high {self.advantage_high}")
        unused = [key for key in ("adjust_kimg", "lowest", "highest") if getattr(self, key) != type(self).model_fields[key].default]
        if unused and not self.steers:
            raise ValueError(f"step_ratio_schedule.{unused[0]} has no effect without advantage_low and advantage_high")
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
    """Adam (1412.6980); `clip_norm` bounds the norm of the whole gradient, that of a lazy penalty's own step too, null for no bound."""

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


class ExtractorConfig(Section):
    """`name` is a file in gan_core/extractors; the other keys are the keyword arguments of its `build`."""

    model_config = ConfigDict(extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "name" not in given:
            return given
        options = {key: value for key, value in given.items() if key != "name"}
        build = registry.find("gan_core.extractors", str(given["name"])).build
        return {"name": str(given["name"]), **checked_keywords("extractor", build, options, supplied=SUPPLIED_TO_EXTRACTORS)}

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments for the extractor's `build`."""
        return dict(self.model_extra or {})


class EvaluationConfig(Section):
    """How generators are scored in training: `fake_count` fakes against `real_count` of the training images, or all where that is null.

    `metrics` are keys of gan_core.measures.MEASURES; null is kernel_distance, and mode_coverage too for the points of a known mixture.
    `objective` is the score that decides which checkpoint is the best, such as `score` or `fd_lenet`; a run whose objective cannot be
    measured stops. Null is the first score of the first metric; where that cannot be measured the run goes on, without a best checkpoint.
    """

    extractor: ExtractorConfig = ExtractorConfig(name="pixels")
    metrics: tuple[str, ...] | None = None
    real_count: Annotated[int, Field(gt=1)] | None = 1000
    fake_count: Annotated[int, Field(gt=1)] = 1000
    objective: str | None = None

    @field_validator("metrics", mode="before")
    @classmethod
    def _list(cls, metrics: object) -> object:
        if isinstance(metrics, str):
            raise ValueError(f"evaluation.metrics: is a list, given {brief(metrics)}; write [{brief(metrics)[1:-1]}]")
        return metrics

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if metrics == ():
            raise ValueError(f"evaluation.metrics: is empty; null is the default, and there are {', '.join(MEASURES)}")
        for name in metrics or ():
            registry.require_choice("metric", name, MEASURES)
        return metrics

    @model_validator(mode="after")
    def _measures_objective(self) -> "EvaluationConfig":
        if self.objective is None:
            return self
        directions = scores_of(self.metrics or DEFAULT_METRICS, self.extractor.name)
        ranking = [name for name, better in directions.items() if better]
        if self.objective not in ranking:
            raise ValueError(
                f"evaluation.objective: {brief(self.objective)[1:-1]} is not among the scores of these metrics that have a better side"
                f"{registry.suggestion(self.objective, ranking)}: {', '.join(ranking)}; give evaluation.metrics with its metric"
            )
        return self


class AugmentConfig(Section):
    """What happens to images before the discriminator sees them; `name` is a file in gan_core/augmentations, null for nothing.

    `mirror` mirrors each real image with probability 1/2, as if the data held its mirror images too; fakes are left as they are. The named
    augmentation acts on both sides, each transformation with `probability`; null is one that adapts so that D's overfitting on reals,
    E[sign D], comes to `target`, from 0 to 1 in `full_kimg` at least (2006.06676, section 3.1). Other keys are the keyword arguments of its
    `augmentation`.
    """

    model_config = ConfigDict(extra="allow")
    name: str | None = None
    mirror: bool = False
    probability: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    target: Annotated[float, Field(gt=-1.0, lt=1.0)] = 0.6
    full_kimg: Kimg = 500.0

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        options = {key: value for key, value in given.items() if key not in cls.model_fields}
        own = {key: value for key, value in given.items() if key in cls.model_fields}
        if given.get("name") is None:
            unused = [key for key in given if key not in ("name", "mirror") and (key in options or given[key] != cls._default(key))]
            if unused:
                raise ValueError(f"augment.{unused[0]} has no effect without augment.name; set it to {' or '.join(cls.names())}")
            return own
        module = registry.find("gan_core.augmentations", str(given["name"]))
        known = [*keyword_schema(module.augmentation).model_fields, *cls.model_fields]
        for key in options.keys() - set(known):
            raise ValueError(f"unknown key 'augment.{key}'{registry.suggestion(key, known)}; keys here: {', '.join(known)}")
        return {"probability": module.PROBABILITY, **own, **checked_keywords("augment", module.augmentation, options)}

    @classmethod
    def _default(cls, key: str) -> Any:
        return cls.model_fields[key].default

    @staticmethod
    def names() -> list[str]:
        """The augmentations there are."""
        return registry.choices("gan_core.augmentations")

    @model_validator(mode="after")
    def _all_have_an_effect(self) -> "AugmentConfig":
        unused = [key for key in ("target", "full_kimg") if getattr(self, key) != self._default(key)]
        if unused and self.probability is not None:
            raise ValueError(f"augment.{unused[0]} has no effect, because augment.probability is fixed; set that to null to adapt it")
        if self.probability == 0.0:
            raise ValueError("augment.probability: 0 augments nothing; set augment.name=null, or probability to null to adapt it from 0")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments for the augmentation."""
        return dict(self.model_extra or {})


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
